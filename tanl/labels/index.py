"""LabelIndex: the labels nearest to an embedding, exactly or through faiss; near-duplicate labels.

As in `nearest`, what a query finds does not depend, in any bit, on the queries beside it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..checks import (
    Embeddings,
    as_tensor,
    fraction,
    kept_tensor,
    number,
    unit_embeddings,
    whole_number,
)
from ..io.mapped import MappedFile, write_parts
from ..io.paths import local_path
from ..io.tensors import read_tensors, write_tensors
from ..io.text import some_of
from .bank import KEPT_TOLERANCE as _KEPT
from .bank import LabelBank
from .lists import Lists, load_faiss, rows_fingerprint
from .names import checked_names
from .nearest import QUERIES, Neighbours, nearest
from .on_gpu import best_search, nearest_in_shards

Kind = Literal["auto", "flat", "ivf"]

LARGEST_FLAT = 200_000
PROBE = 0.5
NEAR_DUPLICATE = 0.9

_FETCH = (2048, 4)  # what is rescored for the best k: at least 2048 labels, and 4 k
_FORMAT = "tanl-label-index"
_VERSION = 1


class NearDuplicate(NamedTuple):
    """A negative label that says the same as an ID label; see `near_duplicates`."""

    id_label: str
    negative: str
    cosine: float


class LabelIndex:
    """Nearest labels of an embedding: search, save and load. A label's row is its place among the names.

    Two kinds, chosen by measurement (``python -m tools label-index``). ``flat`` looks at every label: exact, nothing
    to build, no memory above the embeddings, no faiss. ``ivf`` needs faiss: inverted lists of 4-bit product
    quantised residuals (``D / 4`` bytes a label) of the embeddings less their mean, which image queries have
    nothing to tell apart by; the best by their codes are rescored with the float embeddings, so that the cosines
    are exact, and only labels whose codes came too late are missed. Graphs (HNSW) and plain or 8-bit lists
    were slower at the same recall: image queries lie outside the clusters of texts, so a large share of the
    lists has to be read. On a GPU there is ``flat`` alone, by a faiss for GPUs where it is installed
    (``tanl[faiss-gpu]``), else by torch: to look at ten million labels there is estimated to cost less than to
    look up in lists as many as are needed (not measured).

    Args:
        names: N labels, none twice.
        embeddings: ``[N, D]``, unit rows. float32 and float16 are taken as they are, without a copy, and never
            written to; everything else is kept as float32.
        kind: ``flat``, ``ivf``, or ``auto``: flat up to 200 000 labels and on a GPU, ivf above on the CPU.
        probe: share of the lists that a search reads, in [0, 1]; at least one list.
        seed: of the choice of labels that the lists are trained on, and of the clustering.
        lists: how many there are; None is twice the root of N. To fill them takes N x lists products.
        folder: where a build keeps its lists, a shard of a million labels at a time, to go on from if it was stopped;
            None keeps nothing. `save` keeps the index itself.

    Raises:
        ImportError: ``ivf`` without faiss.
        TypeError, ValueError: unusable names, embeddings or settings; ``ivf`` for embeddings on a GPU; a folder with
            shards of other labels.
        OSError: the folder cannot be written.
    """

    _struck: Tensor | None = None  # [len(self)] bool
    _more: Tensor | None = None  # [e, D]: labels that came later, the last rows

    def __init__(
        self,
        names: Sequence[str],
        embeddings: Embeddings,
        *,
        kind: Kind = "auto",
        probe: float = PROBE,
        seed: int = 0,
        lists: int | None = None,
        folder: str | PathLike[str] | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"no kind {kind!r}; there are {', '.join(map(repr, get_args(Kind)))}")
        checked = checked_names(names, "label")
        seed, probe = whole_number(seed, "seed", at_least=0), fraction(probe, "probe")
        embeddings = _unit_rows(embeddings)
        if len(embeddings) != len(checked):
            raise ValueError(f"{len(checked)} names, but {len(embeddings)} embeddings; give one row a name")
        if kind == "auto":
            kind = "ivf" if len(checked) > LARGEST_FLAT and embeddings.device.type == "cpu" else "flat"
        if lists is not None:
            lists = whole_number(lists, "lists", at_least=1)
        kept_in = None if folder is None else local_path(folder)
        built = Lists.built(embeddings, seed, lists, kept_in) if kind == "ivf" else None
        self._set_up(checked, embeddings, built, probe, seed)

    def _set_up(
        self,
        names: tuple[str, ...],
        embeddings: Tensor,
        lists: Lists | None,
        probe: float,
        seed: int,
    ) -> None:
        self.file: MappedFile | None = None  # what the embeddings are mapped from
        self.kind: Kind = "flat" if lists is None else "ivf"
        self.names = names
        self.embeddings = embeddings  # [N, D]
        self.probe = probe
        self.seed = seed
        self._lists = lists

    @classmethod
    def of(
        cls,
        bank: LabelBank,
        *,
        kind: Kind = "auto",
        probe: float = PROBE,
        seed: int = 0,
        lists: int | None = None,
        folder: str | PathLike[str] | None = None,
    ) -> LabelIndex:
        """An index of a bank's negative labels, row i its i-th negative; see the class for the settings.

        The embeddings of a mapped bank (`tanl.load_bank`) stay in its file.

        Raises:
            TypeError: bank is no LabelBank.
            ValueError: the bank has none.
        """
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not a {type(bank).__name__}")
        if not bank.num_negatives:
            raise ValueError("the bank has no negative labels to index; give it a corpus")
        settings: dict[str, Any] = {"probe": probe, "seed": seed, "lists": lists, "folder": folder}
        index = cls(bank.negative_names, bank.negative_embeddings, kind=kind, **settings)
        index.file = bank.file
        return index

    def __len__(self) -> int:
        """Labels, those that were struck out among them: rows keep their numbers."""
        return len(self.names)

    @cached_property
    def num_struck(self) -> int:
        """Labels that were struck out."""
        return 0 if self._struck is None else int(self._struck.sum())

    @property
    def is_edited(self) -> bool:
        """Whether labels were added or struck out."""
        return self._struck is not None or self._more is not None

    @property
    def struck(self) -> Tensor:
        """Which labels were struck out, ``[len(self)]`` bool."""
        none = torch.zeros(len(self), dtype=torch.bool, device=self.device)
        return none if self._struck is None else self._struck

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names, of up to 4096 rows of embeddings, and of what was edited."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(rows_fingerprint(self.embeddings).encode())
        if self._more is not None:
            digest.update(rows_fingerprint(self._more).encode())
        digest.update(str(self.struck.nonzero()[:, 0].tolist() if self._struck is not None else []).encode())
        return digest.hexdigest()

    def vectors(self, rows: Tensor) -> Tensor:
        """Embeddings of labels by their rows ``[n]``, ``[n, D]`` in memory, as they are kept: float32 or float16."""
        if self._more is None:
            return self.embeddings[rows]
        own = len(self.embeddings)
        result = self.embeddings[rows.clamp(max=own - 1)]
        late = rows >= own
        result[late] = self._more[rows[late] - own]
        return result

    def without(self, names: Sequence[str]) -> LabelIndex:
        """The same index less some labels: they are struck out, nothing is built anew, and rows keep their numbers.

        Raises:
            TypeError, ValueError: no names; one that is not here, or was struck out; no label would be left.
        """
        gone = set(checked_names(names, "label"))
        struck = self.struck.clone()
        rows = torch.tensor(
            [row for row, name in enumerate(self.names) if name in gone], dtype=torch.int64, device="cpu"
        )
        rows = rows[~struck[rows].cpu()]
        if len(rows) < len(gone):
            here = {self.names[row] for row in rows.tolist()}
            missing = [name for name in names if name not in here]
            raise ValueError(f"not among the labels of {self!r}: {some_of(missing, 5)}")
        struck[rows.to(struck.device)] = True
        if bool(struck.all()):
            raise ValueError(f"these are all the labels of {self!r}; keep at least one")
        return self._edited(_struck=struck)

    def extended(self, names: Sequence[str], embeddings: Embeddings) -> LabelIndex:
        """The same index and more labels, in memory, with the last rows; they are searched exactly, none is missed.

        For edits: with very many labels more, build another index.

        Args:
            names: e labels, none of which is here, unless it was struck out.
            embeddings: ``[e, D]``, unit rows, on the index's device; kept as the others are.

        Raises:
            TypeError, ValueError: unusable names or embeddings; a name that is here.
        """
        names = checked_names(names, "label")
        new = set(names)
        struck = self.struck
        here = [name for row, name in enumerate(self.names) if name in new and not bool(struck[row])]
        if here:
            raise ValueError(
                f"{some_of(here, 5)} among the labels of {self!r} already; leave out what is there"
            )
        kept = self.embeddings.dtype
        rows = unit_embeddings(
            embeddings, "label embeddings", dim=self.dim, device=self.device, dtype=kept, tolerance=_KEPT
        )
        if len(rows) != len(names):
            raise ValueError(f"{len(names)} names, but {len(rows)} embeddings; give one row a name")
        more = rows if self._more is None else torch.cat([self._more, rows])
        edits: dict[str, Any] = {"_more": more, "names": (*self.names, *names)}
        if self._struck is not None:
            edits["_struck"] = torch.cat([struck, struck.new_zeros(len(rows))])
        return self._edited(**edits)

    def _edited(self, **edits: Any) -> LabelIndex:
        other = copy.copy(self)
        for name in ("fingerprint", "num_struck"):
            other.__dict__.pop(name, None)
        other.__dict__.update(edits)
        return other

    @property
    def dim(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, and where queries must be; the CPU for ``ivf``."""
        return self.embeddings.device

    @property
    def overhead(self) -> int:
        """Bytes held beside the embeddings and the names: those of the lists as they are saved."""
        return 0 if self._lists is None else self._lists.nbytes

    @torch.no_grad()
    def search(self, z: Embeddings, k: int, *, fetch: int | None = None) -> Neighbours:
        """The ``k`` labels nearest to each query, the nearest first, equal ones in the order of their rows.

        Args:
            z: ``[B, D]``, unit rows, on the index's device.
            k: labels a query; at most as many as the index has are given.
            fetch: how many labels ``ivf`` takes by their codes and rescores; at least k. None is 4 k, and at
                least 2048. ``flat`` has no use for it.

        Raises:
            TypeError: z is not a floating tensor, or k no whole number.
            ValueError: unusable z, k or fetch.
        """
        z = self._checked(z)
        k = min(whole_number(k, "k", at_least=1), len(self) - self.num_struck)
        least, times = _FETCH
        fetch = max(least, times * k) if fetch is None else whole_number(fetch, "fetch", at_least=k)
        if self._exactly(fetch):
            return self._nearest(z, k)
        cosines, rows = self._fetched(z, fetch)
        order = _rank(cosines, rows).topk(k, dim=1).indices
        cosines, rows = cosines.gather(1, order), rows.gather(1, order)
        short = (rows < 0).any(dim=1)  # the lists that were read hold fewer than k labels
        if bool(short.any()):
            cosines[short], rows[short] = self._nearest(z[short], k)
        return Neighbours(cosines, rows)

    @torch.no_grad()
    def candidates(self, z: Embeddings, count: int) -> Neighbours:
        """About the ``count`` nearest labels of each query, in any order, with exact cosines.

        As `search` with ``fetch = k``, less the sorting. Where the lists that were read hold fewer labels,
        the places left over have the row -1 and the cosine -inf.
        """
        z = self._checked(z)
        count = min(whole_number(count, "count", at_least=1), len(self) - self.num_struck)
        if self._exactly(count):
            return self._nearest(z, count)
        return self._fetched(z, count)

    def to(self, device: torch.device | str) -> LabelIndex:
        """The same labels with their embeddings on another device.

        Raises:
            ValueError: it is an ``ivf`` index, which is for the CPU; no such device, or not on this machine.
        """
        if self._lists is not None and torch.device(device).type != "cpu":
            raise ValueError(f"{self!r} is for the CPU: on {device} there is LabelIndex(..., kind='flat')")
        other = copy.copy(self)
        try:
            other.embeddings = self.embeddings.to(device)
            other._struck = None if self._struck is None else self._struck.to(device)
            other._more = None if self._more is None else self._more.to(device)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"the index cannot be moved to {device}: {str(error).splitlines()[0]}"
            ) from error
        return other

    def save(self, path: str | PathLike[str], *, labels: bool = True) -> None:
        """Keep the index in a file (safetensors, with a checksum), in place of one that is there.

        Args:
            path: the file, usually ``NAME.safetensors``, in a folder that is there.
            labels: with the labels and their embeddings; else `load` wants the bank that has them, and the file holds
                the lists and the edits alone.

        Raises:
            OSError: the file cannot be written; the one from before stays as it is.
        """
        own = len(self.embeddings)
        tensors: dict[str, Tensor] = {}
        about = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "probe": repr(float(self.probe)),
            "seed": str(self.seed),
        }
        if labels:
            tensors |= {"embeddings": self.embeddings, "names": _packed(self.names[:own])}
        else:
            about["of"] = _mark(self.names[:own], self.embeddings)
        if self._lists is not None:
            tensors |= {"mean": self._lists.mean, "lists": self._lists.packed()}
        if self._more is not None:
            tensors |= {"more": self._more, "more_names": _packed(self.names[own:])}
        if self._struck is not None:
            tensors["struck"] = self._struck.nonzero()[:, 0]
        # A mapped file's labels are more than memory may hold.
        write = write_tensors if self.file is None else write_parts
        write(local_path(path), tensors, about)

    @classmethod
    def load(cls, path: str | PathLike[str], *, bank: LabelBank | None = None) -> LabelIndex:
        """An index that `save` kept, on the CPU, wherever it was: there it finds the same, bit for bit; see `to`.

        Args:
            path: the file.
            bank: whose negatives it is an index of, where it was saved without labels; their embeddings stay where
                they are, such as in a mapped file.

        Raises:
            ImportError: it is an ``ivf`` index, and faiss is not there.
            ValueError: the file holds no index, is damaged, of another format or of another bank; the message names it.
            OSError: it cannot be read.
        """
        path = local_path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a label index's file; LabelIndex.save makes one")
        try:
            tensors, about = read_tensors(path)
            if about.get("format") != _FORMAT or about.get("version") != str(_VERSION):
                raise ValueError(
                    f"it has the format {about.get('format')!r}, version {about.get('version')!r}"
                )
            names, embeddings = _labels_of(tensors, about, bank)
            if embeddings.ndim != 2 or len(embeddings) != len(names):
                raise ValueError(f"it has embeddings {list(embeddings.shape)} for {len(names)} labels")
            lists = Lists.unpacked(tensors["lists"], tensors["mean"]) if "lists" in tensors else None
            if lists is not None and len(lists) != len(names):
                raise ValueError(f"its lists hold {len(lists)} labels, but it has {len(names)} names")
            probe, seed = fraction(float(about["probe"]), "probe"), int(about["seed"])
            index = cls.__new__(cls)
            index._set_up(names, embeddings, lists, probe, seed)
            if "more" in tensors:
                # A name may be here twice, if it was struck out before it came again.
                late = tuple(json.loads(tensors["more_names"].numpy().tobytes()))
                index._more = unit_embeddings(
                    tensors["more"], "later labels", dim=index.dim, dtype=embeddings.dtype, tolerance=_KEPT
                )
                if len(index._more) != len(late):
                    raise ValueError(f"it has {len(index._more)} later embeddings for {len(late)} names")
                index.names = (*names, *late)
            if "struck" in tensors:
                rows = kept_tensor(tensors["struck"], "struck", (None,), torch.int64)
                if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(index):
                    raise ValueError(f"it strikes out labels beyond its {len(index)}")
                index._struck = torch.zeros(len(index), dtype=torch.bool, device="cpu")
                index._struck[rows] = True
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be used as a label index: {error}; save it again") from error
        index.file = None if bank is None else bank.file
        return index

    def __deepcopy__(self, memo: dict[int, Any]) -> LabelIndex:
        """Labels and lists are never changed: copies share them."""
        return copy.copy(self)

    def __repr__(self) -> str:
        probe = "" if self._lists is None else f", probe={self.probe}"
        struck = f" less {self.num_struck}" if self.num_struck else ""
        return f"LabelIndex({len(self)} labels{struck}, D={self.dim}, kind={self.kind!r}{probe}, seed={self.seed})"

    def _nearest(self, z: Tensor, k: int) -> Neighbours:
        own = len(self.embeddings)
        struck = None if self._struck is None else self._struck[:own]
        alive = own if struck is None else own - int(struck.sum())
        search = best_search(self.device)
        if not alive:
            found = Neighbours(
                z.new_empty(len(z), 0), torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
            )
        elif search is None or struck is not None:
            found = nearest(z, self.embeddings, min(k, alive), struck)
        else:
            found = nearest_in_shards(z, self.embeddings, k, search)
        return self._with_more(z, found, k)

    def _with_more(self, z: Tensor, found: Neighbours, k: int) -> Neighbours:
        """What was found among the labels of the beginning, and those that came later: the nearest k of both."""
        if self._more is None:
            return found
        own = len(self.embeddings)
        struck = None if self._struck is None else self._struck[own:]
        alive = len(self._more) if struck is None else int((~struck).sum())
        if not alive:
            return found
        late = nearest(z, self._more, min(k, alive), struck)
        cosines, order = torch.cat([found.cosines, late.cosines], dim=1).sort(
            dim=1, descending=True, stable=True
        )
        rows = torch.cat([found.rows, late.rows + own], dim=1).gather(1, order)
        return Neighbours(cosines[:, :k].contiguous(), rows[:, :k].contiguous())

    def _checked(self, z: Embeddings) -> Tensor:
        return unit_embeddings(z, "query embeddings", dim=self.dim, device=self.device)

    def _exactly(self, fetch: int) -> bool:
        return self._lists is None or fetch >= len(self)

    def _fetched(self, z: Tensor, count: int) -> Neighbours:
        """The best ``count`` labels by their codes with their cosines, in any order; -1 and -inf for none."""
        assert self._lists is not None
        parts = []
        for part in torch.split(z, QUERIES):
            rows = self._lists.best(part, count, self.probe)
            if self._struck is not None:
                rows.masked_fill_(self._struck[rows.clamp(min=0)], -1)
            parts.append((_rescored(part, self.embeddings, rows), rows))
        found = Neighbours(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return self._with_more(z, found, count)


def near_duplicates(
    bank: LabelBank,
    *,
    threshold: float = NEAR_DUPLICATE,
    k: int = 10,
    index: LabelIndex | None = None,
) -> list[NearDuplicate]:
    """Negative labels that say the same as an ID label: such a word takes an ID image for an outlier.

    Args:
        bank: ID labels and negatives.
        threshold: the least cosine between the two labels' embeddings. With the embedded model 0.9 finds other
            wordings ("flash camera" for "camera with flash", "loaf of bread" for "bread"), and some words formed
            with the label ("soap dish"); from 0.85 down nearly all are its kinds, parts and compounds ("motorboat"
            for "boat"). Other models' texts lie closer together or further apart: look at the list.
        k: at most so many negatives for an ID label.
        index: an index of the bank's negatives, such as ``LabelIndex.of(bank)``; None makes one for this call.

    Returns:
        The pairs, the most similar first. To leave the words out, build the bank without them.

    Raises:
        ValueError: the bank has no negatives, or the index is of another dimension.
    """
    if not isinstance(bank, LabelBank):
        raise TypeError(f"bank must be a LabelBank, not a {type(bank).__name__}")
    if not -1 <= number(threshold, "threshold") <= 1:
        raise ValueError(f"threshold must be a cosine, in [-1, 1], not {threshold!r}")
    if index is None:
        index = LabelIndex.of(bank, kind="flat")
    found = index.search(bank.id_embeddings, k)
    pairs = [
        NearDuplicate(bank.id_names[i], index.names[int(found.rows[i, j])], float(found.cosines[i, j]))
        for i, j in (found.cosines >= threshold).nonzero().tolist()
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _rank(cosines: Tensor, rows: Tensor) -> Tensor:
    """Whole numbers in the order of the cosines and, among equal ones, against that of the rows."""
    bits = cosines.view(torch.int32)
    ordered = bits ^ (
        (bits >> 31) & 0x7FFF_FFFF
    )  # a float's bits, as a whole number that is larger where it is
    return (ordered.long() << 32) - rows


def _rescored(z: Tensor, embeddings: Tensor, rows: Tensor) -> Tensor:
    """Cosines of each query with labels of its own ``rows [B, n]``, float32; -inf for the row -1."""
    if embeddings.dtype == torch.float32:
        faiss = load_faiss()
        queries, labels, wanted = z.contiguous().numpy(), embeddings.numpy(), rows.numpy()
        cosines = torch.empty(rows.shape, dtype=torch.float32, device="cpu")
        faiss.fvec_inner_products_by_idx(
            faiss.swig_ptr(cosines.numpy()),
            faiss.swig_ptr(queries),
            faiss.swig_ptr(labels),
            faiss.swig_ptr(wanted),
            z.shape[1],
            *wanted.shape,
        )
        return cosines
    each = [
        (embeddings[row.clamp(min=0)].float() * query).sum(dim=1) for query, row in zip(z, rows, strict=True)
    ]
    return torch.stack(each).masked_fill_(rows < 0, -torch.inf)


def _unit_rows(embeddings: Embeddings) -> Tensor:
    """The embeddings as they are kept: checked, float16 as it is, all else float32."""
    embeddings = as_tensor(embeddings, "label embeddings")
    dtype = torch.float16 if embeddings.dtype == torch.float16 else torch.float32
    return unit_embeddings(embeddings, "label embeddings", dtype=dtype).contiguous()


def _packed(names: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> tuple[str, ...]:
    return checked_names(json.loads(packed.numpy().tobytes()), "label")


def _mark(names: Sequence[str], embeddings: Tensor) -> str:
    """What tells the labels of an index that is saved without them."""
    of_names = hashlib.sha256("\0".join(names).encode()).hexdigest()
    return f"{len(names)} labels {of_names} {rows_fingerprint(embeddings)}"


def _labels_of(
    tensors: Mapping[str, Tensor], about: Mapping[str, str], bank: LabelBank | None
) -> tuple[tuple[str, ...], Tensor]:
    """The names and embeddings of a saved index, the file's or the bank's."""
    if "of" not in about:
        if bank is not None:
            raise ValueError("it holds its labels itself: load it without a bank")
        return _unpacked(tensors["names"]), tensors["embeddings"]
    if bank is None:
        raise ValueError("it was saved without labels: load it with the bank that has them, bank=...")
    names, embeddings = bank.negative_names, bank.negative_embeddings
    if _mark(names, embeddings) != about["of"]:
        count = about["of"].split(" ", 1)[0]
        raise ValueError(
            f"it is of another bank, with {count} negatives, than {bank!r}, or of other embeddings or another dtype"
        )
    return names, embeddings
