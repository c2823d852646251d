"""Areas: names, corpora, banks and guards made of them."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from PIL import Image
from torch import Tensor

from tanl.backbones.callables import CallableBackbone
from tanl.detectors import TANL
from tanl.guard.guard import Guard
from tanl.io.images import UnreadableImage
from tanl.labels.bank import LabelBank
from tanl.labels.build import build_bank
from tanl.labels.corpus import Corpus
from tanl.labels.index import near_duplicates
from tanl.labels.understood import understood_labels

from .values import D, anything, names, scalars, unit
from .watch import Watch, all_finite

_WORDS = ("blue", "yellow", "chair", *(f"word {i}" for i in range(30)))


def _text(texts: list[str]) -> Tensor:
    return torch.cat([unit(1, seed=zlib.crc32(text.encode("utf-8", "surrogatepass"))) for text in texts])


def _image(pixels: Tensor) -> Tensor:
    return pixels.flatten(1)[:, :D] + 0.1


@cache
def backbone() -> CallableBackbone:
    """Embeds a text at random, and an image by its first pixels."""

    def preprocess(image: Image.Image) -> Tensor:
        return torch.tensor(list(image.resize((4, 4)).tobytes())).reshape(4, 4, 3).permute(2, 0, 1) / 255

    return CallableBackbone(_image, _text, preprocess, fingerprint="fuzz")


@cache
def _folder() -> Path:
    place = Path(tempfile.mkdtemp(prefix="tanl-fuzz-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


@cache
def _guard() -> Guard:
    def method(bank: LabelBank) -> TANL:
        return TANL(bank, num_selected=8, capacity=20, initial_ood=unit(5, seed=3))

    return Guard(backbone(), ["cat", "dog"], corpus=_WORDS, method=method, cache_dir=_folder())


def banks(data: DataObject, watch: Watch) -> None:
    """`LabelBank` of names and embeddings of any kind."""
    given: dict[str, Any] = {
        "names": ["a", "b", "c"],
        "embeddings": unit(3),
        "num_id": 1,
        "logit_scale": 10.0,
    }
    changed = data.draw(st.lists(st.sampled_from([*given, "dtype"]), min_size=1, max_size=2, unique=True))
    for name in changed:
        given[name] = data.draw(names()) if name == "names" else data.draw(anything()).value
    what = f"LabelBank({', '.join(f'{name}={given[name]!r}'[:80] for name in changed)})"
    bank = watch.call(what, lambda: LabelBank(**given))
    if bank is not None:
        watch.works(what, lambda: _use(bank))
        count, dtype = data.draw(anything()), data.draw(anything())
        watch.call(f"mined({count})", lambda: bank.mined(count.value))
        watch.call(f"to({dtype})", lambda: bank.to(dtype.value))
        watch.call(f"to(dtype={dtype})", lambda: bank.to(dtype=dtype.value))


def _use(bank: LabelBank) -> None:
    repr(bank)
    bank.fingerprint, bank.names_fingerprint  # noqa: B018, they are computed
    if bank.num_negatives and bank.dim == D:
        all_finite(TANL(bank)(unit(3)), "a score")


def corpora(data: DataObject, watch: Watch) -> None:
    """Words, and edits of them."""
    words = data.draw(names())
    corpus = watch.call(f"Corpus.load({words!r})", lambda: Corpus.load(words))
    watch.call(f"Corpus({words!r})", lambda: Corpus(words, ("noun",) * len(words)))
    part = data.draw(anything())
    watch.call(f"parts of speech {part}", lambda: Corpus(("a", "b"), part.value))
    watch.call(f"called {part}", lambda: Corpus(("a", "b"), ("noun", "adj"), part.value))
    corpus = corpus or Corpus(_WORDS, ("noun",) * len(_WORDS))
    removed = data.draw(names())
    for verb in ("without", "words_for"):
        watch.call(f"{verb}({removed!r})", partial(getattr(corpus, verb), removed))
    watch.call(f"| {part}", lambda: corpus | part.value)
    watch.call(f"prompts({part})", lambda: corpus.prompts(part.value))
    watch.call(f"spelled({part})", lambda: corpus.spelled(part.value))
    watch.call(f"understood_labels({removed!r})", lambda: understood_labels(removed, corpus))


def building(data: DataObject, watch: Watch) -> None:
    """`build_bank` and `Guard` of labels, corpora and settings of any kind."""
    given: dict[str, Any] = {}
    labels = data.draw(st.one_of(names(), st.just(["cat", "dog"])))
    corpus = data.draw(st.one_of(names(), st.just(_WORDS)))
    for name in data.draw(st.lists(st.sampled_from(["templates", "cache_dir"]), max_size=1)):
        drawn = data.draw(scalars())
        given[name] = str(_folder() / "c") if name == "cache_dir" else drawn.value
    if data.draw(st.booleans()):
        part, text = data.draw(st.sampled_from(["id", "noun", "adj", "x"])), data.draw(st.text(max_size=6))
        given["templates"] = {part: data.draw(st.sampled_from([text, "{}", "{} {}", "a {}", "{0}", "{x}"]))}
    given.setdefault("cache_dir", _folder())
    what = f"labels {labels!r}, corpus {corpus!r}, {given}"
    bank = watch.call(f"build_bank: {what}", lambda: build_bank(backbone(), labels, corpus=corpus, **given))
    if bank is not None:
        watch.works(what, lambda: _use(bank))
        cosine = data.draw(scalars())
        watch.call(
            f"near_duplicates: {what}, {cosine}", lambda: near_duplicates(bank, threshold=cosine.value)
        )
    name = data.draw(st.sampled_from(["method", "evidence", "backbone"]))
    drawn = data.draw(anything())
    arguments = {"backbone": backbone(), "method": "neglabel", **given, name: drawn.value}
    own = arguments.pop("backbone")
    guard = watch.call(
        f"Guard: {what}, {name} = {drawn}", lambda: Guard(own, ["cat"], corpus=_WORDS, **arguments)
    )
    if guard is not None:
        watch.works(what, lambda: guard([Image.new("RGB", (9, 9))]))


def edits(data: DataObject, watch: Watch) -> None:
    """Labels and negatives that are edited while a stream goes on."""
    guard = copy.deepcopy(_guard())
    guard.detect_embeddings(unit(6, seed=4))
    verb = data.draw(st.sampled_from(["add_labels", "remove_labels", "add_negatives", "remove_negatives"]))
    words = data.draw(
        st.one_of(names(), st.lists(st.sampled_from([*_WORDS, "cat", "dog", "kitten"]), max_size=3))
    )
    before, bank = guard.detector, guard.bank
    what = f"{verb}({words!r})"
    edited = watch.call(what, lambda: getattr(guard, verb)(words) or True, [guard.detector])
    if edited is None and not (guard.detector is before and guard.bank is bank):
        watch.works(what, _other_bank)
    watch.works(what, lambda: all_finite(guard.score([Image.new("RGB", (9, 9))]), "a score"))


def _other_bank() -> None:
    raise AssertionError("a refused edit changed the guard")


_IMAGES = st.one_of(
    anything().map(lambda named: named.value),
    st.sampled_from(["", "nowhere.png", "\x00", "/", ".", "/dev/null", "a" * 5000, "\ud800"]),
    st.builds(
        Image.new,
        st.sampled_from(
            ["RGB", "L", "1", "P", "I;16", "F", "CMYK", "RGBA", "LAB", "HSV", "PA", "La", "YCbCr"]
        ),
        st.tuples(st.integers(0, 40), st.integers(0, 40)),
    ),
)


def guards(data: DataObject, watch: Watch) -> None:
    """What a guard is called with."""
    guard = copy.deepcopy(_guard())
    images = data.draw(
        st.one_of(_IMAGES, st.lists(_IMAGES, max_size=4), st.lists(_IMAGES, max_size=4).map(iter))
    )
    verb = data.draw(
        st.sampled_from(
            ["__call__", "score", "predict", "explain", "encode", "calibrate", "stream", "yielding"]
        )
    )
    what = f"{verb}({images!r})"
    if verb in ("stream", "yielding"):
        _stream(data, watch, guard, images, what, "raise" if verb == "stream" else "yield")
    else:
        watch.call(what, lambda: getattr(guard, verb)(images), [guard.detector])
    watch.works(what, lambda: all_finite(guard.score([Image.new("RGB", (9, 9))]), "a score"))


def _stream(data: DataObject, watch: Watch, guard: Guard, images: Any, what: str, errors: str) -> None:
    settings: dict[str, Any] = {"errors": errors}
    for name in data.draw(
        st.lists(st.sampled_from(["batch_size", "max_wait", "read_ahead", "errors"]), max_size=2)
    ):
        drawn = data.draw(scalars())
        settings[name] = drawn.value
        what += f", {name} = {drawn}"
    stream = watch.call(what, lambda: guard.stream(images, **settings), [guard.detector])
    if stream is None:
        return
    found = watch.call(what, lambda: list(stream))
    if found is not None and settings["errors"] == "raise":
        watch.works(what, lambda: _none_unreadable(found))


def _none_unreadable(found: list[Any]) -> None:
    assert not any(isinstance(each, UnreadableImage) for each in found)


AREAS = {
    "banks": banks,
    "corpora": corpora,
    "banks and guards built": building,
    "labels edited": edits,
    "images for a guard": guards,
}
