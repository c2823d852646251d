"""Guard.save, load and restore: a stream goes on where it was, and whatever differs is refused by name."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from colour_backbone import ColourBackbone
from safetensors.torch import load_file, save_file
from states import assert_same_state, same_state, state_of
from test_guard_threads import in_threads

import tanl
from conftest import unit
from tanl.guard import saving
from tanl.guard.saving import folder_lock
from tanl.io.nested import joined_tensors, split_tensors

LABELS = ["red", "green", "purple"]
CORPUS = tanl.Corpus(
    ("blue", "yellow", *(f"word {i}" for i in range(40))), ("noun", "adj") * 21, "words of mine"
)
BACKBONE = ColourBackbone()


def pixels(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([(0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.1, 0.8, 0.1), (0.9, 0.9, 0.1)])
    mean = colours[torch.arange(count) % 4][:, :, None, None]
    return (mean + 0.1 * torch.randn(count, 3, 8, 8, generator=generator)).clamp(0, 1)


def small_tanl(bank, **settings):
    return tanl.TANL(bank, **{"num_selected": 20, "capacity": 25, "initial_ood": None, **settings})


def small_practice(bank):
    return small_tanl(bank, **tanl.TANL.preset("practice"), num_selected=1000)


def small_neglabel(bank):
    return tanl.NegLabel(bank, num_negatives=None, groups=4)


def small_csp(bank):
    return tanl.CSP(bank, share=0.5, superclasses=("word", "thing"), groups=3)


def small_adaneg(bank):
    return tanl.AdaNeg(bank, memory_length=4)


METHODS = {
    "tanl": "tanl",
    "neglabel": "neglabel",
    "adaneg": "adaneg",
    "mcm": "mcm",
    "max_logit": "max_logit",
    "energy": "energy",
    "function tanl": small_tanl,
    "function neglabel": small_neglabel,
    "function csp": small_csp,
    "function adaneg": small_adaneg,
}


@pytest.fixture
def make(tmp_path):
    def guard(method="tanl", labels=LABELS, corpus=CORPUS, backbone=BACKBONE, **options):
        options = {"cache_dir": tmp_path / "cache", **options}
        return tanl.Guard(backbone, labels, corpus=corpus, method=method, **options)

    return guard


@pytest.fixture
def load(tmp_path):
    def loaded(folder=tmp_path / "saved", **options):
        return tanl.Guard.load(folder, **{"backbone": BACKBONE, "cache_dir": tmp_path / "cache", **options})

    return loaded


def saved_files(folder):
    """The names of what a folder holds, in order, less the lock that it is written under."""
    return sorted(path.name for path in Path(folder).iterdir() if path.name != ".guard.lock")


def close(first, second):
    for one, other in zip(first, second, strict=True):
        assert one._replace(ood_score=0, id_probability=0, evidence=()) == other._replace(
            ood_score=0, id_probability=0, evidence=()
        )
        assert one.ood_score == pytest.approx(other.ood_score, abs=1e-5)


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_where_it_was(make, load, tmp_path, name, compact):
    method = METHODS[name]
    guard = make(method, evidence=3)
    for seed in range(5):
        guard(pixels(13, seed))
    guard.calibrate(pixels(25, 7), tpr=0.9)
    guard.save(tmp_path / "saved", compact=compact)
    again = load(method=None if isinstance(method, str) else method)
    assert again.evidence == 3
    assert again.bank.names == guard.bank.names
    assert again.detector.threshold == guard.detector.threshold
    if not compact:
        assert_same_state(again.detector.state_dict(), guard.detector.state_dict())
    for seed in range(5, 8):
        first, second = guard(pixels(9, seed)), again(pixels(9, seed))
        if compact:
            close(list(first), list(second))
        else:
            assert list(first) == list(second)


def test_a_stream_without_a_calibrated_threshold_goes_on(make, load, tmp_path):
    guard = make()
    guard(pixels(20))
    guard.save(tmp_path / "saved")
    again = load()
    assert again.detector.threshold == guard.detector.threshold
    assert list(again(pixels(9, 1))) == list(guard(pixels(9, 1)))
    guard.reset()
    again.reset()
    assert_same_state(again.detector.state_dict(), guard.detector.state_dict())


def test_the_folder_holds_text_and_tensors_and_no_label_embeddings(make, tmp_path):
    guard = make()
    guard(pixels(20))
    guard.save(tmp_path / "saved", compact=True)
    files = saved_files(tmp_path / "saved")
    assert files[0] == "guard.json" and files[1].startswith("state-") and len(files) == 2
    about = json.loads((tmp_path / "saved" / "guard.json").read_text())
    assert about["tanl"] == tanl.__version__
    assert about["backbone"] == {"name": "colours", "fingerprint": "colours"}
    assert about["labels"] == LABELS
    tensors = load_file(tmp_path / "saved" / files[1])
    rows = len(guard.detector.state.positive._rows) + len(guard.detector.state.negative._rows)
    assert sum(len(t) for name, t in tensors.items() if name.endswith("rows")) == rows
    assert not any(guard.bank.num_negatives in t.shape for t in tensors.values())


def test_compact_is_small_at_full_size(tmp_path):
    """70 000 labels, D = 512, both rings and the history full: what a long stream leaves."""

    class Random:
        name = fingerprint = "random"
        logit_scale, image_size, device = 100.0, 8, torch.device("cpu")

        def encode_texts(self, texts, *, batch_size=256):
            return unit(len(texts), 512, seed=len(texts))

        def encode_images(self, pixels):
            return unit(len(pixels), 512, seed=3)

    corpus = tanl.Corpus.load("neglabel")

    def method(bank):
        def zeros(rows, segments, known):
            return torch.zeros(len(segments), bank.num_negatives), torch.zeros(len(rows) - len(known))

        return tanl.TANL(bank, gap=0.0, activation=zeros)

    labels = [f"label {i}" for i in range(1000)]
    guard = tanl.Guard(Random(), labels, corpus=corpus, method=method, cache_dir=tmp_path / "cache")
    assert guard.bank.num_negatives > 60_000
    state = guard.detector.state
    state.commit(*state.prepare(unit(619, 512, seed=1), unit(619, 512, seed=2)))
    state.learn(20_000, torch.rand(20_000), None, None)
    guard.save(tmp_path / "saved", compact=True)
    assert len(state.positive._rows) + len(state.negative._rows) == 638
    size = sum(path.stat().st_size for path in (tmp_path / "saved").iterdir())
    assert 1_300_000 < size < 1_500_000


def test_selections_are_kept_by_name_with_their_edits(make, load, tmp_path, monkeypatch):
    small = tanl.Corpus(CORPUS.words, CORPUS.parts_of_speech, "csp")
    monkeypatch.setattr("tanl.labels.corpus._selection", lambda name: small)
    guard = make(corpus="csp")
    guard.save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "guard.json").read_text())
    assert about["corpus"]["selection"] == "csp"
    assert about["corpus"]["words"] == about["corpus"]["without"] == []
    assert load().bank.names == guard.bank.names

    guard.remove_negatives(["word 3", "yellow"])
    guard.add_negatives(["zeppelin"])
    guard.add_labels(["white"])
    guard.remove_labels(["green"])
    guard(pixels(15))
    guard.save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "guard.json").read_text())
    assert about["corpus"]["words"] == ["zeppelin"]
    assert about["corpus"]["without"] == ["yellow", "word 3"]
    again = load()
    assert again.bank.names == guard.bank.names
    assert again.bank.id_names == ("red", "purple", "white")
    assert list(again(pixels(9, 1))) == list(guard(pixels(9, 1)))
    again.add_negatives(["word 3"])  # edits go on

    guard.add_negatives(["word 3"])  # back, but at the end: another order, so all words are kept
    guard.save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "guard.json").read_text())
    assert about["corpus"]["selection"] is None
    assert load().bank.names == guard.bank.names

    monkeypatch.setattr(
        "tanl.labels.corpus._selection", lambda name: tanl.Corpus(("sun", "moon"), ("noun",) * 2, name)
    )
    make(corpus=small).save(tmp_path / "saved")
    assert load().corpus == small  # the user's own words, by a selection's name


def test_a_selection_that_changed_since_is_refused(make, load, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tanl.labels.corpus._selection", lambda name: tanl.Corpus(("blue", "sun"), ("noun",) * 2, name)
    )
    make(corpus="csp").save(tmp_path / "saved")
    monkeypatch.setattr(
        "tanl.labels.corpus._selection", lambda name: tanl.Corpus(("blue", "moon"), ("noun",) * 2, name)
    )
    with pytest.raises(ValueError, match="selection 'csp' has other words than when the guard was saved"):
        load()


def test_own_words_templates_and_parts_of_speech_are_kept(make, load, tmp_path):
    guard = make(templates={"adj": "so {}!"})
    guard(pixels(15))
    guard.save(tmp_path / "saved")
    again = load()
    assert again.corpus == CORPUS
    assert torch.equal(again.bank.embeddings, guard.bank.embeddings)
    assert not torch.equal(again.bank.embeddings, make().bank.embeddings)


def test_a_backbone_that_loads_by_name_needs_not_be_given(tiny_backbone, tiny_clip, load, make, tmp_path):
    guard = make(backbone=tiny_backbone)
    guard.save(tmp_path / "saved")
    again = load(backbone=None)
    assert again.backbone.name == f"local-dir:{tiny_clip}"
    assert_same_state(again.detector.state_dict(), guard.detector.state_dict())


def test_load_says_what_it_needs(make, load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no guard was saved in .*nowhere: there is no guard\.json"):
        load(tmp_path / "nowhere")
    make().save(tmp_path / "saved")
    with pytest.raises(
        ValueError, match="the backbone 'colours', which cannot be loaded by that name: give it"
    ):
        load(backbone=None)
    make(small_tanl).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="a detector that a function made, a TANL: give that function"):
        load()


class Other(ColourBackbone):
    name, fingerprint = "mini", "1b2c" * 16


def test_load_refuses_another_backbone_method_or_setting(make, load, tmp_path):
    make(small_tanl).save(tmp_path / "saved")
    with pytest.raises(
        ValueError,
        match=r"with the backbone colours \(fingerprint colours\), not mini \(1b2c1b2c1b2c\.\.\.\)",
    ):
        load(backbone=Other(), method=small_tanl)
    with pytest.raises(ValueError, match="with the method TANL, not MCM"):
        load(method=tanl.MCM)
    with pytest.raises(ValueError, match="saved with capacity=25, this one has 26"):
        load(method=lambda bank: small_tanl(bank, capacity=26))


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": Other()}, r"backbone colours .* not mini"),
        ({"labels": ["red", "green"]}, "labels: saved has 'purple' that this one lacks"),
        (
            {"labels": [*LABELS, "a", "b", "c", "d"]},
            "labels: this one has 'a', 'b', 'c' and 1 more that saved lacks",
        ),
        (
            {"labels": LABELS[::-1]},
            "labels: the same in another order; saved has 'red' at 0, this one 'purple'",
        ),
        ({"corpus": CORPUS.words[1:]}, "corpus: saved has 'blue' that this one lacks"),
        ({"corpus": [*CORPUS.words, "moon"]}, "corpus: this one has 'moon' that saved lacks"),
        ({"corpus": CORPUS.words}, "corpus: the saved words have other parts of speech"),
        (
            {"templates": {"noun": "{}"}},
            "templates: saved for 'noun' is 'The nice {}.', this guard's is '{}'",
        ),
        (
            {"templates": {"id": "a {}"}},
            "templates: saved for 'id' is 'The nice {}.', this guard's is 'a {}'",
        ),
        ({"removal": "names"}, "removal: saved is 'synonyms', this guard's is 'names'"),
        ({"method": "neglabel"}, "with the method TANL, not NegLabel"),
        ({"method": "mcm"}, "with the method TANL, not MCM"),
        ({"method": small_practice}, "saved with capacity=300, this one has 25"),
    ],
)
def test_restore_names_what_differs_and_changes_nothing(make, tmp_path, options, message, compact):
    guard = make()
    guard(pixels(20))
    guard.save(tmp_path / "saved", compact=compact)
    other = make(**options)
    other(pixels(10, 1))
    before = state_of(other.detector)
    with pytest.raises(ValueError, match=message):
        other.restore(tmp_path / "saved")
    assert_same_state(other.detector.state_dict(), before)


BY_HAND = {
    "tanl-paper": {"gap": 0.5, "candidates": 30},
    "tanl": {"memory": "published", "weighing": "sum", "candidates": None},
    "neglabel": {"groups": 2, "num_negatives": None},
    "mcm": {"temperature": 2},
}


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
@pytest.mark.parametrize("method", BY_HAND)
def test_settings_set_by_hand_go_on(make, load, tmp_path, method, compact):
    guard = make(method, settings=BY_HAND[method])
    guard(pixels(20))
    guard.save(tmp_path / "saved", compact=compact)
    again = load()
    assert again.method == guard.method == (method, BY_HAND[method])
    assert again.detector.settings == guard.detector.settings
    close(list(guard(pixels(9, 3))), list(again(pixels(9, 3))))
    load(method=method, settings=BY_HAND[method])  # the same again is no difference


def test_a_setting_that_was_changed_in_use_goes_on(make, load, tmp_path):
    guard = make("tanl")
    guard.detector.gap = 0.75
    guard.save(tmp_path / "saved")
    assert load().method == ("tanl", {"gap": 0.75})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"gap": 0.25}}, r"saved with gap=0\.5, not 0\.25; leave gap out to go on with it"),
        ({"settings": {"alpha": 0.25}}, r"saved with alpha=0\.95, not 0\.25"),
        ({"settings": {"gapp": 0.25}}, "no setting 'gapp'.*did you mean 'gap'"),
        ({"method": "tanl"}, "saved with the method 'tanl-paper', not 'tanl'"),
        ({"method": "neglabel"}, "saved with the method 'tanl-paper', not 'neglabel'"),
    ],
)
def test_load_refuses_other_settings_by_name_before_anything_slow(
    make, load, tmp_path, monkeypatch, options, message
):
    make("tanl-paper", settings={"gap": 0.5}).save(tmp_path / "saved")
    monkeypatch.setattr("tanl.guard.guard.build_bank", lambda *_, **__: pytest.fail("embedded"))
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_a_setting_that_no_file_holds_is_asked_for_and_must_be_the_same(make, load, tmp_path):
    memory = tanl.GuardedMemory(prior=20)
    make("tanl-paper", settings={"gap": 0.5, "memory": memory}).save(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"with memory=GuardedMemory\(.*prior=20.*settings={'memory': \.\.\.}"
    ):
        load()
    again = load(settings={"memory": memory})
    assert again.method == ("tanl-paper", {"gap": 0.5, "memory": repr(memory)})
    with pytest.raises(ValueError, match=r"saved with memory=.*prior=20.*this one has .*prior=21"):
        load(settings={"memory": tanl.GuardedMemory(prior=21)})


def with_outliers(rows):
    return lambda bank: small_tanl(bank, initial_ood=rows)


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, r"another initial_ood \(9 rows\) than this detector's \(none\)"),
        (unit(5, 7, seed=4), r"another initial_ood \(9 rows\) than this detector's \(5 rows\)"),
        (unit(9, 7, seed=4), r"another initial_ood .* from which reset\(\) starts: give the one"),
    ],
    ids=["none", "fewer", "others"],
)
def test_a_tanl_that_starts_from_other_outliers_is_refused(make, load, tmp_path, other, message, compact):
    guard = make(with_outliers(unit(9, 7, seed=3)))
    guard(pixels(20))
    guard.save(tmp_path / "saved", compact=compact)
    with pytest.raises(ValueError, match=message):
        load(method=with_outliers(other))
    mine = make(with_outliers(other))
    before = state_of(mine.detector)
    with pytest.raises(ValueError, match=message):
        mine.restore(tmp_path / "saved")
    assert_same_state(mine.detector.state_dict(), before)
    make(small_tanl).save(tmp_path / "saved", compact=compact)
    with pytest.raises(ValueError, match=r"another initial_ood \(none\) than this detector's \(9 rows\)"):
        load(method=with_outliers(unit(9, 7, seed=3)))


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
def test_outliers_that_another_machine_rounds_otherwise_become_the_saved_ones(make, load, tmp_path, compact):
    rows = unit(9, 7, seed=3)
    guard = make(with_outliers(rows))
    guard(pixels(20))
    guard.save(tmp_path / "saved", compact=compact)
    elsewhere = torch.nn.functional.normalize(rows + 1e-4 * unit(9, 7, seed=8), dim=1)
    again = load(method=with_outliers(elsewhere))
    assert torch.equal(again.detector.initial_ood, rows)
    guard.reset()
    again.reset()
    assert_same_state(again.detector.state_dict(), guard.detector.state_dict())


def test_restore_goes_on_where_the_saved_one_was(make, tmp_path):
    guard, other = make(), make(evidence=0)
    guard(pixels(20))
    guard.calibrate(pixels(25, 1), tpr=0.9)
    guard.save(tmp_path / "saved")
    other(pixels(11, 2))
    other.restore(tmp_path / "saved")
    assert other.evidence == 0
    assert_same_state(other.detector.state_dict(), guard.detector.state_dict())


def test_embeddings_that_differ_in_their_last_bits_are_not_the_same_bit_for_bit(make, load, tmp_path):
    class Elsewhere(ColourBackbone):
        def encode_texts(self, texts, **options):
            return super().encode_texts(texts, **options) * (1 + 3e-7)

    guard = make()
    guard(pixels(20))
    for compact in (True, False):
        guard.save(tmp_path / "saved", compact=compact)
        options = {"backbone": Elsewhere(), "cache_dir": tmp_path / "elsewhere"}
        if compact:
            close(list(load(**options)(pixels(9, 1))), list(load()(pixels(9, 1))))
        else:
            with pytest.raises(
                ValueError, match=r"embeddings differ .* although the names agree.*exact=False"
            ):
                load(**options)
            close(list(load(**options, exact=False)(pixels(9, 1))), list(load()(pixels(9, 1))))
            assert_same_state(load(exact=False).detector.state_dict(), guard.detector.state_dict())
            other = make(**options)
            with pytest.raises(ValueError, match="embeddings differ"):
                other.restore(tmp_path / "saved")
            other.restore(tmp_path / "saved", exact=False)
            close(list(other(pixels(9, 1))), list(load()(pixels(9, 1))))


@pytest.mark.parametrize("method", ["tanl", "mcm"])
def test_damaged_files_are_refused(make, load, tmp_path, method):
    guard = make(method)
    guard(pixels(20))
    guard.save(tmp_path / "saved")
    for name in saved_files(tmp_path / "saved"):
        path = tmp_path / "saved" / name
        whole = path.read_bytes()
        for length in {0, 1, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
                load()
        for place in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=rf"{path.name} (is damaged|has format)"):
                load()
        path.write_bytes(whole)
    load()
    for path in (tmp_path / "saved").glob("state-*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"damaged: state-.* is not there"):
        load()


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"format": 9, "tanl": "9.1", "sha256": ""}'])
def test_other_json_is_no_saved_guard(load, tmp_path, content):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "guard.json").write_text(content)
    message = "format 9, of tanl 9.1; this tanl reads format 2" if "9.1" in content else "no saved guard"
    with pytest.raises(ValueError, match=message):
        load()


class Crash(BaseException):
    """The power is gone."""


def crash_at(monkeypatch, step):
    """Let the step-th of all steps that touch the disk fail."""
    left = step

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("replace", "open", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    return lambda: left > 0


def test_a_crash_at_any_step_leaves_a_guard_that_loads(make, load, tmp_path):
    guard, old = make(), make()
    old(pixels(12))
    outcomes = set()
    for step in range(1, 30):
        old.save(tmp_path / "saved")
        guard.reset()
        guard(pixels(12 + step, step))
        with pytest.MonkeyPatch.context() as monkeypatch:
            untouched = crash_at(monkeypatch, step)
            with suppress(Crash):
                guard.save(tmp_path / "saved")
            whole = untouched()
        state = load().detector.state_dict()
        found = [same_state(state, each.detector.state_dict()) for each in (old, guard)]
        assert sum(found) == 1
        outcomes.add(found.index(True))
        if whole:
            break
    assert step > 8
    assert outcomes == {0, 1}
    guard.save(tmp_path / "saved")
    assert len(saved_files(tmp_path / "saved")) == 2  # nothing is left of the crashes


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[3])
import tanl, torch
from test_guard_saved import BACKBONE, CORPUS, LABELS, pixels, saved_files
from states import same_state
torch.set_num_threads(1)
saved, cache = sys.argv[1:3]

def new():
    return tanl.Guard(BACKBONE, LABELS, corpus=CORPUS, cache_dir=cache)

guard, replayed, expected, most = new(), new(), {}, 0
new().save(saved)
for kill in range(12):
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for seed in range(10**6):
            guard(pixels(5, seed))
            guard.save(saved)
            os.write(tell, b".")
    os.close(tell)
    assert os.read(done, 1 + kill % 3)  # the first is there, however slow the machine is
    time.sleep(0.01 * random.random())
    tanl.Guard.load(saved, backbone=BACKBONE, cache_dir=cache)  # while it is written
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(done)
    state = tanl.Guard.load(saved, backbone=BACKBONE, cache_dir=cache).detector.state_dict()
    images = state["stream"]["images"]
    while replayed.detector.state.images < images:
        replayed(pixels(5, replayed.detector.state.images // 5))
        expected[replayed.detector.state.images] = replayed.detector.state_dict()
    assert images == 0 or same_state(state, expected[images]), images
    most = max(most, images)
assert most > 0
new().save(saved)
assert len(saved_files(saved)) == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_processes_killed_while_they_save_leave_a_guard_that_loads(tmp_path):
    arguments = [str(tmp_path / "saved"), str(tmp_path / "cache"), str(Path(__file__).parent)]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True, timeout=120)


TOGETHER = """
import sys
sys.path.insert(0, sys.argv[3])
import tanl, torch
from states import same_state
from test_guard_saved import BACKBONE, CORPUS, LABELS, pixels
torch.set_num_threads(1)
saved, cache, _, first = sys.argv[1:]

