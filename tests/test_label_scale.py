"""The study of very many labels: its labels, its exact sums, its rule, its tables, and what it keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from test_approximate import structured

import tanl
from tools.label_scale import jobs
from tools.label_scale.command import Config, Line, Memory, Tried, chosen, format_table
from tools.label_scale.exact import ExactOver, OverIndex
from tools.label_scale.jobs import Job, Outcome, Settings, Stream, naming, run_job
from tools.label_scale.pairs import PairEncoder


def test_pairs_are_embedded_as_any_text() -> None:
    backbone = tanl.load_backbone("mini")
    adjectives, nouns = ("big", "red"), ("cat", "house", "tree")
    encoder = PairEncoder(backbone, adjectives, nouns)  # type: ignore[arg-type]
    for number, adjective in enumerate(adjectives):
        found = encoder(number, torch.tensor([2, 0]))
        expected = backbone.encode_texts([f"The nice {adjective} tree.", f"The nice {adjective} cat."])
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("gone", [0, 700])
def test_exact_sums_in_chunks_are_the_librarys(gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.label_scale.exact._AT_ONCE", 1000)
    bank, id_images, outliers = structured(3003)
    names = bank.negative_names[:gone]
    kept = [*range(50), *range(50 + gone, 3003)]
    less = tanl.LabelBank(
        [bank.names[i] for i in kept], bank.embeddings[kept], num_id=50, logit_scale=bank.logit_scale
    )
    ids = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=50, logit_scale=bank.logit_scale)
    index = tanl.LabelIndex.of(bank, kind="flat")
    index = index.without(names) if gone else index
    settings = {"num_selected": 100, "initial_ood": outliers[:9], "capacity": 40}
    chunked = tanl.TANL(OverIndex(ids, index), activation=ExactOver(ids, index), **settings)
    exact = tanl.TANL(less, **settings)
    for part in torch.cat([id_images, outliers]).split(31):
        torch.testing.assert_close(chunked(part), exact(part), atol=2e-6, rtol=1e-4)
        assert set(chunked.negatives()[0]) == set(exact.negatives()[0])


def test_the_settings_are_chosen_by_the_rule() -> None:
    def tried(candidates: int, probe: float, overlap: float) -> Tried:
        return Tried(Settings(16, candidates, 100, probe), overlap, 1.0)

    some = [tried(1024, 0.05, 0.9), tried(1024, 0.25, 0.96), tried(4096, 0.05, 0.97), tried(4096, 0.25, 0.99)]
    assert chosen(some, 0.95) == some[2].settings
    assert chosen(some, 0.9) == some[0].settings
    assert chosen([*some[:1], tried(99, 0.1, 0.91)], 0.95) == Settings(16, 99, 100, 0.1)


def test_what_names_an_id_label_is_left_out_of_words_and_pairs() -> None:
    words = tanl.Corpus.load("wordnet").words
    names = (*words, "red cat", "dogged cat (pair)", "big house")
    gone = set(naming(names, ("cat", "big")))
    assert {"cat", "big", "red cat", "dogged cat (pair)", "big house"} <= gone
    assert "wildcat" not in gone
    assert "house" not in gone


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="choosing is 999364, but labels go up to 70000"):
        Config(labels=(70_000,))


def test_what_a_job_gave_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Job] = []
    stream = Stream("food", "faces", 0.9, 0.25, 3, [["a", "b"], ["b"]], [0.5])
    outcome = Outcome([stream], 2.5, 7, 9, 8)

    def carried_out(job: Job) -> list[Outcome]:
        done.append(job)
        return [outcome]

    monkeypatch.setattr(jobs, "_carried_out", carried_out)
    job = Job(tmp_path, tmp_path / "labels", 99, (("food", "faces"),), (None,), 8, 0)
    assert run_job(job) == run_job(job) == [outcome]
    assert len(done) == 1
    assert run_job(job, anew=True) == [outcome]
    assert len(done) == 2


def test_the_tables_have_every_stream_and_mark_what_was_chosen() -> None:
    settings = Settings(16, 1024, 100, 0.1)
    line = Line(999, "short list", "food", "faces", 990, 0.91234, 0.25, 0.97, 0.5)
    exact = Line(999, "exact", "food", "faces", 990, 0.92, 0.26, 1.0, 2.0)
    held = Memory(999, "short list", 1.0, 2_000_000, 3_000_000, 4_000_000)
    table = format_table(
        {
            "lines": [asdict(exact), asdict(line)],
            "memory": [asdict(held)],
            "tried": [asdict(Tried(settings, 0.96, 0.4))],
            "chosen": asdict(settings),
            "fast": asdict(settings),
        }
    )
    assert "| 999 | exact | food | faces | 990 | 92.00 | 26.00 |  |" in table
    assert "| 999 | short list | food | faces | 990 | 91.23 | 25.00 | 97.0 |" in table
    assert "| 999 | short list | 91.23 | 25.00 | 97.0 / 97.0 | 0.500 | 2 | 4 | 3 |" in table
    assert "| **1024** | **0.1** | 96.0 | 0.400 |" in table
