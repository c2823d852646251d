"""ID labels as people write them: what is read of them, what leaves the corpus for them, and how it is told."""

import logging
import unicodedata

import open_clip
import pytest
import torch
from test_labels import CountingBackbone

import tanl
from tanl.labels.names import checked_id_names, cleaned, normalise
from tanl.labels.terms import synonyms, terms_of
from tanl.labels.understood import told, understood_labels

# Each with its terms but for the label itself.
WRITTEN = {
    # articles, counts
    "a cat": ["cat"],
    "The cat": ["cat"],
    "my cats": ["cats"],
    "2 cats": ["cats"],
    "two cats": ["cats"],
    "3x cats": ["cats"],
    "cats x2": ["cats"],
    "1,000 cats": ["cats"],
    "a dozen cats": ["cats"],
    "a pair of cats": ["cats"],
    "a type of cat": ["cat"],
    "cat 2": ["cat"],
    "cat #2": ["cat"],
    "another cat": ["cat"],
    "every cat": ["cat"],
    "each cat": ["cat"],
    "both cats": ["cats"],
    "all of the cats": ["cats"],
    "one of many cats": ["cats"],
    "no. 3 cat": ["cat"],
    "twenty cats": ["cats"],
    "nineteen cats": ["cats"],
    "a hundred cats": ["cats"],
    "half a dozen cats": ["cats"],
    "cat species": ["cat"],
    "cat's": ["cat"],
    "the cat\u2019s": ["cat"],
    "a cute cat": ["cat"],
    "a toy poodle": ["toy poodle"],
    "a photo of the toy poodle": ["toy poodle"],
    # prompts
    "there is a cat in the photo": ["cat"],
    "a cat in the image": ["cat"],
    "a photo of a cat in the wild": ["cat"],
    "A photo of a {cat}": ["cat"],
    "a photo of a cat": ["cat"],
    "A photo of a cat.": ["cat"],
    "a photo of a hot dog": ["hot dog"],
    "This is a photo of two cats.": ["cats"],
    "a satellite image of forest": ["forest"],
    "a chest X-ray showing pneumonia.": ["pneumonia"],
    "a medical image of edema.": ["edema"],
    "The nice cat.": ["cat"],
    "This is a cat.": ["cat"],
    "This is a cat photo.": ["cat"],
    "a photo of a cat, a type of pet.": ["cat", "pet"],
    # lists
    "tench, Tinca tinca": ["tench", "tinca tinca"],
    "cat/dog": ["cat", "dog"],
    "cat / dog": ["cat", "dog"],
    "cat or dog": ["cat", "dog"],
    "cats and dogs": ["cats", "dogs"],
    "cat & dog": ["cat", "dog"],
    "cat|dog;bird": ["cat", "dog", "bird"],
    "cat\\dog": ["cat", "dog"],
    "animal \u2192 cat": ["animal", "cat"],
    "animal->cat": ["animal", "cat"],
    "0=cat": ["cat"],
    "cat, a": ["cat"],
    "cat\u3001dog": ["cat", "dog"],
    "cat \u2014 a pet": ["cat", "pet"],
    # marks, quotes, brackets
    "cat.": ["cat"],
    "cat!": ["cat"],
    "\u2026cat\u3002": ["cat"],
    "'cat'": ["cat"],
    '"cat",': ["cat"],
    "\u201ccat\u201d": ["cat"],
    "\u00abcat\u00bb": ["cat"],
    "**cat**": ["cat"],
    "\u2022 cat": ["cat"],
    "1. cat": ["cat"],
    "\U0001f431 cat": ["cat"],
    "Cat (animal)": ["cat"],
    "Cat [animal]": ["cat"],
    "(cat)": ["cat"],
    "cat\uff08animal\uff09": ["cat"],
    "Katze (cat)": ["katze", "cat"],
    # ids, as data sets number their classes
    "n02123045 tabby, tabby cat": ["tabby", "tabby cat"],
    "n01440764_tench": ["tench"],
    "001.Black_footed_Albatross": ["black footed albatross"],
    "GoldenRetriever": ["golden retriever"],
    # what WordNet knows stays whole
    "\u732b cat": ["cat"],
    "cat\u732b": ["cat"],
    "class: cat": ["cat"],
    "class_name=cat": ["cat"],
    "label 3: cat": ["cat"],
    "class_cat": ["cat"],
    "CatClass": ["cat"],
    "class0 cat": ["cat"],
    "cat noun": ["cat"],
    "cat image": ["cat"],
    "photos cat": ["cat"],
    "cat.JPG": ["cat"],
    "cat.n.01": ["cat"],
    "cat n.": ["cat"],
    "cat n02121620": ["cat"],
    "cat (n02121620)": ["cat"],
    "cat, etc.": ["cat"],
    "cat and so on": ["cat"],
    "cat aka hound": ["cat", "hound"],
    "cat, e.g. hound": ["cat", "hound"],
    "i.e. cat": ["cat"],
    "cat also known as hound": ["cat", "hound"],
    "a thing called cat": ["cat"],
    "a) cat": ["cat"],
    "iv) cat": ["cat"],
    "III. cat": ["cat"],
    "3] cat": ["cat"],
    "003-cat": ["cat"],
    "1\ufe0f\u20e3 cat": ["cat"],
    "cat\u2122": ["cat"],
    "cat \u21162": ["cat"],
    "cat v2": ["cat"],
    "cat 2x": ["cat"],
    "x2 cats": ["cats"],
    "1st cat": ["cat"],
    "the second cat": ["cat"],
    "50% cat": ["cat"],
    "\u00bd cat": ["cat"],
    "his cat": ["cat"],
    "various cats": ["cats"],
    "just a cat": ["cat"],
    "a couple cats": ["cats"],
    "an assortment of cats": ["cats"],
    "either a cat or a dog": ["cat", "dog"],
    "cat and/or dog": ["cat", "dog"],
    "cat as well as dog": ["cat", "dog"],
    "cat = hound": ["cat", "hound"],
    "animal > cat": ["animal", "cat"],
    "animal \u203a cat": ["animal", "cat"],
    "animal.cat": ["animal", "cat"],
    "cat \u00b7 dog": ["cat", "dog"],
    "cat\u2014dog": ["cat", "dog"],
    "cat -- dog": ["cat", "dog"],
    "cat \u2212 dog": ["cat", "dog"],
    "cat \u2010 dog": ["cat", "dog"],
    "cat. Felis": ["cat", "felis"],
    "ACat": ["cat"],
    "APhotoOfACat": ["cat"],
    "a-photo-of-a-cat": ["cat"],
    "image shows a cat": ["cat"],
    "a photo that contains a cat": ["cat"],
    "a selfie with a cat": ["cat"],
    "an MRI of a cat": ["cat"],
    "a patient with pneumonia": ["pneumonia"],
    "evidence of pneumonia": ["pneumonia"],
    "no evidence of pneumonia": [],
    "first aid": [],
    "id card": [],
    "iPod": [],
    "St. Bernard": [],
    "hot dog": [],
    "a hot dog": ["hot dog"],
    "The Hague": [],
    "plastic bag": [],
    "salt-and-pepper": [],
    "toy poodle": [],
    "a toy cat": ["cat"],
    # what is not wrapped
    "great_white_shark": [],
    "T-Shirt": [],
    "camera with flash": [],
    "No Finding": [],
    "no cat": [],
    "7-Eleven": [],
    "C++": [],
    "AT&T": [],
    "2": [],
    "!!!": [],
    "\u732b": [],
    "\U0001f431": [],
}


