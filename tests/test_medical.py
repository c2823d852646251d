"""Medical models: the corpus, CheXpert's labels, and a model of BiomedCLIP's shape."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tiny_hugging_face import tiny_tokenizer

import tanl
from tanl.labels.corpus import Corpus
from tanl.labels.presets import CHEST_XRAY_TEMPLATES, CHEXPERT

CONTEXT = 64
WORDS = [
    "pneumonia",
    "lobar pneumonia",
    "fracture",
    "break",
    "oedema",
    "femur",
    "scalpel",
    "penicillin",
    "pizza",
]


@pytest.fixture(scope="module")
def biomedclip(tmp_path_factory: pytest.TempPathFactory) -> tanl.Backbone:
    """A vision transformer of timm and a BERT with an MLP at its end, as in BiomedCLIP's configuration."""
    folder = tmp_path_factory.mktemp("biomedclip")
    transformers.BertConfig(
        vocab_size=90,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
    ).save_pretrained(folder / "bert")
    settings = {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 32,
        },
        "text_cfg": {
            "hf_model_name": str(folder / "bert"),
            "hf_tokenizer_name": "of/the-hub",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": CONTEXT,
        },
    }
    about = {"model_cfg": settings, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [32, 32]}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    own = json.loads(json.dumps(settings))
    own["text_cfg"]["hf_model_pretrained"] = False
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**own)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tiny_tokenizer(CONTEXT).save_pretrained(folder)
    return tanl.load_backbone(f"local-dir:{folder}")


def build(
    backbone: tanl.Backbone, labels: list[str] | tuple[str, ...], folder: Path, **options
) -> tanl.LabelBank:
    return tanl.build_bank(backbone, labels, cache_dir=folder, **{"corpus": WORDS, **options})


def test_a_guard_with_chexperts_labels_and_medical_words(biomedclip, tmp_path):
    guard = tanl.Guard(
        biomedclip,
        CHEXPERT,
        corpus="wordnet-medical",
        templates=CHEST_XRAY_TEMPLATES,
        cache_dir=tmp_path,
    )
    assert guard.bank.id_names == CHEXPERT
    negatives = set(guard.bank.negative_names)
    assert {"femur", "scalpel", "lung cancer", "penicillin", "pulmonary"} <= negatives
    claimed = {
        "pneumonia",
        "pneumothorax",
        "fracture",
        "break",
        "atelectasis",
        "edema",
        "oedema",
        "cardiomegaly",
    }
    assert claimed <= set(Corpus.load("wordnet-medical"))
    assert claimed.isdisjoint(negatives)
    assert {"lobar pneumonia", "pacemaker"} <= negatives  # kinds of an observation are no synonyms of it
    detection = guard([Image.new("RGB", (40, 30), colour) for colour in ("black", "grey", "red")])
    assert detection.ood_score.shape == (3,)
    assert bool(detection.ood_score.isfinite().all())
    assert set(detection.label) <= set(CHEXPERT)


def test_id_labels_have_a_prompt_of_their_own(biomedclip, tmp_path):
    bank = build(biomedclip, ["Edema", "Lung Lesion"], tmp_path, templates=CHEST_XRAY_TEMPLATES)
    prompts = [
        "a chest X-ray showing Edema.",
        "a chest X-ray showing Lung Lesion.",
        "a medical image of femur.",
    ]
    expected = biomedclip.encode_texts(prompts)
    torch.testing.assert_close(bank.id_embeddings, expected[:2])
    torch.testing.assert_close(bank.negative_embeddings[bank.negative_names.index("femur")], expected[2])


@pytest.mark.parametrize(
    ("templates", "prompt"),
    [
        (None, "The nice Edema."),
        ({"noun": "a {}"}, "a Edema"),
        ({"id": "film: {}"}, "film: Edema"),
        ({"id": "film: {}", "noun": "a {}"}, "film: Edema"),
        ({"id": "{a} {}"}, "{a} Edema"),
    ],
)
def test_prompt_of_id_labels_is_the_nouns_unless_it_is_given(biomedclip, tmp_path, templates, prompt):
    bank = build(biomedclip, ["Edema"], tmp_path, corpus=None, templates=templates)
    torch.testing.assert_close(bank.embeddings, biomedclip.encode_texts([prompt]))


def test_another_prompt_for_id_labels_leaves_the_corpus_in_the_cache(biomedclip, tmp_path):
    build(biomedclip, ["Edema"], tmp_path)
    build(biomedclip, ["Edema"], tmp_path, templates={"id": "film: {}"})
    assert len(list((tmp_path / "text").iterdir())) == 1


@pytest.mark.parametrize("template", ["a film", "{} and {}", 3])
def test_prompts_of_id_labels_that_lose_them_are_refused(biomedclip, tmp_path, template):
    with pytest.raises(ValueError, match=r"template for 'id' must hold \{\} once"):
        build(biomedclip, ["Edema"], tmp_path, templates={"id": template})


def test_words_that_the_tokenizer_does_not_know_are_the_same_to_it(biomedclip, tmp_path):
    assert build(biomedclip, ["猫", "cat"], tmp_path).num_id == 2
    with pytest.raises(ValueError, match="cannot tell the ID labels '猫' and '犬' apart"):
        build(biomedclip, ["猫", "cat", "犬"], tmp_path)


def test_chexperts_observations_are_those_of_its_label_files():
    assert len(set(CHEXPERT)) == 14
    assert CHEXPERT[0] == "No Finding"
    assert CHEXPERT[-1] == "Support Devices"
    assert set(CHEST_XRAY_TEMPLATES) == {"id", "noun", "adj"}
