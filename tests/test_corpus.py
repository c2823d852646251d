"""The corpus: shipped selections, synonyms, user files and every way that they are refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from open_clip import IMAGENET_CLASSNAMES

from tanl.labels.corpus import Corpus, claimed
from tanl.labels.names import normalise
from tanl.labels.terms import REMOVALS, synonyms, with_kinds
from tanl.labels.wordnet import SELECTIONS, kinds, merge_spellings, proper_nouns
from tools.corpora import neglabel as build_neglabel
from tools.corpora import wordnet as build_wordnet
from tools.corpora.medical_branches import BRANCHES as MEDICAL
from tools.corpora.medical_branches import Branch

LICENCE = "  1 Licence text.  \n  2   \n  3 WordNet 3.0 Copyright 2006 by Princeton University.  \n"
NOUNS = (
    LICENCE
    + "00000001 05 n 02 dog 0 domestic_dog 0 000 | barks  \n"
    + "00000002 06 n 03 Dog-iron 0 dog-iron 1 dog 0 001 + 00000009 v 0101 | holds logs  \n"
    + "00000003 05 n 01 Lassie 0 002 @i 00000001 n 0000 @ 00000002 n 0000 | a dog  \n"
)
ADJECTIVES = LICENCE + "00000003 00 s 02 afraid(p) 0 two-fold 0 000 | x  \n00000004 44 a 01 dog 0 000 | y  \n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def dictionary(folder: Path, nouns: str = NOUNS, adjectives: str = ADJECTIVES) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "data.noun", nouns)
    write(folder / "data.adj", adjectives)
    return folder


@pytest.mark.parametrize(
    ("name", "nouns", "adjectives"),
    [
        ("wordnet", 117_798, 18_341),
        ("wordnet-30k", 29_343, 657),
        ("wordnet-10k", 10_000, 0),
        ("wordnet-nouns", 117_798, 0),
        ("neglabel", 58_546, 11_454),
        ("csp", 47_327, 9_293),
        ("wordnet-medical", 8_591, 671),
    ],
)
def test_selection_has_the_documented_counts(name: str, nouns: int, adjectives: int) -> None:
    corpus = Corpus.load(name)
    assert corpus.name == name
    assert len(corpus) == nouns + adjectives
    assert corpus.parts_of_speech.count("noun") == nouns
    assert len({word.casefold() for word in corpus}) == len(corpus)
    assert set(SELECTIONS) == {
        *("wordnet", "wordnet-30k", "wordnet-10k", "wordnet-nouns", "neglabel", "csp", "wordnet-medical")
    }


def test_smaller_selections_hold_the_words_with_the_most_kinds() -> None:
    small, middle, whole = (Corpus.load(name) for name in ("wordnet-10k", "wordnet-30k", "wordnet"))
    part = dict(zip(whole.words, whole.parts_of_speech, strict=True))
    place = {word: i for i, word in enumerate(whole)}
    for corpus, larger in ((small, middle), (middle, whole)):
        assert set(corpus) < set(larger)
        assert [place[word] for word in corpus] == sorted(place[word] for word in corpus)
        assert all(
            part[word] == kind for word, kind in zip(corpus.words, corpus.parts_of_speech, strict=True)
        )
    # A word outside has no more kinds than any inside; `kinds` counts spellings, so only none tells.
    assert {"animal", "dog", "vehicle", "food", "tool"} <= set(small)
    random_words = sorted(set(whole) - set(middle))[::4000]
    assert not [word for word in random_words if kinds(normalise(word))]


def test_selections_hold_what_they_say() -> None:
    wordnet, neglabel = set(Corpus.load("wordnet")), set(Corpus.load("neglabel"))
    assert {"dog", "Canis familiaris", "pizza", "beautiful", "china"} <= wordnet
    assert {"golden retriever", "Canis familiaris", "pizza"}.isdisjoint(neglabel)
    assert {"airplane", "beautiful"} <= neglabel
    assert set(Corpus.load("csp")) < neglabel


def test_neglabels_words_are_the_published_ones() -> None:
    """Their counts and sums, file by file; and 69 554 after the published removal for ImageNet-1k."""
    packed = (build_wordnet.CORPORA / "neglabel.tsv.gz").read_bytes()
    rows = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines()]
    build_neglabel.check_sums({name: set(words) for name, *words in rows})
    assert [name for name, *_ in rows] == list(build_neglabel.PUBLISHED)
    corpus = Corpus.load("neglabel")
    nouns = {word for name, *words in rows if name.startswith("noun") for word in words}
    adjectives = {word for name, *words in rows if name.startswith("adj") for word in words}
    assert (len(nouns), len(adjectives)) == (58_546, 13_091)
    assert set(corpus) == nouns | adjectives
    assert {
        word for word, part in zip(corpus, corpus.parts_of_speech, strict=True) if part == "noun"
    } == nouns
    assert {"[windward", 'b-52"', '1530"s', "edward1", "[weekly"} <= set(corpus)
    assert len(corpus.without(IMAGENET_CLASSNAMES, "names")) == 69_554


def test_a_sum_that_is_not_the_published_one_is_told() -> None:
    packed = (build_wordnet.CORPORA / "neglabel.tsv.gz").read_bytes()
    rows = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines()]
    words = {name: set(words) for name, *words in rows}
    words["noun.act"] ^= {"act"}
    with pytest.raises(
        build_wordnet.DictionaryError, match=r"noun.act: 589[68] words with the sum .* 5897 with 14d8"
    ):
        build_neglabel.check_sums(words)
    del words["noun.act"]
    with pytest.raises(build_wordnet.DictionaryError, match="not those that are published"):
        build_neglabel.check_sums(words)


CLUSTERS = (
    LICENCE.replace("3.0", "3.1")
    + "00000001 00 a 01 Able 0 001 ! 00000002 a 0101 | x  \n"
    + "00000002 00 a 01 unable 0 001 ! 00000001 a 0101 | x  \n"
    + "00000003 00 s 01 fit(p) 0 001 & 00000001 a 0000 | x  \n"
    + "00000004 00 a 01 big_time 0 000 | x  \n"
    + "00000005 00 a 01 half 0 001 ! 00000006 a 0101 | an opener, and a satellite of that name stays  \n"
    + "00000006 00 a 01 whole 0 002 ! 00000005 a 0101 ! 00000007 a 0101 | x  \n"
    + "00000007 00 a 01 hollow 0 001 ! 00000006 a 0101 | x  \n"
    + "00000008 00 s 01 half 0 000 | x  \n"
    + "00000009 00 s 01 daily 0 000 | x  \n"
    + "00000010 00 a 01 u 0 000 | x  \n"
)
NUMBERED = (
    LICENCE.replace("3.0", "3.1")
    + "00000001 06 n 02 B-52 0 bomber 0 000 | x  \n"
    + "00000002 28 n 01 1530s 0 000 | x  \n"
    + "00000003 06 n 01 Cox-2_inhibitor 0 000 | x  \n"
    + "00000004 05 n 01 dog 0 000 | an animal  \n"
    + "00000005 15 n 01 windward 0 000 | x  \n"
)


def test_words_are_read_as_neglabel_read_them(tmp_path: Path) -> None:
    found = build_neglabel.published_words(dictionary(tmp_path / "dict", NUMBERED, CLUSTERS))
    assert found["adj.all"] >= {"unable", "fit", "big time", "whole", "hollow", "half", "[daily"}
    assert not found["adj.all"] & {"able", "daily", "u"}
    assert found["noun.artifact"] == {'b-52"', "cox-2 inhibitor"}
    assert found["noun.time"] == {'1530"s'}
    assert found["noun.location"] == {"[windward"}
    assert "noun.animal" not in found


def test_build_neglabel_writes_nothing_of_another_dictionary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for nouns, message in (
        (NOUNS, "holds WordNet 3.0; version 3.1 is needed"),
        (NUMBERED, "not those that are"),
    ):
        folder = dictionary(tmp_path / "dict", nouns, CLUSTERS)
        with pytest.raises(SystemExit) as stop:
            build_neglabel.main([str(folder), "--output", str(tmp_path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gz"))


def test_medical_words_are_some_of_wordnets() -> None:
    medical, wordnet = Corpus.load("wordnet-medical"), Corpus.load("wordnet")
    assert set(medical) < set(wordnet)  # the same spelling, too
    assert {"femur", "myocardium", "pus", "lymphocyte"} <= set(medical)
    assert {"pneumothorax", "lung cancer", "kidney stone", "fracture"} <= set(medical)
    assert {"scalpel", "pacemaker", "endotracheal tube", "X-ray machine"} <= set(medical)
    assert {"penicillin", "insulin", "vitamin C", "contrast medium", "hemoglobin"} <= set(medical)
    assert {"pulmonary", "cardiac", "carcinomatous"} <= set(medical)
    other = {
        "dog",
        "pizza",
        "ponytail",
        "mammogram",
        "radiograph",
        "Dutch elm disease",
        "fin",
        "cigar",
        "beautiful",
    }
    assert other.isdisjoint(medical)


def test_union_keeps_the_first_ones_words_in_order() -> None:
    first = Corpus(("China", "dog", "red"), ("noun", "noun", "adj"), "mine")
    second = Corpus(("Red", "cat", "china", "afraid"), ("noun", "noun", "noun", "adj"), "yours")
    both = first | second
    assert both.words == ("China", "dog", "red", "cat", "afraid")
    assert both.parts_of_speech == ("noun", "noun", "adj", "noun", "adj")
    assert both.name == "mine | yours"
    assert set((second | first).words) == {"Red", "cat", "china", "afraid", "dog"}


def test_union_with_nothing_new_is_the_same_corpus() -> None:
    wordnet = Corpus.load("wordnet")
    assert (wordnet | Corpus.load("wordnet-medical")) is wordnet
    more = Corpus.load("neglabel") | Corpus.load("wordnet-medical")
    both = [*Corpus.load("neglabel"), *Corpus.load("wordnet-medical")]
    assert {word.casefold() for word in more} == {word.casefold() for word in both}


@pytest.mark.parametrize("other", [["dog"], "wordnet", None])
def test_union_with_what_is_no_corpus_is_refused(other: object) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Corpus.load(["dog"]) | other  # type: ignore[operator]


def test_wordnet_spelling() -> None:
    words = Corpus.load("wordnet").words
    assert not [word for word in words if "_" in word or word.endswith((")", " ")) or not word.isascii()]
    assert "afraid" in words


def test_nouns_come_first_and_win_over_adjectives() -> None:
    corpus = Corpus.load("wordnet")
    boundary = corpus.parts_of_speech.index("adj")
    assert set(corpus.parts_of_speech[boundary:]) == {"adj"}
    assert corpus.parts_of_speech[corpus.words.index("orange")] == "noun"


def test_fingerprint_names_words_order_and_part_of_speech(tmp_path: Path) -> None:
    assert Corpus.load("wordnet").fingerprint[:12] == "a3e3aaeddf7c"
    assert Corpus.load(["a", "b"]).fingerprint == Corpus(("a", "b"), ("noun", "noun"), "other").fingerprint
    different = [Corpus.load(words).fingerprint for words in (["a", "b"], ["b", "a"], ["a"])]
    different.append(Corpus(("a", "b"), ("noun", "adj")).fingerprint)
    assert len(set(different)) == 4


def test_import_does_not_need_torch() -> None:
    code = "import sys, tanl; tanl.Corpus.load('neglabel'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("label", "gone"),
    [
        ("dog", {"dog", "domestic dog", "Canis familiaris"}),
        ("Domestic_Dog", {"dog", "domestic dog", "Canis familiaris"}),
        ("giraffes", {"giraffe", "camelopard"}),
        ("T shirt", {"T-shirt", "tee shirt"}),
        ("wolves", {"wolf"}),
        ("strawberries", {"strawberry"}),
        ("orange", {"orange"}),
    ],
)
def test_without_removes_label_and_synonyms(label: str, gone: set[str]) -> None:
    corpus = Corpus.load(sorted({"cat", "table", "glass", "beautiful"} | gone))
    left = corpus.without([label])
    assert set(left) == {"cat", "table", "glass", "beautiful"}
    assert left.name == corpus.name
    assert len(left.parts_of_speech) == len(left)


def test_without_on_all_of_wordnet() -> None:
    corpus = Corpus.load("wordnet")
    left = corpus.without(["dog", "red"])
    assert {"dog", "domestic dog", "Canis familiaris", "red", "redness"} <= set(corpus) - set(left)
    assert {"cat", "table", "beautiful"} <= set(left)
    kept = set(left)
    assert left.words == tuple(word for word in corpus if word in kept)


def test_plural_that_wordnet_knows_is_its_own_word() -> None:
    assert "glass" not in synonyms(["glasses"])
    assert "spectacles" in synonyms(["glasses"])


def test_without_unknown_label_changes_nothing() -> None:
    corpus = Corpus.load(["red panda", "zebra"])
    assert corpus.without(["qwertyuiop", "qwertyuiops"]) == corpus
    assert corpus.without([]) == corpus


def test_without_works_on_a_list_of_the_users() -> None:
    corpus = Corpus.load(["Felis_catus", "true cats", "Dogs", "zebra"])
    assert corpus.without(["dog", "true cat"]).words == ("Felis_catus", "zebra")


def test_without_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="every word of the corpus 'custom'"):
        Corpus.load(["dog", "domestic dog"]).without(["dog"])


def test_without_one_string_is_refused() -> None:
    with pytest.raises(TypeError, match="list of strings"):
        Corpus.load(["dog"]).without("dog")
    with pytest.raises(TypeError, match="got 3 "):
        Corpus.load(["dog"]).without([3])  # type: ignore[list-item]


def test_synonyms_are_normalised_and_hold_the_labels() -> None:
    found = synonyms(["T-Shirt", "my own class"])
    assert {"t shirt", "my own class"} <= found
    assert found == {normalise(word) for word in found}


def test_kinds_are_all_that_is_below_in_any_sense() -> None:
    below = kinds("dog")
    assert {"poodle", "toy poodle", "german shepherd", "perisher"} <= below
    assert not below & {"dog", "domestic dog", "cat", "canine", "animal"}
    assert kinds("no such word") == set()
    assert {"poodle", "toy poodle"} <= kinds("dogs")  # in the plural too


def test_hypernyms_lead_up_to_one_root_without_a_circle() -> None:
    from tanl.labels import wordnet

    rows = wordnet._read("wordnet.tsv.gz")
    nouns = [row[2] for row in rows if row[0] == "noun"]
    assert not any(row[2] for row in rows if row[0] == "adj")
    above = [[int(one.removeprefix("i")) for one in each.split(",")] if each else [] for each in nouns]
    assert [rows[number][3] for number, each in enumerate(above) if not each] == ["entity"]
    depth = [0 if not each else -1 for each in above]
    for number in range(len(above)):
        path = [number]
        while depth[path[-1]] < 0:
            assert len(path) < 25, "a circle"
            path.append(above[path[-1]][0])
        for lower, upper in zip(path[-2::-1], path[:0:-1], strict=True):
            depth[lower] = depth[upper] + 1
    assert max(depth) < 25


def test_proper_nouns_are_names_in_every_sense() -> None:
    names = proper_nouns()
    assert {"paris", "new york", "charlemagne", "equidae", "isle of man"} <= names
    assert not names & {
        "dog",
        "turkey",
        "dvd",
        "t shirt",
        "german shepherd",
        "canis familiaris",
        "christmas tree",
    }


def test_removals_take_ever_more() -> None:
    corpus = Corpus(
        ("dog", "domestic dog", "poodles", "cat", "Paris", "doggy", "red"), ("noun",) * 6 + ("adj",)
    )
    assert corpus.without(["dog"], "names").words == corpus.words[1:]
    assert corpus.without(["Dog"], "names") is corpus
    assert corpus.without(["dog"]).words == ("poodles", "cat", "Paris", "doggy", "red")
    assert corpus.without(["dog"], "kinds").words == ("cat", "red")
    assert corpus.words_for(["dog"], "kinds") == ("dog", "domestic dog", "poodles", "doggy")
    for removal in REMOVALS:
        taken = claimed(corpus.words, ["dog"], removal)
        assert tuple(taken) == corpus.words_for(["dog"], removal)
        assert set(taken.values()) == {"dog"}
    assert synonyms(["dog"]) < with_kinds(["dog"])


@pytest.mark.parametrize("removal", ["kind", "", None, 3])
def test_an_unknown_removal_is_refused(removal: object) -> None:
    with pytest.raises(ValueError, match=r"no removal .*; there are 'names', 'synonyms', 'kinds'"):
        Corpus.load(["dog", "cat"]).without(["dog"], removal)  # type: ignore[arg-type]


@pytest.mark.parametrize("removal", REMOVALS)
def test_no_removal_takes_one_string_for_labels(removal: str) -> None:
    with pytest.raises(TypeError, match="must be a list of strings, not the one string 'dog'"):
        Corpus.load(["dog", "cat"]).without("dog", removal)


def test_prompts_follow_the_part_of_speech() -> None:
    corpus = Corpus(("dog", "red"), ("noun", "adj"))
    assert corpus.prompts() == ["The nice dog.", "This is a red photo."]
    assert corpus.prompts({"noun": "a {}", "adj": "{}!", "verb": ""}) == ["a dog", "red!"]
    assert Corpus(("{0} of {}",), ("noun",)).prompts() == ["The nice {0} of {}."]


def test_prompts_refuse_templates_that_lose_the_word() -> None:
    corpus = Corpus(("dog", "red"), ("noun", "adj"))
    with pytest.raises(ValueError, match="no template for 'adj'"):
        corpus.prompts({"noun": "a {}"})
    with pytest.raises(ValueError, match="'a photo' for 'noun' has no"):
        corpus.prompts({"noun": "a photo", "adj": "{}"})


def test_user_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.txt", "\ufeffdog\r\nfire engine\tnoun\r\nred\tadj\n ünïcode \n")
    corpus = Corpus.load(path)
    assert corpus.words == ("dog", "fire engine", "red", "ünïcode")
    assert corpus.parts_of_speech == ("noun", "noun", "adj", "noun")
    assert corpus.name == "mine.txt"
    assert Corpus.load(str(path)) == corpus
    assert list(corpus) == list(corpus.words)
    assert repr(corpus) == "Corpus('mine.txt', 4 words: 3 noun, 1 adj)"


def test_a_file_may_be_named_like_a_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "wordnet", "dog\n")
    monkeypatch.chdir(tmp_path)
    assert len(Corpus.load("./wordnet")) == 1
    assert len(Corpus.load(Path("wordnet"))) == 1
    assert len(Corpus.load("wordnet")) == 136_139


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"dog\n\ncat\n", "line 2: no word"),
        (b"dog\n\tadj\n", "line 2: no word"),
        (b"dog\tverb\n", "line 1: 'verb' is no part of speech"),
        (b"dog\t\n", "line 1: '' is no part of speech"),
        (b"dog\tnoun\tx\n", "line 1: 'noun\\\\tx' is no part of speech"),
        (b"dog\ncaf\xe9\n", "line 2: not UTF-8"),
        (b"d\0o\0g\0", "line 1: not UTF-8 text, but with NUL characters"),
        (b"{0: 'dog'}", "is a dict as Python prints it"),
        (b"['dog', 'cat']", "is a list as Python prints it"),
        (b'"dog",\n"cat"\n', "has each name in quotes"),
        (b'{"dog": "cat"}', "in no form that is read"),
        (b"<html></html>", "is XML or HTML"),
        (b"dog\ncat\nDog\ncat\n", "repeats 'Dog', 'cat' "),
    ],
)
def test_user_file_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corpus.load(write(tmp_path / "words.txt", content))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("words.json", '["dog", "fire engine"]'),
        ("words.txt", '["dog",\n"fire engine"]'),
        ("index.json", '{"0": "dog", "1": "fire engine"}'),
        ("words.csv", "name\ndog\nfire engine\n"),
        ("words.yaml", "names: [dog, fire engine]\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_words_in_any_file_that_labels_are_read_from(
    tmp_path: Path, file: str, content: str, encoding: str
) -> None:
    path = write(tmp_path / file, content.encode(encoding))
    corpus = Corpus.load(path)
    assert corpus.words == ("dog", "fire engine")
    assert corpus.parts_of_speech == ("noun", "noun")
    assert corpus.name == file


def test_a_table_of_words_with_several_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the columns 'id', 'word': say which has the names"):
        Corpus.load(write(tmp_path / "words.csv", "id,word\n0,dog\n"))


def test_unknown_name_lists_the_selections() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown corpus 'wordnets'.*wordnet, wordnet-30k, wordnet-10k, wordnet-nouns, neglabel",
    ):
        Corpus.load("wordnets")


@pytest.mark.parametrize("source", ["words.txt", "folder/words", Path("words")])
def test_missing_file(source: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such corpus file: .*words"):
        Corpus.load(source)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        Corpus.load(tmp_path)


@pytest.mark.parametrize("source", [3, b"wordnet", {"dog": "noun"}, None])
def test_source_of_another_type(source: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(source).__name__}"):
        Corpus.load(source)  # type: ignore[arg-type]


def test_words_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"word 1 is 3 \(int\)"):
        Corpus.load(["dog", 3])  # type: ignore[list-item]


@pytest.mark.parametrize("word", ["", "  ", "a\tb", "a\nb"])
def test_words_without_text_or_with_breaks(word: str) -> None:
    with pytest.raises(ValueError, match="word 1 is "):
        Corpus.load(["dog", word])


def test_no_words() -> None:
    with pytest.raises(ValueError, match="has no words"):
        Corpus.load([])


def test_repeated_words_name_the_first_few() -> None:
    words = [f"w{index}" for index in range(8)]
    with pytest.raises(ValueError, match="repeats 'w0', 'w1', 'w2', 'w3', 'w4' and 3 more"):
        Corpus.load(words + words)


def test_constructor_refuses_bad_parts_of_speech() -> None:
    with pytest.raises(ValueError, match="2 words but 1 parts of speech"):
        Corpus(("a", "b"), ("noun",))
    with pytest.raises(ValueError, match=r"unknown part of speech 'verb'"):
        Corpus(("a", "b"), ("noun", "verb"))


def test_spelling_with_the_fewest_capitals_is_kept_in_first_place() -> None:
    assert list(merge_spellings(["China", "dog", "china", "CHINA"]).values()) == ["china", "dog"]


def test_build_is_deterministic_and_readable(tmp_path: Path) -> None:
    source = dictionary(tmp_path / "dict")
    first, second = tmp_path / "one", tmp_path / "two"
    for output in (first, second):
        output.mkdir()
        assert build_wordnet.build(source, output) == {"noun": 3, "adj": 2}
    packed = (first / "wordnet.tsv.gz").read_bytes()
    assert packed == (second / "wordnet.tsv.gz").read_bytes()
    assert gzip.decompress(packed).decode() == (
        "noun\tnoun.animal\t\tdog\tdomestic dog\n"
        "noun\tnoun.artifact\t\tDog-iron\tdog-iron\tdog\n"
        "noun\tnoun.animal\ti0,1\tLassie\n"
        "adj\tadj.all\t\tafraid\ttwo-fold\n"
        "adj\tadj.ppl\t\tdog\n"
    )
    licence = (first / "WORDNET_LICENSE.txt").read_text()
    assert licence == "Licence text.\n\nWordNet 3.0 Copyright 2006 by Princeton University.\n"


BODY = (
    LICENCE
    + "00000001 08 n 01 part 0 003 ~ 00000002 n 0000 ~i 00000003 n 0000 + 00000009 v 0101 | x  \n"
    + "00000002 08 n 02 lung 0 Long_Lung 0 002 @ 00000001 n 0000 ~ 00000005 n 0000 | x  \n"
    + "00000003 05 n 01 fin 0 001 ~ 00000004 n 0000 | of an animal, and so are its hairs  \n"
    + "00000004 08 n 01 fin_bone 0 000 | x  \n"
    + "00000005 08 n 01 wig 0 001 ~ 00000006 n 0000 | x  \n"
    + "00000006 08 n 01 lock 0 000 | x  \n"
    + "00000007 26 n 02 ill 0 sick 0 001 ~ 00000002 n 0000 | x  \n"
    + "00000008 06 n 01 dog 0 000 | x  \n"
)
PERTAINING = (
    LICENCE
    + "00000011 01 a 01 pulmonary 0 001 \\ 00000002 n 0101 | x  \n"
    + "00000012 01 a 01 canine 0 001 \\ 00000008 n 0101 | x  \n"
    + "00000013 00 a 01 sickly(p) 0 001 + 00000007 n 0101 | x  \n"
    + "00000014 01 a 02 sick 0 ill-made 0 002 \\ 00000008 n 0101 \\ 00000007 n 0101 | x  \n"
)
BRANCHES = {
    "body": Branch(frozenset({"noun.body"}), {"00000001": "part"}, {"00000005": "wig"}),
    "state": Branch(frozenset({"noun.state", "noun.body"}), {"00000007": "ill"}, {}),
}


def test_build_medical_takes_what_is_below_the_roots(tmp_path: Path) -> None:
    source = dictionary(tmp_path / "dict", BODY, PERTAINING)
    counts = build_wordnet.build_medical(source, tmp_path, BRANCHES)
    assert counts == {"body": 3, "state": 3, "adj": 2}
    packed = (tmp_path / "wordnet_medical.tsv.gz").read_bytes()
    assert gzip.decompress(packed).decode() == (
        "noun\tbody\tpart\n"
        "noun\tbody\tlung\tLong Lung\n"
        "noun\tbody\tfin bone\n"
        "noun\tstate\twig\n"
        "noun\tstate\tlock\n"
        "noun\tstate\till\tsick\n"
        "adj\tbody\tpulmonary\n"
        "adj\tstate\tsick\till-made\n"
    )
    build_wordnet.build_medical(source, tmp_path, BRANCHES)
    assert (tmp_path / "wordnet_medical.tsv.gz").read_bytes() == packed


@pytest.mark.parametrize("root", [{"00000009": "part"}, {"00000002": "Long Lung"}])
def test_build_medical_refuses_roots_that_are_other_synsets(tmp_path: Path, root: dict[str, str]) -> None:
    source = dictionary(tmp_path / "dict", BODY, PERTAINING)
    with pytest.raises(build_wordnet.DictionaryError, match=f"no synset {next(iter(root))}"):
        build_wordnet.build_medical(source, tmp_path, {"body": BRANCHES["body"]._replace(roots=root)})


def test_branches_are_written_once_and_in_order() -> None:
    for branch in MEDICAL.values():
        assert list(branch.roots) == sorted(branch.roots)
        assert branch.lexicographer_files <= set(build_wordnet.LEXICOGRAPHER_FILES.values())
    roots = [offset for branch in MEDICAL.values() for offset in (*branch.roots, *branch.pruned)]
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize(
    ("nouns", "message"),
    [
        (NOUNS.replace("3.0", "3.1"), "holds WordNet 3.1; version 3.0 is needed"),
        ("00000001 05 n 01 dog 0 000 | barks  \n", "no WordNet licence"),
        (LICENCE + "00000001 77 n 01 dog 0 000 | x\n", "data.noun, line 4: not a synset"),
        (NOUNS.replace("@i 00000001", "@i 00000007"), "no synset 00000007, the hypernym of 'Lassie'"),
        (LICENCE + "00000001 05 n 09 dog 0 000\n", "data.noun, line 4: not a synset"),
        (LICENCE + "00000001 05 n 01 dog 0 002 ~ 00000002 n 0000\n", "data.noun, line 4: not a synset"),
    ],
)
def test_build_refuses_other_dictionaries(tmp_path: Path, nouns: str, message: str) -> None:
    with pytest.raises(build_wordnet.DictionaryError, match=message):
        build_wordnet.build(dictionary(tmp_path / "dict", nouns), tmp_path)
    assert not (tmp_path / "wordnet.tsv.gz").exists()


def test_build_names_the_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_wordnet.main([str(tmp_path)])
    assert stop.value.code == 2
    assert "no data.noun in" in capsys.readouterr().err


def test_shipped_licence_is_wordnets() -> None:
    text = (build_wordnet.CORPORA / "WORDNET_LICENSE.txt").read_text()
    assert text.startswith("This software and database is being provided")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text


def test_edited_corpora_are_those_made_anew():
    corpus = Corpus(
        ("Cloud", "glasses", "rusty", "knives", "flying-fox"), ("noun", "noun", "adj") + 2 * ("noun",)
    )
    longer = corpus.more(Corpus(("flying fox", "knife"), ("noun", "adj")))
    shorter = longer.less({"Cloud", "flying-fox"})
    for edited in (longer, shorter, shorter.less({"knife"})):
        anew = Corpus(edited.words, edited.parts_of_speech, edited.name)
        assert edited == anew
        assert edited._words_of == anew._words_of
        assert edited.fingerprint == anew.fingerprint
    assert shorter.words == ("glasses", "rusty", "knives", "flying fox", "knife")
    assert corpus._words_of == Corpus(corpus.words, corpus.parts_of_speech)._words_of  # stays as it was
    assert [shorter.spelled(word) for word in ("KNIFE", "Cloud", "flying-fox")] == ["knife", None, None]
    assert set(shorter.without(["knife"])) == {"glasses", "rusty", "flying fox"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# mine\ngranite\nviolin\n", ("granite", "violin")),
        ("- granite\n- violin\n", ("granite", "violin")),
        ("0: granite\n1: violin\n", ("granite", "violin")),
    ],
)
def test_lines_of_words_are_read_as_those_of_labels(tmp_path, content, words):
    (tmp_path / "words.txt").write_text(content)
    assert Corpus.load(tmp_path / "words.txt").words == words


@pytest.mark.parametrize(
    "content", ["WORDS = ['granite']\n", '"granite"\n"violin"\n', "granite, violin, oak\n"]
)
def test_lines_that_are_no_words_are_refused_as_for_labels(tmp_path, content):
    (tmp_path / "words.txt").write_text(content)
    with pytest.raises(ValueError, match=r"words.txt (is code|has each|has one line)"):
        Corpus.load(tmp_path / "words.txt")