@pytest.mark.parametrize("label", WRITTEN)
def test_what_is_read_of_a_label(label):
    assert terms_of(label) == (normalise(label), *WRITTEN[label])


@pytest.mark.parametrize("word", ["cat", "hot dog", "tiger shark"])
@pytest.mark.parametrize(
    "template",
    [*open_clip.OPENAI_IMAGENET_TEMPLATES, *open_clip.SIMPLE_IMAGENET_TEMPLATES],
    ids=lambda t: t("_"),
)
def test_prompts_of_clip_are_looked_through(template, word):
    assert terms_of(template(word))[1:] == (word,)


@pytest.mark.parametrize(
    "label",
    [
        "\ufeffcat",
        "cat\u200b",
        "c\u00adat",
        "\u202ecat\u202c",
        "cat\u2060",
        "c\u200dat",
        "cat\u200c",
        "cat\u3164",
        "\uff43\uff41\uff54",
        "Cats",
        "CAT",
        "a cat",
        "2 cats",
        "cat.",
        "a photo of a cat",
        "Cat (animal)",
    ],
    ids=ascii,
)
def test_the_same_words_leave_as_for_the_plain_label(label):
    corpus = tanl.Corpus.load("wordnet")
    plain = corpus.words_for(["cat"])
    assert len(plain) > 10
    assert corpus.words_for([label]) == plain
    assert corpus.without([label]).words == corpus.without(["cat"]).words


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("caf\u00e9", "cafe"),
        ("cafe\u0301", "cafe"),
        ("cr\u00e8me br\u00fbl\u00e9e", "creme brulee"),
        ("jalape\u00f1os", "jalapeno"),
        ("two mice", "mouse"),
        ("children", "child"),
        ("firemen", "fireman"),
        ("red pandas", "red panda"),
        ("cacti", "cactus"),
        ("wolves", "wolf"),
        ("n01440764 tench, Tinca tinca", "Tinca tinca"),
        ("great_white_shark", "great white shark"),
        ("\ufb01re engine", "fire engine"),
        ("T\u2010shirt", "T-shirt"),
        ("polar\u00a0bear", "polar bear"),
    ],
    ids=ascii,
)
def test_accents_plurals_and_forms_of_letters(label, word):
    assert normalise(word) in synonyms([label])
    assert word in tanl.Corpus.load("wordnet").words_for([label])


