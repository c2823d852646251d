"""Label banks in files: one safetensors file with a checksum, without pickled code, written whole or not at all.

Tensors: ``embeddings [C + M, D]`` (float32 or float16), ``names`` (a JSON list of strings, UTF-8, as bytes) and,
if they are known, ``initial_ood [n, D]``. Metadata, all of it text: ``format``, ``version``, ``num_id``,
``logit_scale``, ``sha256`` and, if they are known, ``backbone`` and ``backbone_fingerprint``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import Embeddings, unit_embeddings
from ..io.paths import local_path
from ..io.tensors import read_tensors, write_tensors
from .bank import LabelBank

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
    names = json.dumps(bank.names).encode()
    tensors = {
        "embeddings": bank.embeddings,
        "names": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }
    if initial_ood is not None:
        tensors["initial_ood"] = unit_embeddings(initial_ood, "initial_ood", dim=bank.dim)
    about = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "num_id": str(bank.num_id),
        "logit_scale": repr(bank.logit_scale),
    }
    if backbone is not None:
        about |= {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    write_tensors(local_path(path), tensors, about)


def load_bank(
    path: str | PathLike[str], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> SavedBank:
    """Read what `save_bank` wrote, bit for bit.

    Args:
        path: the file.
        device: where to put the embeddings.
        dtype: what to keep the labels' embeddings as, float32 or float16; None leaves them as they are in the file.

    Raises:
        ValueError: another dtype; not a bank's file, a damaged one, or one of a newer format than this version reads.
        OSError: it cannot be read.
    """
    path = local_path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a label bank's file; {_MAKE_ONE}")
    if not path.exists():
        raise FileNotFoundError(f"no label bank {path}; {_MAKE_ONE}")
    try:
        tensors, about = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a label bank: {error}; {_MAKE_ONE}") from error
    if about.get("format") != _FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a label bank's; {_MAKE_ONE}")
    if not about.get("version", "").isdigit() or int(about["version"]) > _VERSION:
        raise ValueError(
            f"{path} is a label bank of format {about.get('version')!r}, and this version of tanl reads "
            f"up to {_VERSION}; upgrade tanl, or make the bank again"
        )
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
    if dtype is not None:
        bank = bank.to(dtype=dtype)
    return SavedBank(bank, outliers, about.get("backbone"), about.get("backbone_fingerprint"))
