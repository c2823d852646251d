"""A guard in a folder: ``guard.json``, and beside it the tensors of its stream as safetensors."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from ..backbones import load_backbone
from ..checks import some_of
from ..io.atomic import PART, write_whole
from ..labels.corpus import Corpus
from ..labels.prompts import full_templates
from ..labels.wordnet import SELECTIONS

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..labels.bank import LabelBank
    from ..labels.vocabulary import Vocabulary
    from .guard import Guard, Method

    G = TypeVar("G", bound=Guard)

FORMAT = 1
_JSON = "guard.json"
_OTHERS = ("state-*.safetensors", f"state-*.safetensors*{PART}", f"{_JSON}*{PART}")
_SHOWN = 3
# Two threads that save into one folder would take each other's state file for an older one.
_writing = threading.Lock()


def save(guard: Guard, folder: str | PathLike[str], *, compact: bool) -> None:
    """See `tanl.Guard.save`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _writing:
        with guard._lock:  # only while the state is copied, so that a stream goes on while it is written
            # A full state fits its labels' very bits alone; the small one beside it fits these labels anywhere.
            state = {"compact": guard.detector.state_dict(compact=True)}
            if not compact:
                state["full"] = guard.detector.state_dict()
            tree, tensors = _split(state)
            vocabulary, bank = guard._vocabulary, guard.bank
        packed = bytes_of_tensors(tensors)
        digest = hashlib.sha256(packed).hexdigest()
        file = f"state-{digest[:16]}.safetensors"
        about = _described(guard, vocabulary, bank)
        about |= {"state": tree, "state_file": file, "state_sha256": digest}
        content = json.dumps({**about, "sha256": _checksum(about)}, ensure_ascii=False, indent=1).encode()
        # guard.json tells which state file counts: before it is replaced the old one does, afterwards the new one.
        write_whole(folder / file, packed)
        write_whole(folder / _JSON, content)
        for leftover in [path for pattern in _OTHERS for path in folder.glob(pattern)]:
            if leftover.name != file:
                leftover.unlink(missing_ok=True)


def load(
    cls: type[G],
    folder: str | PathLike[str],
    *,
    backbone: Backbone | None,
    method: Method | None,
    cache_dir: str | PathLike[str] | None,
    device: torch.device | str,
    exact: bool,
    progress: bool,
) -> G:
    """See `tanl.Guard.load`."""
    about, state = _read(Path(folder))
    if backbone is None:
        backbone = _loaded_backbone(about["backbone"]["name"], device)
    _refuse_other_backbone(about, backbone)
    if method is None:
        method = about["method"]
        if method is None:
            raise ValueError(
                f"the guard was saved with a detector that a function made, a {state['compact']['method']}: "
                "give that function as method"
            )
    guard = cls(
        backbone,
        about["labels"],
        corpus=_rebuilt_corpus(about["corpus"]),
        method=method,
        templates=about["templates"],
        cache_dir=cache_dir,
        evidence=about["evidence"],
        progress=progress,
    )
    _take_over(guard, about, state, exact)
    return guard


def restore(guard: Guard, folder: str | PathLike[str], *, exact: bool) -> None:
    """See `tanl.Guard.restore`."""
    about, state = _read(Path(folder))
    with guard._lock:
        _take_over(guard, about, state, exact)


def _described(guard: Guard, vocabulary: Vocabulary, bank: LabelBank) -> dict[str, Any]:
    backbone = guard.backbone
    return {
        "format": FORMAT,
        "tanl": version("tanl"),
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "labels": list(bank.id_names),
        "corpus": _described_corpus(vocabulary.corpus),
        "templates": full_templates(vocabulary.templates),
        "names_fingerprint": bank.names_fingerprint,
        "method": guard._method,
        "evidence": guard.evidence,
    }


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


def _loaded_backbone(name: str, device: torch.device | str) -> Backbone:
    try:
        return load_backbone(name, device=device)
    except ValueError as error:
        raise ValueError(
            f"the guard was saved with the backbone {name!r}, which cannot be loaded by that name: "
            "give it as backbone"
        ) from error


def _refuse_other_backbone(about: dict[str, Any], backbone: Backbone) -> None:
    saved = about["backbone"]
    if saved["fingerprint"] != backbone.fingerprint:
        raise ValueError(
            f"the guard was saved with the backbone {saved['name']} (fingerprint {_short(saved['fingerprint'])}), "
            f"not {backbone.name} ({_short(backbone.fingerprint)})"
        )


def _take_over(guard: Guard, about: dict[str, Any], forms: dict[str, Any], exact: bool) -> None:
    """The saved state, in the form that fits, into a guard, after all in which the two may differ."""
    _refuse_other_backbone(about, guard.backbone)
    detector, state = guard.detector, forms["compact"]
    if state["method"] != type(detector).__name__:  # before the corpus, which some methods have none of
        raise ValueError(
            f"the guard was saved with the method {state['method']}, not {type(detector).__name__}"
        )
    own = _described(guard, guard._vocabulary, guard.bank)
    _refuse_other_names("labels", about["labels"], own["labels"])
    saved_corpus, own_corpus = about["corpus"] or {}, own["corpus"] or {}
    if saved_corpus.get("fingerprint") != own_corpus.get("fingerprint"):
        corpus = _rebuilt_corpus(about["corpus"])
        ours = guard._vocabulary.corpus
        _refuse_other_names("corpus", corpus.words if corpus else (), ours.words if ours else ())
        raise ValueError("corpus: the saved words have other parts of speech than this one's")
    for part, template in own["templates"].items():
        if about["templates"][part] != template:
            raise ValueError(
                f"templates: saved for {part!r} is {about['templates'][part]!r}, this guard's is {template!r}"
            )
    settings = detector.settings
    for name in sorted(state["settings"].keys() | settings.keys()):
        if state["settings"].get(name) != settings.get(name):
            raise ValueError(
                f"the guard was saved with {name}={state['settings'].get(name)!r}, this one has {settings.get(name)!r}"
            )
    if about["names_fingerprint"] != own["names_fingerprint"]:
        raise ValueError(
            "labels and corpus are those that were saved, but make another list of negatives with this tanl: "
            f"load it with the tanl that saved it, {about['tanl']}"
        )
    if "full" in forms:
        if forms["full"]["bank"] == detector.bank.fingerprint:
            state = forms["full"]
        elif exact:
            raise ValueError(
                "the labels' embeddings differ from the saved ones although the names agree: they were computed on "
                "another machine, with another torch, or a few at a time as labels were edited. A stream goes on bit "
                "for bit with the same embeddings alone; exact=False goes on up to rounding, as a compact save does"
            )
    detector.load_state_dict(state)


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


def _split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Nested dicts, lists and tuples of tensors and plain values, as JSON and the tensors that it names."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()  # safetensors refuses shared memory
            return {"tensor": path}
        if isinstance(value, dict):
            return {
                "dict": {key: plain(each, f"{path}/{key}" if path else key) for key, each in value.items()}
            }
        if isinstance(value, list | tuple):
            return {type(value).__name__: [plain(each, f"{path}/{i}") for i, each in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"the state's {path} is a {type(value).__name__}, which cannot be saved")

    return plain(state, ""), tensors


def _joined(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_split` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _joined(each, tensors) for key, each in value.items()}
    items = [_joined(each, tensors) for each in value]
    return tuple(items) if kind == "tuple" else items


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
    state: dict[str, Any] = _joined(about["state"], tensors)
    return about, state


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