def test_words_of_a_corpus_with_what_is_invisible_leave_too():
    corpus = tanl.Corpus(("do\u00adg", "cafe\u0301", "\ufeffhound", "tree"), ("noun",) * 4)
    assert corpus.without(["dog", "caf\u00e9", "hound"]).words == ("tree",)


INVISIBLE = {
    "\ufeffdog": "dog",
    "dog\u200b": "dog",
    "do\u00adg": "dog",
    "d\u200dog": "dog",
    "dog\u200d": "dog",
    "\u202adog\u202c": "dog",
    "dog\u2060": "dog",
    "\u3164dog": "dog",
    "d\u034fog": "dog",
    "\u00e9\u200d\u00e9": "\u00e9\u00e9",
    "\u732b\u200b": "\u732b",
    "dog\U000e0067": "dog",
    "dog\ufe0f": "dog",
    "\ufe0fdog": "dog",
}
KEPT = [
    "\U0001f469\u200d\U0001f680",  # astronaut
    "\U0001f469\U0001f3fd\u200d\U0001f680",  # with a skin tone
    "\U0001f3f3\ufe0f\u200d\U0001f308",  # rainbow flag
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # flag of England
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
    "\u06f1\u06f2\u200c\u0627\u0645",
    "\u0915\u094d\u200d\u0937",  # Hindi
    "\u0d28\u0d4d\u200d",  # Malayalam, at the end of a word
    "\u0600\u0661",
    "caf\u00e9",
    "cafe\u0301",
    "a\u00a0b",
    "\u2764\ufe0f",
    "\u2139\ufe0f",
    "1\ufe0f\u20e3",  # a key
    "\U0001f408\u200d\u2b1b",  # black cat
    "\U0001f3f3\ufe0f\u200d\u26a7\ufe0f",
    "\U0001f468\ufe0f\u200d\u2695\ufe0f",
    "\u0d38\u0d4d\u200c\u0d15",
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala
    "\u09b6\u09cd\u200d\u09af",  # Bengali
    "\u0710\u200c\u0710",  # Syriac
    "\u1112\u1161\u11ab",  # decomposed Hangul
]


@pytest.mark.parametrize("name", INVISIBLE, ids=ascii)
def test_what_is_invisible_is_taken_off_what_is_shown(name):
    assert cleaned(name) == INVISIBLE[name]
    assert checked_id_names(["cat", name]) == ("cat", INVISIBLE[name])