def new():
    return tanl.Guard(BACKBONE, LABELS, corpus=CORPUS, cache_dir=cache)

guard = new()
print("ready", flush=True)
sys.stdin.readline()
for seed in range(60):
    guard(pixels(3 + int(first), seed))
    guard.save(saved, compact=seed % 3 == 0)
    tanl.Guard.load(saved, backbone=BACKBONE, cache_dir=cache)  # whichever of the two was last
"""


def test_two_processes_save_into_one_folder_and_read_it_meanwhile(make, load, tmp_path):
    make().save(tmp_path / "saved")
    arguments = [str(tmp_path / "saved"), str(tmp_path / "cache"), str(Path(__file__).parent)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, *arguments, first],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in "01"
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert load().detector.state.images in (60 * 3, 60 * 4)
    assert len(saved_files(tmp_path / "saved")) == 2


def test_a_folder_that_another_holds_for_long_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_PATIENCE", 0.1)
    with (
        folder_lock(tmp_path / "saved"),
        pytest.raises(TimeoutError, match=r"saving into .*saved for 0 seconds"),
    ):
        make().save(tmp_path / "saved")
    make().save(tmp_path / "saved")


@pytest.mark.parametrize("failing", [1, 2, 3, 4], ids=lambda step: f"step {step}")
@pytest.mark.parametrize("first", [False, True], ids=["over another", "first"])
def test_a_full_disk_keeps_the_old_guard_and_nothing_else(make, load, tmp_path, monkeypatch, failing, first):
    """The disk is full at each of the steps that write: both files, then the folder's entries."""
    guard = make()
    guard(pixels(12))
    if not first:
        guard.save(tmp_path / "saved")
    before = state_of(guard.detector)
    files = [] if first else saved_files(tmp_path / "saved")
    guard(pixels(9, 1))
    count, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            guard.save(tmp_path / "saved")
    if failing < 4:
        assert saved_files(tmp_path / "saved") == files
        if not first:
            assert_same_state(load().detector.state_dict(), before)
    else:  # the new guard is in its place, and the folder's entry could not be made sure of
        assert_same_state(load().detector.state_dict(), guard.detector.state_dict())
    guard.save(tmp_path / "saved")
    assert len(saved_files(tmp_path / "saved")) == 2
    assert_same_state(load().detector.state_dict(), guard.detector.state_dict())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a limit on the size of files")
