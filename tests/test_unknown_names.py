"""Names that do not exist: the message says which one was likely meant. And what objects say of themselves."""

import pytest
import torch

import tanl
from tanl.benchmarks.data.splits import find_split
from tanl.benchmarks.engine.methods import find_methods
from tanl.cli.main import command_parser, main
from tanl.detectors.registry import METHODS, known_method, settings_told
from tanl.io.text import did_you_mean, nearest_names


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("negalbel", "neglabel"),
        ("NegLabel", "neglabel"),
        ("max-logit", "max_logit"),
        ("TANL paper", "tanl-paper"),
        ("energi", "energy"),
    ],
)
def test_the_nearest_name_is_suggested_whatever_its_case_and_punctuation(unknown, meant):
    assert did_you_mean(unknown, METHODS) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize("unknown", ["", "---", "something else", "x"])
def test_nothing_is_suggested_where_nothing_is_alike(unknown):
    assert did_you_mean(unknown, METHODS) == ""
    assert did_you_mean(unknown, []) == ""


def test_nearest_names_are_in_order_and_as_many_as_are_asked_for():
    assert nearest_names("ViT-B-99", ["RN50", "ViT-L-14", "ViT-B-16"], 2, likeness=0) == [
        "ViT-B-16",
        "ViT-L-14",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("miny", "mini"),
        ("vit-b-16/openai", "ViT-B-16/openai"),
        ("ViT-B/16", "ViT-B-16/openai"),
        ("ViT-B-16/opnai", "ViT-B-16/openai"),
        ("ViT-L/14@336px", "ViT-L-14-336/openai"),
    ],
)
def test_an_unknown_backbone_is_told_with_the_likely_one_and_few_others(name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'") as caught:
        tanl.load_backbone(name)
    assert len(str(caught.value)) < 700


def test_unknown_methods_splits_presets_corpora_and_precisions_are_told_with_the_likely_one(
    tiny_backbone, bank
):
    refused = {
        "neglabel": lambda: tanl.Guard(tiny_backbone, ["cat"], corpus=["x"], method="neglabl"),
        "openood-imagenet-1k": lambda: find_split("openood-imagenet1k"),
        "practice": lambda: tanl.TANL.preset("practise"),
        "wordnet-medical": lambda: tanl.Corpus.load("wordnet_medicl"),
        "fp16": lambda: tanl.load_backbone("mini", precision="f16"),
        "AdaNeg": lambda: find_methods(["MCM", "adaneq"]),
    }
    for meant, call in refused.items():
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            call()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("TANL (official-script)", "tanl-official-script"),
        ("NegLabel", "neglabel"),
        ("max-logit", "max_logit"),
    ],
)
def test_methods_are_known_whatever_their_case_and_punctuation(name, known, tiny_backbone, tmp_path):
    assert known_method(name) == known
    assert command_parser(("judge",)).parse_args(["judge", "a", "--method", name]).method == known
    words = ["a", "b", "c", "d", "e"]
    made = [
        tanl.Guard(tiny_backbone, ["cat", "dog"], corpus=words, method=each, cache_dir=tmp_path).detector
        for each in (name, known)
    ]
    assert settings_told(made[0]) == settings_told(made[1])
    assert find_methods([name]) == find_methods([known])


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("jugde a", "judge"),
        ("judge a --label b --method negalbel", "neglabel"),
        ("judge a --lables x", "--labels"),
        ("judge a --label b --outt=x", "--out"),
        ("judge a --label b --traceback --corpos x", "--corpus"),
        ("bench rnu", "run"),
        ("bench --idd x", "--id"),
        ("bench run --split openood-imagnet", "openood-imagenet-1k"),
    ],
)
def test_the_command_line_suggests_commands_options_and_choices(line, meant, capsys):
    try:
        code = main(line.split())
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"did you mean {meant!r}?" in err


def test_an_argument_that_is_like_nothing_is_named_alone(capsys):
    with pytest.raises(SystemExit):
        main(["judge", "a", "--label", "b", "--qqqqqqqq"])
    assert capsys.readouterr().err == (
        "tanl judge: error: unrecognized arguments: --qqqqqqqq (see tanl judge --help)\n"
    )


def encode(inputs):
    return torch.ones(len(inputs), 4)


def test_backbones_say_what_they_are(tiny_backbone):
    assert repr(tanl.load_backbone("mini")) == "ClipBackbone('mini', CustomTextCLIP, cpu)"
    callables = tanl.CallableBackbone(encode, encode, torch.as_tensor, name="mine")
    assert repr(callables) == "CallableBackbone('mine', encode, encode, cpu)"
    assert " at 0x" not in repr(tiny_backbone)


def test_a_dual_encoder_of_transformers_says_what_it_is():
    pytest.importorskip("transformers")
    from tiny_hugging_face import tiny_image_processor, tiny_model, tiny_tokenizer

    backbone = tanl.HuggingFaceBackbone(tiny_model("clip"), tiny_image_processor("clip"), tiny_tokenizer(40))
    assert repr(backbone) == "HuggingFaceBackbone('wrapped', CLIPModel, cpu)"
