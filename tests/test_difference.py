"""`describe_difference`: planted differences are found, on images that the proposer did not see."""

import numpy as np
import pytest
import torch
from colour_backbone import COLOURS, ColourBackbone, paint
from PIL import Image
from scipy.stats import false_discovery_control, ttest_ind
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from conftest import unit
from tanl.beyond import difference
from tanl.beyond.difference import VIEWS, describe_difference, embed_views, find_differences, words_of_texts
from tanl.io.images import UnreadableImage
from tanl.labels.corpus import Corpus

WORDS = [f"word {i}" for i in range(200)]
EMBEDDINGS = unit(200, 24, seed=1)
TABLE = dict(zip(WORDS, EMBEDDINGS, strict=True))


def embed(texts):
    """A text with two words lies between them."""
    rows = [torch.stack([TABLE[part] for part in text.split(" with ")]).mean(dim=0) for text in texts]
    return normalize(torch.stack(rows), dim=1)


def group(words, n, seed, views=1, noise=0.9):
    """Images near all of the words given, in every view."""
    centre = sum(TABLE[word] for word in words) if words else torch.zeros(24)
    return normalize(centre + noise * unit(n * views, 24, seed=seed), dim=1).unflatten(0, (n, views))


def found_in(a, b, **options):
    return find_differences(
        (WORDS, EMBEDDINGS),
        embed,
        [a[: len(a) // 2], b[: len(b) // 2]],
        [a[len(a) // 2 :], b[len(b) // 2 :]],
        **options,
    )


@pytest.mark.parametrize("seed", range(8))
def test_a_planted_word_is_the_first(seed):
    word = WORDS[17 * seed + 3]
    a, b = group([word], 40, seed=seed), group([], 40, seed=seed + 100)
    first, *_ = found_in(a, b, rounds=1)
    assert first.text == word and first.auroc > 0.9 and first.p_value < 1e-4 and first.gap > 0.2
    assert (first.view, first.round) == ("whole", 1)


@pytest.mark.parametrize("seed", range(4))
def test_two_words_together_are_found_in_a_second_round(seed):
    words = sorted([WORDS[5 + seed], WORDS[90 + seed]])
    a, b = group(words, 200, seed=seed, noise=4), group([], 200, seed=seed + 100)
    (one_round,), (two_rounds,) = (found_in(a, b, rounds=rounds, top=1) for rounds in (1, 2))
    assert sorted(two_rounds.text.split(" with ")) == words
    assert two_rounds.auroc > one_round.auroc and two_rounds.round == 2


def test_groups_that_do_not_differ_have_no_small_p():
    differences = found_in(group([WORDS[0]], 40, seed=1), group([WORDS[0]], 40, seed=2))
    assert all(each.p_value > 0.05 for each in differences)


def test_figures_are_those_of_the_held_out_half():
    a, b = group([WORDS[0]], 40, seed=1), group([], 50, seed=2)
    ranked = found_in(a, b, rounds=1, top=1000)
    cosines = [(half[:, 0] @ EMBEDDINGS.T).double().numpy() for half in (a[20:], b[25:])]
    raw = {
        word: ttest_ind(cosines[0][:, i], cosines[1][:, i], equal_var=False, alternative="greater").pvalue
        for i, word in enumerate(WORDS)
    }
    assert len(ranked) == 100
    corrected = dict(
        zip(
            [each.text for each in ranked],
            false_discovery_control([raw[each.text] for each in ranked]),
            strict=True,
        )
    )
    for each in ranked:
        i = WORDS.index(each.text)
        is_a = np.arange(45) < 20
        assert each.auroc == pytest.approx(
            roc_auc_score(is_a, np.concatenate([cosines[0][:, i], cosines[1][:, i]])), abs=1e-6
        )
        assert each.p_value == pytest.approx(corrected[each.text], rel=1e-3)
        assert each.gap == pytest.approx(cosines[0][:, i].mean() - cosines[1][:, i].mean(), abs=1e-6)


def test_the_view_that_shows_it_is_kept():
    a, b = group([], 40, seed=1, views=6), group([], 40, seed=2, views=6)
    a[:, 3] = group([WORDS[7]], 40, seed=3)[:, 0]
    first, *_ = found_in(a, b, rounds=1)
    assert (first.text, first.view) == (WORDS[7], VIEWS[3])


def test_hypotheses_of_one_s_own_are_ranked_beside_the_corpus():
    TABLE["mine"] = normalize(EMBEDDINGS[3] + EMBEDDINGS[4], dim=0)
    a = normalize(TABLE["mine"] + 0.6 * unit(40, 24, seed=5), dim=1)[:, None]
    first, *_ = found_in(a, group([], 40, seed=6), own=["mine"], rounds=1)
    assert first.text == "mine"


def test_words_of_the_vocabulary_keep_their_own_embeddings():
    """The prompt of a word's part of speech is in them; only other texts are embedded anew."""
    asked = []

    def embed_others(texts):
        asked.extend(texts)
        return embed(texts)

    a, b = group([WORDS[0]], 40, seed=1), group([], 40, seed=2)
    vocabulary = (WORDS, EMBEDDINGS)
    find_differences(vocabulary, embed_others, [a[:20], b[:20]], [a[20:], b[20:]], rounds=2)
    assert asked and all(" with " in text for text in asked)


def test_what_says_the_same_comes_once():
    TABLE["twin"] = normalize(EMBEDDINGS[3] + 0.1 * EMBEDDINGS[9], dim=0)
    differences = found_in(
        group([WORDS[3]], 40, seed=5), group([], 40, seed=6), own=["twin"], rounds=1, top=50
    )
    assert sum(each.text in ("twin", WORDS[3]) for each in differences) == 1


def test_words_that_more_texts_hold():
    corpus = Corpus.load(["heart", "Pleural effusion", "lung", "left", "X-ray"])
    a = ["Large pleural effusion, left.", "pleural effusion; heart normal", "X-ray of the lung"]
    b = ["heart normal", "lung clear", "heart and lung normal"]
    assert words_of_texts(corpus, a, b) == ["Pleural effusion", "left", "X-ray"]
    assert words_of_texts(corpus, ["Both hearts", "pleural effusions"], ["none"]) == [
        "heart",
        "Pleural effusion",
    ]
    with pytest.raises(ValueError, match="0 and 1 texts"):
        words_of_texts(corpus, [], ["a"])


@pytest.fixture
def pictures(tmp_path):
    names = list(COLOURS)
    return {name: [paint(tmp_path / f"{name}-{i}.png", name) for i in range(8)] for name in names[:3]}


def test_images_go_in_and_words_come_out(pictures, tmp_path):
    first, second, _ = pictures
    corpus = Corpus.load([*COLOURS])
    asked = []

    def propose(a, b):
        asked.append((len(a), len(b)))
        return ["a hypothesis"]

    found = describe_difference(
        ColourBackbone(),
        pictures[first],
        pictures[second],
        corpus,
        propose=propose,
        cache_dir=tmp_path,
        zoom=True,
        rounds=1,
        top=3,
    )
    assert found[0].text == first and found[0].auroc == 1
    assert asked == [(4, 4)]


@pytest.mark.parametrize("show_all", [False, True])
def test_words_that_hurt_are_proposed_only_where_asked_for(pictures, tmp_path, monkeypatch, show_all):
    first, second, _ = pictures
    monkeypatch.setattr(difference, "hidden_in", lambda corpus: frozenset({first}))
    options = {"corpus": Corpus.load([*COLOURS]), "cache_dir": tmp_path, "rounds": 1, "show_all": show_all}
    found = describe_difference(ColourBackbone(), pictures[first], pictures[second], **options)
    assert (first in [each.text for each in found]) == show_all
    texts = ([f"a {first} thing"], ["a thing"])
    found = describe_difference(ColourBackbone(), pictures[first], pictures[second], texts=texts, **options)
    assert found[0].text == first


def test_a_file_that_holds_no_image_is_raised_or_left_out_and_told(pictures, tmp_path):
    first, second, _ = pictures
    (tmp_path / "broken.png").write_text("no image")
    a, b = [*pictures[first][:4], tmp_path / "broken.png"], pictures[second]
    options = {"corpus": Corpus.load([*COLOURS]), "cache_dir": tmp_path, "rounds": 1, "top": 1}
    with pytest.raises(UnreadableImage, match="broken"):
        describe_difference(ColourBackbone(), a, b, **options)
    told = []
    (found,) = describe_difference(ColourBackbone(), a, b, unreadable=told.append, **options)
    assert [each.path.name for each in told] == ["broken.png"] and found.text == first
    with pytest.raises(ValueError, match="group a has 3 images that can be read; 4 or more"):
        describe_difference(ColourBackbone(), a[1:], b, unreadable=told.append, **options)
    with pytest.raises(ValueError, match="group a has 0 images that can be read"):
        describe_difference(ColourBackbone(), a[4:] * 4, b, unreadable=told.append, **options)


def test_crops_are_where_they_are_said_to_be():
    image = Image.new("RGB", (100, 50), "black")
    image.paste("white", (0, 0, 60, 30))

    class Brightness:
        device = torch.device("cpu")

        def preprocess(self, image):
            return (
                torch.from_numpy(np.asarray(image.resize((1, 1), Image.Resampling.BOX)).copy())
                .float()
                .permute(2, 0, 1)
            )

        def encode_images(self, pixels):
            return pixels[:, :, 0, 0]

    z = embed_views(Brightness(), [image, image], zoom=True)
    assert z.shape == (2, 6, 3)
    assert z[1, :, 0].argmax().item() == VIEWS.index("top left") and z[1, 1, 0] == 255
    assert z[1, VIEWS.index("bottom right"), 0] == z[1, :, 0].min()
    assert embed_views(Brightness(), [image], zoom=False).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 3}, "group a has 3 images; give 4 or more"),
        ({"b": 0}, "group b has 0 images"),
        ({"rounds": 0}, "rounds"),
        ({"top": True}, "top"),
    ],
)
def test_too_little_is_refused_before_anything_is_computed(pictures, change, message):
    first, second, _ = pictures
    a, b = pictures[first][: change.pop("a", 8)], pictures[second][: change.pop("b", 8)]
    with pytest.raises((ValueError, TypeError), match=message):
        describe_difference(None, a, b, Corpus.load(["x"]), **change)


def test_a_hypothesis_that_is_no_text_is_refused(pictures, tmp_path):
    first, second, _ = pictures
    with pytest.raises(ValueError, match="a hypothesis is ' '"):
        describe_difference(
            ColourBackbone(),
            pictures[first],
            pictures[second],
            Corpus.load([*COLOURS]),
            propose=lambda a, b: [" "],
            cache_dir=tmp_path,
        )
