"""What is saved of a guard, in a folder: ``guard.json``, and beside it the tensors of its stream as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors

from ..backbones import load_backbone
from ..detectors.base import is_same
from ..detectors.registry import refuse_settings
from ..io.atomic import PART, write_whole
from ..io.nested import joined_tensors, split_tensors
from ..io.paths import local_path
from ..io.text import some_of
from ..labels.corpus import Corpus
from ..labels.wordnet import SELECTIONS

if TYPE_CHECKING:
    from ..backbones import Backbone

FORMAT = 2
_JSON = "guard.json"
_OTHERS = ("state-*.safetensors", f"state-*.safetensors*{PART}", f"{_JSON}*{PART}")
_LOCK = ".guard.lock"
_PATIENCE = 60.0  # seconds that a save waits for others that save into its folder
_SHOWN = 3
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class GuardRecord:
    """What is saved of a guard.

    Attributes:
        tanl: the version that saved it.
        backbone: its name, by which it may load.
        backbone_fingerprint: tells it from any other.
        labels: the ID labels.
        corpus: what the negatives are taken from, with all edits.
        templates: the prompt for every part of speech and for ID labels.
        removal: which words leave the corpus for the labels.
        dtype: what the labels' embeddings are kept as.
        names_fingerprint: tells the bank's labels, by name.
        method: the name of its method; None if a function made the detector, or ID images chose its negatives.
        by_hand: the settings of a method by name that are not its own, and that JSON can hold.
        objects: the names of those that it cannot hold.
        evidence: how many negative labels an OOD verdict comes with.
        show_all: whether any negative label is named as evidence.
        compact: the detector's compact state.
        full: its full state; None if the guard was saved without.
    """

    tanl: str
    backbone: str
    backbone_fingerprint: str
    labels: tuple[str, ...]
    corpus: Corpus | None
    templates: Mapping[str, str]
    removal: str
    dtype: torch.dtype
    names_fingerprint: str
    method: str | None
    by_hand: Mapping[str, Any]
    objects: tuple[str, ...]
    evidence: int
    show_all: bool
    compact: dict[str, Any]
    full: dict[str, Any] | None

    @property
    def detector(self) -> str:
        """The detector's class."""
        return str(self.compact["method"])

    @property
    def settings(self) -> dict[str, Any]:
        """The detector's settings."""
        return dict(self.compact["settings"])

    def refuse_other_method(self, method: str | None, settings: Mapping[str, Any]) -> None:
        """Refuse another method by name, or other settings, than the guard goes on with, before anything slow.

        Args:
            method: a name; None for the guard's own.
            settings: of the method. Those that are not among them go on as they were.

        Raises:
            ValueError: it names the difference; or a setting is missing that no file holds.
            TypeError: a value that the setting cannot have.
        """
        if self.method is None:
            return
        if method not in (None, self.method):
            raise ValueError(
                f"the guard was saved with the method {self.method!r}, not {method!r}; go on with its own, or make "
                "another guard, in another folder"
            )
        refuse_settings(self.method, settings)
        for name, value in settings.items():
            if name not in self.objects and not is_same(value, self.settings[name]):
                raise ValueError(
                    f"the guard was saved with {name}={self.settings[name]!r}, not {value!r}; leave {name} out to go "
                    "on with it, or make another guard, in another folder"
                )
        if missing := [name for name in self.objects if name not in settings]:
            raise ValueError(
                f"the guard was saved with {missing[0]}={self.settings[missing[0]]}, which no file holds: load it "
                f"with settings={{{missing[0]!r}: ...}}"
            )

    def refuse_other(self, own: GuardRecord) -> None:
        """Refuse a guard that cannot go on with this one's stream.

        Raises:
            ValueError: another backbone, method, corpus or setting, other labels or templates; it names the difference.
        """
        refuse_other_backbone(self, own.backbone, own.backbone_fingerprint)
        if self.detector != own.detector:  # before the corpus, which some methods have none of
            raise ValueError(f"the guard was saved with the method {self.detector}, not {own.detector}")
        _refuse_other_names("labels", self.labels, own.labels)
        if self.corpus != own.corpus:
            words = [() if each is None else each.words for each in (self.corpus, own.corpus)]
            _refuse_other_names("corpus", *words)
            if _fingerprint(self.corpus) != _fingerprint(own.corpus):
                raise ValueError("corpus: the saved words have other parts of speech than this one's")
        for part, template in own.templates.items():
            if self.templates[part] != template:
                raise ValueError(
                    f"templates: saved for {part!r} is {self.templates[part]!r}, this guard's is {template!r}"
                )
        if self.removal != own.removal:
            raise ValueError(f"removal: saved is {self.removal!r}, this guard's is {own.removal!r}")
        for name in sorted(self.settings.keys() | own.settings.keys()):
            if self.settings.get(name) != own.settings.get(name):
                raise ValueError(
                    f"the guard was saved with {name}={self.settings.get(name)!r}, "
                    f"this one has {own.settings.get(name)!r}"
                )
        if self.names_fingerprint != own.names_fingerprint:
            raise ValueError(
                "labels and corpus are those that were saved, but make another list of negatives with this tanl: "
                f"load it with the tanl that saved it, {self.tanl}"
            )

    def state_for(self, bank_fingerprint: str, exact: bool) -> dict[str, Any]:
        """The detector's state in the form that fits a bank with the same names.

        Raises:
            ValueError: it was saved over other bits of the labels' embeddings, and ``exact`` asks for the same.
        """
        if self.full is None:
            return self.compact
        if self.full["bank"] == bank_fingerprint:
            return self.full
        if exact:
            raise ValueError(
                "the labels' embeddings differ from the saved ones although the names agree: they were computed on "
                "another machine, with another torch, or a few at a time as labels were edited. A stream goes on bit "
                "for bit with the same embeddings alone; exact=False goes on up to rounding, as a compact save does"
            )
        return self.compact


