"""Edits of a guard's labels and corpus: the bank of a build from scratch, with only what is new encoded."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from colour_backbone import ColourBackbone
from hypothesis import given, settings
from hypothesis import strategies as st
from states import assert_same_state, state_of

import tanl
from conftest import unit
from tanl.labels import corpus
from tanl.labels.build import label_prompts
from tanl.labels.corpus import claimed
from tanl.labels.vocabulary import Vocabulary

WORDS = [
    "granite",
    "violin",
    "puppy",
    "cloud",
    "domestic dog",
    "cat",
    "hound",
    "Felis catus",
    "red",
    "true cat",
]
TEMPLATES = {"noun": "one {}", "adj": "a {} one"}


class Counting(ColourBackbone):
    """Remembers the texts that it encodes; fails at one that holds ``fails_at``."""

    def __init__(self):
        self.encoded = []
        self.fails_at = None

    def encode_texts(self, texts, **options):
        if self.fails_at and any(self.fails_at in text for text in texts):
            raise RuntimeError(f"cannot encode {self.fails_at}")
        self.encoded += texts
        return super().encode_texts(texts, **options)


def make_guard(tmp_path, labels=("dog", "violin"), method="tanl", corpus=WORDS, **options):
    if method == "tanl":
        method = tanl_method
    return tanl.Guard(
        Counting(),
        list(labels),
        corpus=corpus,
        method=method,
        cache_dir=tmp_path,
        templates=TEMPLATES,
        **options,
    )


def tanl_method(bank):
    return tanl.TANL(bank, num_selected=4, capacity=12, initial_ood=unit(15, bank.dim, seed=9))


def from_scratch(guard):
    return tanl.build_bank(
        ColourBackbone(),
        guard.bank.id_names,
        corpus=guard.corpus,
        templates=TEMPLATES,
        dtype=guard.bank.dtype,
    )


def prompts(guard):
    vocabulary = guard._vocabulary
    return label_prompts(vocabulary.id_names, vocabulary.negatives, TEMPLATES)


@pytest.fixture(autouse=True)
def cache_of_builds_from_scratch(monkeypatch, tmp_path):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "scratch"))


@pytest.fixture
def guard(tmp_path):
    return make_guard(tmp_path / "cache")


def fed(guard, batches=3):
    for i in range(batches):
        guard.detect_embeddings(unit(20, guard.bank.dim, seed=20 + i))
    return guard


def check(guard):
    whole = from_scratch(guard)
    assert guard.bank.names == whole.names
    assert torch.equal(guard.bank.embeddings, whole.embeddings)
    assert guard.bank.fingerprint == whole.fingerprint
    assert guard.detector.bank is guard.bank


# --- the property -------------------------------------------------------------------------------------------

LABELS = ["dog", "violin", "cat", "red", "granite", "hot dog", "gibbon"]
MORE = ["brick", "puppy", "frankfurter", "grey", "dog", "hound", "Cloud"]
EDITS = st.one_of(
    st.tuples(st.just("add_labels"), st.lists(st.sampled_from(LABELS), min_size=1, max_size=3)),
    st.tuples(st.just("remove_labels"), st.lists(st.sampled_from(LABELS), min_size=1, max_size=2)),
    st.tuples(st.just("add_negatives"), st.lists(st.sampled_from(MORE), min_size=1, max_size=3)),
    st.tuples(st.just("remove_negatives"), st.lists(st.sampled_from(WORDS + MORE), min_size=1, max_size=3)),
    st.tuples(st.just("stream"), st.just([])),
)


@settings(max_examples=60, deadline=None)
@given(edits=st.lists(EDITS, min_size=1, max_size=8))
def test_any_edits_give_the_bank_of_a_build_from_scratch(edits, tmp_path_factory):
    guard = make_guard(tmp_path_factory.mktemp("cache"))
    for i, (verb, words) in enumerate(edits):
        bank, detector, corpus = guard.bank, guard.detector, guard.corpus
        texts = set(prompts(guard))
        guard.backbone.encoded.clear()
        if verb == "stream":
            guard.detect_embeddings(unit(9, bank.dim, seed=i))
            continue
        state = state_of(detector)
        try:
            getattr(guard, verb)(words)
        except ValueError:
            assert guard.bank is bank
            assert guard.detector is detector
            assert guard.corpus is corpus
            assert guard.backbone.encoded == []
        else:
            check(guard)
            new = [prompt for prompt in prompts(guard) if prompt not in texts]
            assert guard.backbone.encoded == new
        assert_same_state(detector.state_dict(), state)


# --- one edit at a time -------------------------------------------------------------------------------------


def test_a_label_takes_its_synonyms_out_of_the_negatives_and_gives_them_back(guard):
    assert guard.bank.negative_names == (
        "granite",
        "puppy",
        "cloud",
        "cat",
        "Felis catus",
        "red",
        "true cat",
    )
    guard.backbone.encoded.clear()
    guard.add_labels(["cat"])
    assert guard.backbone.encoded == []  # the negative of that name had the same prompt
    assert guard.bank.id_names == ("dog", "violin", "cat")
    assert not {"cat", "true cat"} & set(guard.bank.negative_names)
    check(guard)
    guard.remove_labels(["cat", "violin"])
    assert guard.backbone.encoded == ["one true cat"]
    assert guard.bank.negative_names[:2] == ("granite", "violin")
    check(guard)


def test_a_new_label_is_the_one_text_that_is_encoded(guard):
    guard.backbone.encoded.clear()
    guard.add_labels(["gibbon"])
    guard.add_negatives(["sand", "Basalt"])
    assert guard.backbone.encoded == ["one gibbon", "one sand", "one Basalt"]
    check(guard)


def test_negatives_come_with_their_part_of_speech_and_go_whatever_their_case(guard):
    guard.backbone.encoded.clear()
    guard.add_negatives(tanl.Corpus(("rusty", "anvil"), ("adj", "noun")))
    assert guard.backbone.encoded == ["a rusty one", "one anvil"]
    check(guard)
    guard.remove_negatives(["RUSTY", "granite", "felis catus"])
    assert not {"rusty", "Felis catus"} & set(guard.bank.names)
    assert guard.corpus.words == (*(word for word in WORDS[1:] if word != "Felis catus"), "anvil")
    check(guard)
    guard.backbone.encoded.clear()
    guard.add_negatives(["rusty"])  # a noun this time
    assert guard.backbone.encoded == ["one rusty"]
    check(guard)


def test_no_cache_is_read_or_written_by_an_edit(guard, tmp_path):
    (file,) = (tmp_path / "cache" / "text").rglob("*.safetensors")
    file.write_bytes(b"damaged")
    guard.add_labels(["gibbon"])
    guard.remove_labels(["dog"])
    assert [path.read_bytes() for path in (tmp_path / "cache" / "text").rglob("*.*")] == [b"damaged"]


def test_an_edited_stream_goes_on(guard):
    fed(guard)
    rows = guard.detector.state.negative.embeddings
    assert len(rows) > 0
    guard.add_labels(["gibbon"])
    assert torch.equal(guard.detector.state.negative.embeddings, rows)
    assert guard.detector.state.images == 60
    detection = guard.detect_embeddings(guard.bank.id_embeddings)
    assert detection.label == ["dog", "violin", "gibbon"]


def test_an_edit_before_the_stream_gives_the_detector_of_a_build_from_scratch(guard):
    guard.add_labels(["gibbon"])
    guard.remove_negatives(["cloud"])
    fresh = tanl_method(from_scratch(guard))
    for i in range(3):
        z = unit(11, guard.bank.dim, seed=i)
        assert torch.equal(guard.detector(z), fresh(z))


@pytest.mark.parametrize("method", ["mcm", "max_logit", "energy"])
def test_methods_without_negatives_have_labels_to_edit_and_no_corpus(tmp_path, method):
    guard = make_guard(tmp_path, method=method)
    guard.add_labels(["gibbon"])
    guard.remove_labels(["dog"])
    check(guard)
    assert guard.corpus is None
    for edit in (guard.add_negatives, guard.remove_negatives):
        with pytest.raises(ValueError, match="no negatives to edit: the bank was built without a corpus"):
            edit(["granite"])


def test_negatives_are_mined_anew(tmp_path):
    guard = make_guard(tmp_path, method=lambda bank: tanl.NegLabel(bank, num_negatives=3, groups=1))
    guard.add_labels(["gibbon"])
    assert set(guard.detector._names) == set(guard.bank.mined(3).negative_names)


def test_a_threshold_stays(guard):
    guard.detector.calibrate(torch.linspace(0, 1, 30))
    threshold = guard.detector.threshold
    guard.add_labels(["gibbon"])
    assert guard.detector.threshold == threshold


def test_half_precision_and_its_bits_stay(tmp_path):
    own = Vocabulary(("dog",), tanl.Corpus.load(WORDS), None)
    bank = tanl.build_bank(
        ColourBackbone(), own.id_names, corpus=own.corpus, cache_dir=tmp_path, dtype=torch.float16
    )
    new = own.with_labels(["gibbon"]).without_negatives(["cloud"])
    whole = tanl.build_bank(
        ColourBackbone(), new.id_names, corpus=new.corpus, cache_dir=tmp_path, dtype=torch.float16
    )
    assert new.embedded(ColourBackbone(), own, bank).fingerprint == whole.fingerprint


def test_edits_in_threads_lose_none_and_encode_while_the_stream_goes_on(guard):
    fed(guard)
    encoding, judged, encode = threading.Event(), threading.Event(), guard.backbone.encode_texts

    def slow(texts, **options):
        encoding.set()
        assert judged.wait(30), "the stream waits for the edit"
        return encode(texts, **options)

    guard.backbone.encode_texts = slow
    edits = [(guard.add_labels, ["gibbon"]), (guard.add_labels, ["lynx"])]
    edits += [(guard.add_negatives, iter(["sand"])), (guard.remove_negatives, iter(["cloud"]))]
    with ThreadPoolExecutor(len(edits)) as pool:
        running = [pool.submit(edit, words) for edit, words in edits]
        assert encoding.wait(30)
        detection = guard.detect_embeddings(unit(5, guard.bank.dim, seed=1))
        judged.set()
        for each in running:
            each.result()
    assert len(detection.label) == 5
    assert set(guard.bank.id_names) == {"dog", "violin", "gibbon", "lynx"}
    assert "sand" in guard.corpus.words
    assert "cloud" not in guard.corpus.words
    check(guard)


def test_a_detector_set_while_texts_are_encoded_is_not_lost(guard):
    encode = guard.backbone.encode_texts

    def meanwhile(texts, **options):
        guard.detector = tanl_method(guard.bank.mined(3))
        return encode(texts, **options)

    guard.backbone.encode_texts = meanwhile
    bank = guard.bank
    with pytest.raises(ValueError, match=r"is not over guard\.bank"):
        guard.add_labels(["gibbon"])
    assert guard.bank is bank
    assert guard.detector.bank.num_negatives == 3


def test_a_row_that_is_not_of_unit_norm_is_refused(guard):
    encode = guard.backbone.encode_texts
    guard.backbone.encode_texts = lambda texts, **options: 2 * encode(texts, **options)
    bank = guard.bank
    with pytest.raises(ValueError, match="row 0 has norm 2"):
        guard.add_negatives(["sand"])
    assert guard.bank is bank


def test_only_new_words_are_looked_at(guard, monkeypatch):
    """An edit's cost does not grow with the words that stay: none is normalised or validated again."""
    seen = []
    normalise = corpus.normalise
    monkeypatch.setattr(corpus, "normalise", lambda word: seen.append(word) or normalise(word))
    monkeypatch.setattr(corpus.Corpus, "__post_init__", lambda self: seen.extend(self.words))
    for edit, words in [
        (guard.add_labels, ["gibbon"]),
        (guard.remove_labels, ["gibbon"]),
        (guard.add_negatives, ["sand"]),
        (guard.remove_negatives, ["sand"]),
    ]:
        edit(words)
    assert set(seen) <= {"dog", "violin", "gibbon", "sand"}