def test_a_limit_on_the_size_of_files_names_the_file(make, load, tmp_path):
    import resource

    guard = make()
    guard(pixels(12))
    guard.save(tmp_path / "saved")
    before = state_of(guard.detector)
    guard(pixels(9, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match=r"File too large.*saved.*state-"):
            guard.save(tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(saved_files(tmp_path / "saved")) == 2
    assert_same_state(load().detector.state_dict(), before)


def test_threads_save_while_others_judge(make, load, tmp_path):
    guard = make()
    states, going = [], True

    def judge():
        nonlocal going
        try:
            for seed in range(40):
                guard(pixels(5, seed))
        finally:
            going = False

    def keep():
        while going:
            guard.save(tmp_path / "saved", compact=False)

    def read():
        while going:
            states.append(load())

    guard.save(tmp_path / "saved")
    in_threads(judge, keep, keep, read)
    states.append(load())
    other = make()
    expected = {0: other.detector.state_dict()}
    for seed in range(40):
        other(pixels(5, seed))
        expected[other.detector.state.images] = other.detector.state_dict()
    for each in states:
        assert_same_state(each.detector.state_dict(), expected[each.detector.state.images])
    assert len(states) > 2


def test_what_is_saved_is_one_moment_of_the_stream(make, tmp_path):
    class Slow(tanl.TANL):
        def state_dict(self, *, compact=False):
            moments.append(self.state.images)
            time.sleep(0.02)
            moments.append(self.state.images)
            return super().state_dict(compact=compact)

    moments, guard, going = [], make(lambda bank: Slow(bank, capacity=25)), True

    def judge():
        while going:
            guard(pixels(3))

    def keep():
        nonlocal going
        for _ in range(5):
            guard.save(tmp_path / "saved")
        going = False

    in_threads(judge, keep)
    assert len(moments) == 20
    assert all(len(set(moments[i : i + 4])) == 1 for i in range(0, 20, 4))  # both forms of each save
    assert moments[0] < moments[-1]


def test_other_files_in_the_folder_stay(make, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    for name in ("notes.part", "weights.safetensors", "readme.txt"):
        (folder / name).write_text("mine")
    make().save(folder)
    make(small_neglabel).save(folder)
    assert len(saved_files(folder)) == 5


def test_a_folder_that_cannot_be_written_is_an_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make().save(tmp_path / "file")


def test_split_and_joined_are_inverse(tmp_path):
    state = {
        "a": torch.arange(3),
        "b": {
            "c": torch.zeros(0, 4),
            "d": None,
            "tensor": True,
            "e/f": torch.tensor(2.5, dtype=torch.float64),
        },
        "g": (1, 0.1, "x", ("y", [torch.ones(2, dtype=torch.float16)])),
        "h": {},
        "i": [],
        "j": 1e-300,
    }
    tree, tensors = split_tensors(state)
    save_file(tensors, tmp_path / "t.safetensors")
    again = joined_tensors(json.loads(json.dumps(tree)), load_file(tmp_path / "t.safetensors"))
    assert_same_state(again["a"], state["a"])
    assert_same_state(again["b"], state["b"])
    assert torch.equal(again["g"][3][1].pop(), state["g"][3][1].pop())
    assert {key: again[key] for key in "ghij"} == {key: state[key] for key in "ghij"}
    with pytest.raises(TypeError, match="the state's a/b is a set"):
        split_tensors({"a": {"b": set()}})


@pytest.mark.parametrize("compact", [False, True])
def test_labels_in_half_precision_stay_so(make, load, tmp_path, compact):
    guard = make(dtype=torch.float16)
    assert guard.bank.dtype == torch.float16
    guard.save(tmp_path / "saved", compact=compact)
    again = load()
    assert again.bank.dtype == torch.float16
    assert again.bank.fingerprint == guard.bank.fingerprint