@contextmanager
def folder_lock(folder: str | PathLike[str]) -> Iterator[None]:
    """Hold a folder against other threads and processes that save into it; it is made if need be.

    Raises:
        OSError: the folder cannot be made or written, or others have been saving into it for a minute.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise TimeoutError(
            f"another process has been saving into {folder} for {_PATIENCE:.0f} seconds; save elsewhere, or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_record(record: GuardRecord, folder: str | PathLike[str]) -> None:
    """Put a guard into a folder, in the place of one that it holds. Its `folder_lock` must be held.

    Raises:
        OSError: it cannot be written; the folder then holds what it held before.
    """
    folder = local_path(folder)
    states = {"compact": record.compact} | ({} if record.full is None else {"full": record.full})
    tree, tensors = split_tensors(states)
    packed = bytes_of_tensors(tensors)
    digest = hashlib.sha256(packed).hexdigest()
    file = f"state-{digest[:16]}.safetensors"
    about: dict[str, Any] = {
        "format": FORMAT,
        "tanl": record.tanl,
        "backbone": {"name": record.backbone, "fingerprint": record.backbone_fingerprint},
        "labels": list(record.labels),
        "corpus": _described_corpus(record.corpus),
        "templates": dict(record.templates),
        "removal": record.removal,
        "dtype": str(record.dtype).removeprefix("torch."),
        "names_fingerprint": record.names_fingerprint,
        "method": record.method,
        "settings": dict(record.by_hand),
        "objects": list(record.objects),
        "evidence": record.evidence,
        "show_all": record.show_all,
        "state": tree,
        "state_file": file,
        "state_sha256": digest,
    }
    content = json.dumps({**about, "sha256": _checksum(about)}, ensure_ascii=False, indent=1).encode()
    # guard.json tells which state file counts: before it is replaced the old one does, afterwards the new one.
    try:
        write_whole(folder / file, packed)
        write_whole(folder / _JSON, content)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            if _state_file(folder) != file:  # it would fill a full disk for nothing
                (folder / file).unlink()
        raise
    for leftover in [path for pattern in _OTHERS for path in folder.glob(pattern)]:
        if leftover.name != file:
            leftover.unlink(missing_ok=True)


def holds_guard(folder: str | PathLike[str]) -> bool:
    """Whether a guard was saved in a folder; whether it can be read is another matter."""
    return (local_path(folder) / _JSON).exists()


def read_record(folder: str | PathLike[str]) -> GuardRecord:
    """The guard that a folder holds.

    Raises:
        FileNotFoundError: it holds none.
        ValueError: a damaged file, or words that this tanl's selection lacks.
    """
    about, states = _read(local_path(folder))
    return GuardRecord(
        tanl=about["tanl"],
        backbone=about["backbone"]["name"],
        backbone_fingerprint=about["backbone"]["fingerprint"],
        labels=tuple(about["labels"]),
        corpus=_rebuilt_corpus(about["corpus"]),
        templates=about["templates"],
        removal=about["removal"],
        dtype=_DTYPES[about["dtype"]],
        names_fingerprint=about["names_fingerprint"],
        method=about["method"],
        by_hand=about["settings"],
        objects=tuple(about["objects"]),
        evidence=about["evidence"],
        show_all=about["show_all"],
        compact=states["compact"],
        full=states.get("full"),
    )


def loaded_backbone(record: GuardRecord, device: torch.device | str) -> Backbone:
    """The backbone that a guard was saved with, loaded by its name.

    Raises:
        ValueError: it has no name that loads.
        BackboneError: it cannot be fetched or read.
    """
    try:
        return load_backbone(record.backbone, device=device)
    except ValueError as error:
        raise ValueError(
            f"the guard was saved with the backbone {record.backbone!r}, which cannot be loaded by that name: "
            "give it as backbone"
        ) from error


def refuse_other_backbone(record: GuardRecord, name: str, fingerprint: str) -> None:
    """Refuse another backbone than a guard was saved with."""
    if record.backbone_fingerprint != fingerprint:
        raise ValueError(
            f"the guard was saved with the backbone {record.backbone} "
            f"(fingerprint {_short(record.backbone_fingerprint)}), not {name} ({_short(fingerprint)})"
        )


def _described_corpus(corpus: Corpus | None) -> dict[str, Any] | None:
    """A selection by its name, with what was edited; a corpus of the user's own in full."""
    if corpus is None:
        return None
    described: dict[str, Any] = {
        "selection": corpus.name,
        "without": [],
        "words": [],
        "parts_of_speech": [],
        "fingerprint": corpus.fingerprint,
    }
    if corpus.name in SELECTIONS:
        selection = Corpus.load(corpus.name)
        if corpus is selection:
            return described
        ours, theirs = set(corpus.words), set(selection.words)
        pairs = list(zip(corpus.words, corpus.parts_of_speech, strict=True))
        described["without"] = [word for word in selection.words if word not in ours]
        described["words"] = [word for word, _ in pairs if word not in theirs]
        described["parts_of_speech"] = [part for word, part in pairs if word not in theirs]
        edits = len(described["without"]) + len(described["words"])
        if edits < len(corpus) and _corpus(described).fingerprint == corpus.fingerprint:
            return described
    return {
        **described,
        "selection": None,
        "name": corpus.name,
        "words": list(corpus.words),
        "parts_of_speech": list(corpus.parts_of_speech),
    }