@pytest.mark.parametrize("name", KEPT, ids=ascii)
def test_joiners_and_accents_that_mean_something_stay(name):
    assert cleaned(name) == name
    assert checked_id_names(["cat", name]) == ("cat", name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "dog\u200b"], r"'dog' and 'dog\\u200b' are the same text"),
        (["\ufeffdog", "tree", "do\u00adg"], r"'\\ufeffdog' and 'do\\xadg' are the same text"),
        (["caf\u00e9", "cafe\u0301"], r"'caf\\xe9' and 'cafe\\u0301' are the same text"),
        (["cat", "\uff43\uff41\uff54"], r"'cat' and '\\uff43\\uff41\\uff54' are the same text"),
        (["hot dog", "hot_dog"], "'hot dog' and 'hot_dog' are the same text"),
        (["hot dog", "hot-dog"], "'hot dog' and 'hot-dog' are the same text"),
        (["hot dog", "hot\u00a0dog"], r"'hot dog' and 'hot\\xa0dog' are the same text"),
        (["cat", "\u200b"], "has invisible characters alone"),
        (["cat", "\u3164\u2800"], "has invisible characters alone"),
        (["cat", "\ufeff dog"], "' dog' has spaces around it; give 'dog'"),
        (["cat", "caf\ufffd"], "what could not be decoded; read it as UTF-8"),
    ],
)
def test_labels_that_are_the_same_text_or_blank_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        checked_id_names(names)


def test_labels_that_differ_in_case_or_count_are_two():
    names = ("turkey", "Turkey", "1 cat", "2 cats", "a cat", "cat")
    assert checked_id_names(names) == names


def test_prompts_have_composed_accents_and_names_stay_as_given(tmp_path):
    backbone = CountingBackbone()
    bank = tanl.build_bank(backbone, ["cafe\u0301", "dog\u200b"], corpus=None)
    assert bank.id_names == ("cafe\u0301", "dog")
    assert torch.equal(bank.embeddings, backbone.encode_texts(["The nice caf\u00e9.", "The nice dog."]))
    assert unicodedata.is_normalized("NFC", "The nice caf\u00e9.")


def test_what_was_understood_is_told_label_by_label():
    corpus = tanl.Corpus.load(["Cats", "tree", "hound", "domestic dog", "granite"])
    found = tanl.understood_labels(["a cat", "\ufeffdog", "zyzzx"], corpus)
    assert [(each.label, each.terms, each.removed) for each in found] == [
        ("a cat", ("a cat", "cat"), ("Cats",)),
        ("dog", ("dog",), ("hound", "domestic dog")),
        ("zyzzx", ("zyzzx",), ()),
    ]
    assert told(found, corpus) == (
        "3 of the 5 words of custom are labels or synonyms of one; understood 'a cat' as 'cat'; "
        "no word found for 'zyzzx'"
    )


def test_many_labels_are_told_in_one_line():
    corpus = tanl.Corpus.load(["tree", "granite"])
    line = told(understood_labels([f"the x{i}y" for i in range(1, 10)], corpus), corpus)
    assert "\n" not in line
    assert "understood 'the x1y' as 'x1y'" in line
    assert line.count("and 4 more") == 2


def test_building_and_editing_log_what_was_understood(tmp_path, caplog):
    corpus = ["tree", "violin", "Cats", "hound"]
    with caplog.at_level(logging.INFO, "tanl"):
        guard = tanl.Guard(
            CountingBackbone(), ["a cat", "zyzzx"], corpus=corpus, cache_dir=tmp_path, method=tanl.MaxLogit
        )
        assert guard.bank.negative_names == ("tree", "violin", "hound")
        guard.add_labels(["two trees"])
    first, second = [record.message for record in caplog.records if "words of" in record.message]
    assert "understood 'a cat' as 'cat'; no word found for 'zyzzx'" in first
    assert "understood 'two trees' as 'trees'" in second
    assert guard.bank.negative_names == ("violin", "hound")


def test_edits_know_a_label_whatever_is_invisible_in_it(tmp_path):
    guard = tanl.Guard(
        CountingBackbone(),
        ["hot dog", "cat"],
        corpus=["tree", "violin"],
        cache_dir=tmp_path,
        method=tanl.MaxLogit,
    )
    for again in (["hot-dog"], ["hot dog\u200b"]):
        with pytest.raises(ValueError, match="hot dog"):
            guard.add_labels(again)
    guard.remove_labels(["ca\u00adt"])
    assert guard.bank.id_names == ("hot dog",)


@pytest.mark.parametrize(
    "label", ["word " * 9000, "(" * 400, "a " * 190 + "cat", "1 " * 199, ",".join("ab" * 99), "x" * 100_000]
)
def test_long_and_nested_labels_are_read_in_no_time_worth_telling(label):
    assert terms_of(label)[0] == normalise(label)
