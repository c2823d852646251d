"""Head Entropy: closed forms, three families of models against their own attention, memory, the probe."""

import numpy as np
import pytest
import torch
from torch import nn

from tanl.beyond.head_entropy import HeadEntropyProbe, head_entropy, rows_between, rows_of_token, trust

transformers = pytest.importorskip("transformers")
sklearn_metrics = pytest.importorskip("sklearn.metrics")
WORDS = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
IMAGE = 90


def tiny(family: str, attention: str = "eager") -> nn.Module:
    torch.manual_seed(0)
    t = transformers
    if family == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(**WORDS, attn_implementation=attention))
    elif family == "llava":
        tower = t.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
        config = t.LlavaConfig(
            vision_config=tower,
            text_config=t.LlamaConfig(**WORDS),
            image_token_index=IMAGE,
            vision_feature_select_strategy="full",
        )
        config._attn_implementation = attention
        model = t.LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    else:
        text = {
            **WORDS,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        }
        vision = {
            "depth": 2,
            "embed_dim": 16,
            "num_heads": 2,
            "hidden_size": 32,
            "patch_size": 8,
            "mlp_ratio": 2,
        }
        config = t.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE)
        model = t.Qwen2VLForConditionalGeneration._from_config(config, attn_implementation=attention)
    return model.eval()


def inputs(family: str, length: int = 17, batch: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 80, (batch, length), generator=torch.Generator().manual_seed(1))
    found = {"attention_mask": torch.ones_like(ids)}
    if family == "llava":
        ids[:, 2:7] = IMAGE  # (32 / 16)^2 patches and the class token
        found["pixel_values"] = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, **found}


@pytest.mark.parametrize("family", ["llama", "qwen2_vl", "llava"])
def test_features_are_those_of_the_model_s_own_attention(family):
    model, given = tiny(family), inputs(family)
    rows = rows_between(17, [9, 10, 3], [17, 12, 17])
    found = head_entropy(model, rows, **given)
    assert found.shape == (3, 3, 4)
    with torch.inference_mode():
        attentions = model(**given, output_attentions=True).attentions
    expected = torch.stack(
        [
            torch.stack(
                [
                    (1 - each[b, :, rows[b]].double() ** 2 @ torch.ones(17).double()).mean(dim=1)
                    for b in range(3)
                ]
            )
            for each in attentions
        ],
        dim=1,
    )
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_padding_on_either_side_changes_nothing():
    model, given = tiny("llama"), inputs("llama", length=9, batch=1)
    alone = head_entropy(model, rows_between(9, [4], [9]), **given)
    ids, mask = given["input_ids"], given["attention_mask"]
    pad = torch.zeros(1, 4, dtype=torch.int64)
    right = head_entropy(
        model,
        rows_between(13, [4], [9]),
        input_ids=torch.cat([ids, pad], 1),
        attention_mask=torch.cat([mask, pad], 1),
    )
    torch.testing.assert_close(right, alone, atol=1e-6, rtol=0)
    left = head_entropy(
        model,
        rows_between(13, [8], [13]),
        input_ids=torch.cat([pad, ids], 1),
        attention_mask=torch.cat([pad, mask], 1),
        position_ids=torch.cat([pad, torch.arange(9)[None]], 1),
    )
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=0)


class Layer(nn.Module):
    """Gives the attention that it was made with."""

    def __init__(self, attention, number):
        super().__init__()
        self.attention, self.layer_idx = attention, number

    def forward(self):
        return None, self.attention


Layer.__name__ = "FixedAttention"


class Model(nn.Module):
    def __init__(self, *attentions):
        super().__init__()
        self.layers = nn.ModuleList(Layer(each, number) for number, each in enumerate(attentions))

    def forward(self, use_cache):
        return [layer()[1] for layer in self.layers]


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_closed_forms(k):
    """One place: 0; k places alike: 1 - 1 / k."""
    attention = torch.zeros(1, 2, 64, 64)
    attention[:, 0, :, 5] = 1
    attention[:, 1, :, :k] = 1 / k
    found = head_entropy(Model(attention), torch.ones(1, 64, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1 - 1 / k]]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(trust(found), torch.tensor([-(1 - 1 / k) / 2]), atol=1e-6, rtol=0)


def test_no_layer_s_attention_outlives_it():
    """What the layers after it get holds no attention, so that one layer's is the most that is held."""
    seen = Model(torch.ones(1, 2, 8, 8) / 8, torch.ones(1, 2, 8, 8) / 8)
    got = []
    seen.register_forward_hook(lambda module, inputs, output: got.extend(output))
    head_entropy(seen, torch.ones(1, 8, dtype=torch.bool))
    assert got == [None, None]


def test_hooks_go_whatever_happens():
    model = tiny("llama")
    with pytest.raises(ValueError, match="rows is"):
        head_entropy(model, torch.ones(3, 5, dtype=torch.bool), **inputs("llama"))
    assert not any(module._forward_hooks for module in model.modules())
    head_entropy(model, torch.ones(3, 17, dtype=torch.bool), **inputs("llama"))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_attention_says_how_to_load_it():
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        head_entropy(tiny("llama", "sdpa"), torch.ones(3, 17, dtype=torch.bool), **inputs("llama"))
    with pytest.raises(ValueError, match="Linear has no attention layer"):
        head_entropy(nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.bool))


def test_rows_that_choose_nothing_are_refused():
    with pytest.raises(ValueError, match="no position of sequence 1"):
        head_entropy(Model(), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="rows must be bools"):
        head_entropy(Model(), torch.ones(1, 2))
    with pytest.raises(ValueError, match="sequence 1: positions 3 to 3"):
        rows_between(5, [0, 3], [5, 3])


def test_rows_of_the_image():
    ids = inputs("llava")["input_ids"]
    rows = rows_of_token(ids, IMAGE)
    assert rows.sum().item() == 15
    assert head_entropy(tiny("llava"), rows, **inputs("llava")).shape == (3, 3, 4)


def planted(n, seed, shift=0.0):
    """Answers that are wrong have two spread-out heads of 24; the others say nothing."""
    generator = np.random.default_rng(seed)
    entropy = generator.uniform(0.3, 0.6, size=(n, 4, 6)) + shift
    right = generator.random(n) < 0.5
    entropy[~right, 1, 2] += 0.2
    entropy[~right, 3, 0] += 0.15
    return torch.from_numpy(entropy).float(), right


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_a_planted_signal_is_found_in_and_out_of_domain(shift):
    probe = HeadEntropyProbe(strength=0.1).fit(*planted(400, seed=0))
    entropy, right = planted(400, seed=1, shift=shift)
    assert sklearn_metrics.roc_auc_score(right, probe.predict(entropy)) > 0.9
    weights = np.abs(probe.weights)
    assert {*weights.argsort()[-2:].tolist()} == {1 * 6 + 2, 3 * 6}
    assert (weights == 0).sum() >= 12  # sparse
    assert sklearn_metrics.roc_auc_score(right, trust(entropy).numpy()) > 0.6  # without training


def test_the_probe_wants_both_kinds():
    entropy, right = planted(20, seed=0)
    with pytest.raises(ValueError, match="of one kind"):
        HeadEntropyProbe().fit(entropy, np.ones(20, dtype=bool))
    with pytest.raises(ValueError, match="is_right must be 20 bools"):
        HeadEntropyProbe().fit(entropy, right[:5])
    with pytest.raises(RuntimeError, match="fit the probe first"):
        HeadEntropyProbe().predict(entropy)