def _rebuilt_corpus(described: dict[str, Any] | None) -> Corpus | None:
    if described is None:
        return None
    corpus = _corpus(described)
    if corpus.fingerprint != described["fingerprint"]:
        raise ValueError(
            f"this tanl's selection {described['selection']!r} has other words than when the guard was saved "
            f"(fingerprint {_short(corpus.fingerprint)}, saved {_short(described['fingerprint'])}): "
            "load it with the tanl that saved it"
        )
    return corpus


def _corpus(described: dict[str, Any]) -> Corpus:
    words, parts = described["words"], described["parts_of_speech"]
    if described["selection"] is None:
        return Corpus(tuple(words), tuple(parts), described["name"])
    selection, without = Corpus.load(described["selection"]), set(described["without"])
    pairs = zip(selection.words, selection.parts_of_speech, strict=True)
    kept = [pair for pair in pairs if pair[0] not in without]
    return Corpus(
        (*(word for word, _ in kept), *words), (*(part for _, part in kept), *parts), selection.name
    )


def _fingerprint(corpus: Corpus | None) -> str | None:
    return None if corpus is None else corpus.fingerprint


def _refuse_other_names(what: str, saved: Sequence[str], own: Sequence[str]) -> None:
    here, there = set(own), set(saved)
    lacking = [name for name in saved if name not in here]
    extra = [name for name in own if name not in there]
    if lacking:
        raise ValueError(f"{what}: saved has {some_of(lacking, _SHOWN)} that this one lacks")
    if extra:
        raise ValueError(f"{what}: this one has {some_of(extra, _SHOWN)} that saved lacks")
    if list(saved) != list(own):
        place, name = next((i, name) for i, name in enumerate(saved) if own[i] != name)
        raise ValueError(
            f"{what}: the same in another order; saved has {name!r} at {place}, this one {own[place]!r}"
        )


def _short(fingerprint: str) -> str:
    return f"{fingerprint[:12]}..." if len(fingerprint) > 12 else fingerprint


def _checksum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was saved of the guard, and its detector's state."""
    while True:
        about = _read_json(folder / _JSON)
        path = folder / about["state_file"]
        try:
            content = path.read_bytes()
            break
        except FileNotFoundError as error:
            # A save that came between the two files has another one by now.
            if _read_json(folder / _JSON)["state_file"] == about["state_file"]:
                raise ValueError(f"{folder} is damaged: {path.name} is not there; save again") from error
    if hashlib.sha256(content).hexdigest() != about["state_sha256"]:
        raise ValueError(f"{path} is damaged: its content is not what was saved; save again")
    try:
        tensors = tensors_from_bytes(content)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    state: dict[str, Any] = joined_tensors(about["state"], tensors)
    return about, state


def _state_file(folder: Path) -> str | None:
    """The file that holds the state of the guard in a folder; None if there is no guard that can be read.

    Raises:
        OSError: nobody can tell.
    """
    try:
        return str(_read_json(folder / _JSON)["state_file"])
    except (FileNotFoundError, ValueError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no guard was saved in {path.parent}: there is no {path.name}") from error
    try:
        about: dict[str, Any] = json.loads(content)
        checksum = about.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or no saved guard: {error!r}; save again") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {about.get('format')!r}, of tanl {about.get('tanl')}; this tanl reads format {FORMAT}"
        )
    if checksum != _checksum(about):
        raise ValueError(f"{path} is damaged, or was edited: its content is not what was saved; save again")
    return about