def test_a_label_takes_the_row_of_a_negative_with_its_prompt_whatever_the_part_of_speech(tmp_path):
    own = {"noun": "one {}", "adj": "a {} one", "id": "a {}"}
    before = Vocabulary(("dog",), tanl.Corpus(("rusty", "sand"), ("adj", "noun")), own)
    bank = tanl.build_bank(
        ColourBackbone(), before.id_names, corpus=before.corpus, templates=own, cache_dir=tmp_path
    )
    backbone = Counting()
    after = before.with_labels(["rusty one"])
    edited = after.embedded(backbone, before, bank)
    assert backbone.encoded == []
    assert torch.equal(edited.embeddings[1], bank.embeddings[1])


# --- refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "label is there": ("add_labels", ["gibbon", "dog"], ValueError, "'dog' is already among the ID labels"),
    "label twice": ("add_labels", ["gibbon", "gibbon"], ValueError, "occur more than once: 'gibbon'"),
    "empty label": ("add_labels", [" "], ValueError, "empty ID label"),
    "no labels": ("add_labels", [], ValueError, "no ID labels; give at least one"),
    "one string as labels": ("add_labels", "gibbon", TypeError, "not the one string 'gibbon'"),
    "label that is no string": ("add_labels", ["gibbon", 3], TypeError, "must be a string, not 3"),
    "unknown labels": (
        "remove_labels",
        ["dog", "cat", "gibbon"],
        ValueError,
        "'cat', 'gibbon' are not among the ID labels: 'dog', 'violin'",
    ),
    "all labels": ("remove_labels", ["violin", "dog"], ValueError, "all the ID labels; keep at least one"),
    "negative that is a label": ("add_negatives", ["sand", "dog"], ValueError, "'dog' is the ID label 'dog'"),
    "negative that is a synonym": (
        "add_negatives",
        ["sand", "Canis-familiaris"],
        ValueError,
        "'Canis-familiaris' is, or is a WordNet synonym of, the ID label 'dog'.*remove that label first",
    ),
    "negative that is there": ("add_negatives", ["Cloud"], ValueError, "'Cloud' is already in the corpus"),
    "one string as negatives": ("add_negatives", "wordnet", TypeError, "one string 'wordnet'; Corpus.load"),
    "no negatives": ("add_negatives", [], ValueError, "no negative labels; give at least one"),
    "negative that is no string": ("add_negatives", ["sand", None], TypeError, "a string, not None"),
    "negative with a tab": ("add_negatives", ["a\tb"], ValueError, "without tabs"),
    "unknown negatives": (
        "remove_negatives",
        ["granite", "sand"],
        ValueError,
        "'sand' is not among the 7 negatives",
    ),
    "negative that a label keeps away": (
        "remove_negatives",
        ["hound", "granite"],
        ValueError,
        "'hound' is, or is a WordNet synonym of, the ID label 'dog'",
    ),
    "all negatives": (
        "remove_negatives",
        ["granite", "puppy", "cloud", "cat", "felis catus", "red", "true cat"],
        ValueError,
        "these are all 7 negatives; keep at least one",
    ),
    "one string to remove": ("remove_negatives", "cloud", TypeError, "not the one string 'cloud'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_edits_change_nothing(guard, case):
    fed(guard)
    verb, words, kind, message = REFUSED[case]
    bank, detector, corpus = guard.bank, guard.detector, guard.corpus
    state = state_of(detector)
    guard.backbone.encoded.clear()
    with pytest.raises(kind, match=message):
        getattr(guard, verb)(words)
    assert guard.bank is bank
    assert guard.detector is detector
    assert guard.corpus is corpus
    assert_same_state(detector.state_dict(), state)
    assert guard.backbone.encoded == []


def test_labels_that_claim_every_negative_are_refused(tmp_path):
    guard = make_guard(tmp_path, labels=["dog"], corpus=["granite", "hound"])
    with pytest.raises(ValueError, match="every word of the corpus 'custom' is a label or a synonym"):
        guard.add_labels(["granite"])
    assert guard.bank.id_names == ("dog",)


def test_an_edit_that_fails_half_way_changes_nothing(guard, monkeypatch):
    fed(guard)

    def unchanged():
        return guard.bank is bank and guard.detector is detector and guard.corpus is corpus

    bank, detector, corpus = guard.bank, guard.detector, guard.corpus
    guard.backbone.fails_at = "gibbon"
    for edit in (guard.add_labels, guard.add_negatives):
        with pytest.raises(RuntimeError, match="cannot encode gibbon"):
            edit(["gibbon"])
        assert unchanged()
    guard.backbone.fails_at = None
    monkeypatch.setattr(tanl.TANL, "relabelled", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        guard.add_labels(["gibbon"])
    assert unchanged()
    monkeypatch.undo()
    guard.add_labels(["gibbon"])
    check(guard)


def no_activation(rows, segments, known):
    return torch.zeros(len(segments), 7), torch.zeros(len(rows) - len(known))


def test_methods_that_cannot_follow_refuse_the_edit(tmp_path):
    one = make_guard(tmp_path, method="mcm")
    with pytest.raises(ValueError, match="MCM needs at least two ID labels"):
        one.remove_labels(["dog"])
    assert one.bank.num_id == 2
    mined = make_guard(tmp_path, method=lambda bank: tanl.TANL(bank.mined(5)))
    with pytest.raises(ValueError, match=r"is not over guard\.bank.*labels cannot be edited here"):
        mined.add_labels(["gibbon"])
    own = make_guard(
        tmp_path,
        method=lambda bank: tanl.TANL(bank, activation=no_activation),
    )
    with pytest.raises(ValueError, match="cannot follow to others"):
        own.add_labels(["gibbon"])
    assert own.bank.num_id == 2


def test_a_bank_of_other_labels_is_refused(tmp_path):
    guard = make_guard(tmp_path)
    guard.bank = guard.bank.mined(3)
    guard.detector = tanl_method(guard.bank)
    with pytest.raises(ValueError, match="is not the bank of these labels and this corpus"):
        guard.add_labels(["gibbon"])


def test_the_removal_holds_in_every_edit_and_is_saved(tmp_path):
    corpus = [*WORDS, "poodle", "Paris"]
    kept = {
        removal: set(make_guard(tmp_path, corpus=corpus, removal=removal).bank.negative_names)
        for removal in ("names", "synonyms", "kinds")
    }
    assert {"domestic dog", "poodle", "puppy", "Paris"} <= kept["names"] and "violin" not in kept["names"]
    assert kept["synonyms"] == kept["names"] - {"domestic dog", "hound"}
    assert kept["kinds"] == kept["synonyms"] - {"poodle", "puppy", "Paris"}
    guard = make_guard(tmp_path, labels=("violin",), corpus=corpus, removal="kinds")
    guard.add_labels(["dog"])
    assert set(guard.bank.negative_names) == kept["kinds"]
    guard.remove_labels(["dog"])
    assert {"poodle", "puppy", "hound"} <= set(guard.bank.negative_names)
    guard.add_labels(["dog"])
    for word, message in (
        ("toy poodle", "'toy poodle' is, or is a WordNet synonym or a kind of, the ID label 'dog'"),
        ("London", "'London' is a proper noun, and with removal='kinds' those are no negatives"),
    ):
        with pytest.raises(ValueError, match=message):
            guard.add_negatives([word])
    guard.save(tmp_path / "saved")
    loaded = tanl.Guard.load(tmp_path / "saved", backbone=Counting(), method=tanl_method, cache_dir=tmp_path)
    assert loaded.bank.names == guard.bank.names
    loaded.add_labels(["cat"])
    assert "Felis catus" not in loaded.bank.negative_names


def test_claimed_names_the_label_that_a_word_belongs_to():
    words = ["hound", "cats", "cloud", "Felis_catus", "dog"]
    assert claimed(words, ["cat", "dog", "hound"]) == {
        "hound": "dog",
        "cats": "cat",
        "dog": "dog",
    }
    corpus = tanl.Corpus.load(words)
    assert set(corpus.without(["cat", "dog"])) == set(words) - claimed(words, ["cat", "dog"]).keys()


def test_labels_are_set_in_one_edit(tmp_path):
    guard = make_guard(tmp_path, labels=("dog", "violin", "cloud"))
    guard(torch.rand(9, 3, 8, 8))
    images = guard.detector.state.images
    guard.backbone.encoded.clear()
    guard.set_labels(["lion", "cloud", "dog"])
    assert guard.bank.id_names == ("dog", "cloud", "lion")
    assert torch.equal(guard.bank.embeddings, from_scratch(guard).embeddings)
    assert guard.detector.state.images == images
    assert len(guard.backbone.encoded) == 1
    assert "lion" in guard.backbone.encoded[0]


def test_all_labels_may_be_others(tmp_path):
    guard = make_guard(tmp_path)
    guard.set_labels(["Dog", "cat"])  # "Dog" and "dog" together would be refused
    assert guard.bank.id_names == ("Dog", "cat")


@pytest.mark.parametrize("names", [[], ["dog", "dog"], ["dog", ""], "dog"])
def test_labels_that_cannot_be_set_leave_all_as_it_was(tmp_path, names):
    guard = make_guard(tmp_path)
    before, bank = state_of(guard.detector), guard.bank
    with pytest.raises((ValueError, TypeError)):
        guard.set_labels(names)
    assert guard.bank is bank
    assert_same_state(state_of(guard.detector), before)
