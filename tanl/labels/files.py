"""Label banks in files: one safetensors file with a checksum, without pickled code, written whole or not at all.

A bank larger than memory is written a part at a time (`save_bank_parts`) and mapped where it is read
(``load_bank(path, mmap=True)``), see `tanl.io.mapped`.

Tensors: ``embeddings [C + M, D]`` (float32 or float16), ``names`` (a JSON list of strings, UTF-8, as bytes) and,
if they are known, ``initial_ood [n, D]``. Metadata, all of it text: ``format``, ``version``, ``num_id``,
``logit_scale``, ``sha256`` and, if they are known, ``backbone`` and ``backbone_fingerprint``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import Embeddings, unit_embeddings, whole_number
from ..io.mapped import Parts, map_tensors, write_parts
from ..io.paths import local_path
from ..io.tensors import read_tensors, write_tensors
from .bank import KEPT_TOLERANCE, LabelBank, checked_counts, checked_dtype, checked_scale
from .names import checked_names

if TYPE_CHECKING:
    from ..backbones import Backbone

_FORMAT = "tanl-label-bank"
_VERSION = 1
_MAKE_ONE = "`tanl bank` and tanl.save_bank make one"


@dataclass(frozen=True)
class SavedBank:
    """What a bank's file holds.

    Attributes:
        bank: the labels.
        initial_ood: ``[n, D]`` known outliers that TANL starts from, such as the backbone's `noise_embeddings`; None
            if the file has none.
        backbone: name of the model that embedded the labels, and must embed the images; None if it is not known.
        backbone_fingerprint: of that model's weights and preprocessing.
    """

    bank: LabelBank
    initial_ood: Tensor | None = None
    backbone: str | None = None
    backbone_fingerprint: str | None = None


def save_bank(
    bank: LabelBank,
    path: str | PathLike[str],
    *,
    initial_ood: Embeddings | None = None,
    backbone: Backbone | None = None,
) -> None:
    """Write a bank to a file; an older file of that name is replaced when the new one is whole.

    Args:
        bank: the labels.
        path: the file, usually ``NAME.safetensors``.
        initial_ood: ``[n, D]`` unit rows that TANL is to start from, such as ``noise_embeddings(backbone)``.
        backbone: what embedded the labels; its name and fingerprint are noted.

    Raises:
        TypeError, ValueError: ``initial_ood`` is unusable.
        OSError: the file cannot be written.
    """
    tensors = {"embeddings": bank.embeddings, **_beside(bank.names, initial_ood, bank.dim)}
    about = _about(bank.num_id, bank.logit_scale, backbone)
    if bank.file is None:
        write_tensors(local_path(path), tensors, about)
    else:
        write_parts(local_path(path), tensors, about)


def save_bank_parts(
    path: str | PathLike[str],
    names: Sequence[str],
    parts: Iterable[Tensor],
    *,
    dim: int,
    num_id: int,
    logit_scale: float,
    dtype: torch.dtype = torch.float16,
    initial_ood: Embeddings | None = None,
    backbone: Backbone | None = None,
) -> None:
    """Write a bank whose embeddings are more than memory holds, as they come; `load_bank` reads it.

    Args:
        path: the file, usually ``NAME.safetensors``; an older one of that name is replaced when the new one is whole.
        names: C + M label names, the ID labels first. No name occurs twice.
        parts: their embeddings in order, tensors ``[n, D]`` of unit rows, such as what a backbone's ``encode_texts``
            gives for a few thousand prompts; each is written before the next is asked for.
        dim: D.
        num_id: C.
        logit_scale: s, what cosines are multiplied by.
        dtype: what they are kept as: float16 or float32.
        initial_ood: as `save_bank` takes it.
        backbone: as `save_bank` takes it.

    Raises:
        TypeError, ValueError: unusable names, numbers or rows; more or fewer rows than names. No file is left then.
        OSError: the file cannot be written.
    """
    names = checked_names(names, "label")
    num_id, logit_scale = checked_counts(num_id, len(names)), checked_scale(logit_scale)
    dim, dtype = whole_number(dim, "dim", at_least=1), checked_dtype(dtype)

    def checked() -> Iterator[Tensor]:
        first = 0
        for part in parts:
            what = f"label embeddings from row {first} on"
            yield unit_embeddings(part, what, dim=dim, dtype=dtype, tolerance=KEPT_TOLERANCE)
            first += len(part)

    tensors: dict[str, Tensor | Parts] = {
        "embeddings": Parts((len(names), dim), dtype, checked()),
        **_beside(names, initial_ood, dim),
    }
    write_parts(local_path(path), tensors, _about(num_id, logit_scale, backbone))


def _beside(names: Sequence[str], initial_ood: Embeddings | None, dim: int) -> dict[str, Tensor]:
    """The tensors of a file beside the embeddings."""
    packed = bytearray(json.dumps(names).encode())
    tensors = {"names": torch.frombuffer(packed, dtype=torch.uint8)}
    if initial_ood is not None:
        tensors["initial_ood"] = unit_embeddings(initial_ood, "initial_ood", dim=dim)
    return tensors


def _about(num_id: int, logit_scale: float, backbone: Backbone | None) -> dict[str, str]:
    about = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "num_id": str(num_id),
        "logit_scale": repr(logit_scale),
    }
    if backbone is not None:
        about |= {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    return about


def load_bank(
    path: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    mmap: bool = False,
) -> SavedBank:
    """Read what `save_bank` wrote, bit for bit.

    Args:
        path: the file.
        device: where to put the embeddings.
        dtype: what to keep the labels' embeddings as, float32 or float16; None leaves them as they are in the file.
        mmap: leave the embeddings in the file and map them, so that they need not fit into memory; names are read. The
            whole file is held against its checksum first, which takes as long as to read it. Whoever then cuts the file
            in place kills this process, as it does with any mapped file: replace such a file by another of its name, as
            `save_bank` does, and let nobody write into it. ``bank.file.check()`` tells one that was written to.

    Raises:
        ValueError: another dtype; not a bank's file, a damaged one, or one of a newer format than this version reads;
            ``mmap`` with a device other than the CPU, or a dtype other than the file's.
        OSError: it cannot be read.
    """
    path = local_path(path)
    if mmap and torch.device(device).type != "cpu":
        raise ValueError(f"a mapped bank is on the CPU, not on {device}: leave mmap out, or the device")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a label bank's file; {_MAKE_ONE}")
    if not path.exists():
        raise FileNotFoundError(f"no label bank {path}; {_MAKE_ONE}")
    try:
        tensors, about, file = map_tensors(path) if mmap else (*read_tensors(path), None)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a label bank: {error}; {_MAKE_ONE}") from error
    if about.get("format") != _FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a label bank's; {_MAKE_ONE}")
    if not about.get("version", "").isdigit() or int(about["version"]) > _VERSION:
        raise ValueError(
            f"{path} is a label bank of format {about.get('version')!r}, and this version of tanl reads "
            f"up to {_VERSION}; upgrade tanl, or make the bank again"
        )
    bank, outliers = _bank_of(path, tensors, about, device)
    if dtype is not None and mmap and dtype != bank.dtype:
        raise ValueError(
            f"{path} holds {bank.dtype}, and a mapped bank stays as it is: leave dtype out, or mmap"
        )
    bank.file = file
    if dtype is not None:
        bank = bank.to(dtype=dtype)
    return SavedBank(bank, outliers, about.get("backbone"), about.get("backbone_fingerprint"))


def _bank_of(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str], device: torch.device | str
) -> tuple[LabelBank, Tensor | None]:
    """The bank of a file's tensors and notes, and the outliers."""
    try:
        bank = LabelBank.of_kept(
            json.loads(tensors["names"].numpy().tobytes()),
            tensors["embeddings"].to(device),
            num_id=int(about["num_id"]),
            logit_scale=float(about["logit_scale"]),
        )
        outliers = tensors.get("initial_ood")
        if outliers is not None:
            outliers = unit_embeddings(outliers, "initial_ood", dim=bank.dim).to(device)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged label bank: {error}; make it again") from error
    return bank, outliers
