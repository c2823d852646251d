"""The comparison of labels kept as float32 and as float16."""

import torch

import tanl
from conftest import unit
from tools.half_precision import _compare, format_table


def test_half_precision_is_compared_on_the_same_stream():
    embeddings = unit(300, 24)
    bank = tanl.LabelBank([str(i) for i in range(300)], embeddings, num_id=10, logit_scale=25.0)
    ids = torch.nn.functional.normalize(embeddings[:10].repeat(5, 1) + 0.5 * unit(50, 24, seed=1), dim=1)
    ood = torch.nn.functional.normalize(embeddings[10:41] + 0.5 * unit(31, 24, seed=2), dim=1)
    row = _compare("letters", "digits", bank, ids, ood, unit(15, 24, seed=3), seed=0, batch_size=16)
    assert row.images == 81
    assert 0 < row.mean <= row.largest < 0.1  # the labels were rounded, and not by much
    assert row.first_batch <= row.largest
    assert 0.9 < row.overlap <= 1
    table = format_table([row], bank)
    assert "letters / digits" in table
    assert f"{bank.embeddings.nbytes / 1e6:.0f} and {bank.embeddings.nbytes / 2e6:.0f} MB" in table
