"""LabelIndex: the labels nearest to an embedding, exactly or through faiss; near-duplicate labels.

Everything here is per row: what a query finds does not depend, in any bit, on the queries beside it. Matrix
products differ in their last bits with the shape of the matrices, so they are made in blocks of one shape.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checks import Embeddings, as_tensor, fraction, unit_embeddings, whole_number
from .bank import LabelBank, checked_names

Kind = Literal["auto", "flat", "ivf"]

LARGEST_FLAT = 200_000
PROBE = 0.5
NEAR_DUPLICATE = 0.9

_ROWS = 64  # rows of a product; the last block is filled up
_TILE = 2048  # labels of a product
_WIDE = 16_384  # labels whose cosines are kept at once
_QUERIES = 1024  # queries that are searched at once
_FETCH = (2048, 4)  # what is rescored for the best k: at least 2048 labels, and 4 k
_TRAINING = 40  # labels for training, a list
_LEAST_TRAINING = 16 * 40  # a code book has 16 words, and faiss warns below 39 examples of each
_FORMAT = "tanl.LabelIndex"
_VERSION = 1
_MANIFEST = "index.json"


class Neighbours(NamedTuple):
    """Labels near to B queries.

    Attributes:
        cosines: ``[B, k]`` float32, the largest first, equal ones in the order of their rows.
        rows: ``[B, k]`` int64: which labels they are.
    """

    cosines: Tensor
    rows: Tensor


class NearDuplicate(NamedTuple):
    """A negative label that says the same as an ID label; see `near_duplicates`."""

    id_label: str
    negative: str
    cosine: float


def nearest(z: Tensor, labels: Tensor, k: int, *, without: Tensor | None = None) -> Neighbours:
    """The ``k`` labels nearest to each query, exactly: every label is looked at, a tile of them at a time.

    Args:
        z: ``[B, D]`` float32.
        labels: ``[N, D]`` float32 or float16, on z's device.
        k: how many, at most the labels there are.
        without: rows of labels that are left out, ascending, int64.

    Returns:
        Cosines and rows, ``[B, k]`` each. ``B x 16 384`` cosines are held at once, whatever N.
    """
    parts = [_nearest(part, labels, k, without) for part in torch.split(z, _QUERIES)]
    return Neighbours(*(torch.cat(column) for column in zip(*parts, strict=True)))


def products(z: Tensor, labels: Tensor, out: Tensor | None = None) -> Tensor:
    """``z @ labels.T`` in float32, ``[B, N]``, each row the same bits whatever rows are beside it.

    Args:
        z: ``[B, D]`` float32.
        labels: ``[N, D]`` float32 or float16.
        out: ``[b, N]``, written to; b is B, filled up to a whole number of blocks of 64 rows.
    """
    blocks = [_filled_up(block) for block in torch.split(z, _ROWS)]
    if out is None:
        out = z.new_empty(_ROWS * len(blocks), len(labels))
    for start in range(0, len(labels), _TILE):
        tile = labels[start : start + _TILE].float().T
        for i, block in enumerate(blocks):
            torch.mm(block, tile, out=out[i * _ROWS : (i + 1) * _ROWS, start : start + _TILE])
    return out[: len(z)]


class LabelIndex:
    """Nearest labels of an embedding: search, add and remove labels, save and memory-map.

    A label's row is its place among all labels ever added. It stays the label's own: removing others does not
    change it, and it is not given out again. The memory of removed labels' embeddings is freed when an index
    is built anew.

    Two kinds, chosen by measurement (``python -m tools label-index``). ``flat`` looks at every label: exact, nothing
    to build, no memory above the embeddings, no faiss. ``ivf`` needs faiss: inverted lists of 4-bit product
    quantised residuals (``D / 4`` bytes a label) of the embeddings less their mean, which image queries have
    nothing to tell apart by; the best by their codes are rescored with the float embeddings, so that the cosines
    are exact, and only labels whose codes came too late are missed. Graphs (HNSW) and plain or 8-bit lists
    were slower at the same recall: image queries lie outside the clusters of texts, so a large share of the
    lists has to be read.

    Args:
        names: N labels, none twice.
        embeddings: ``[N, D]``, unit rows. float32 and float16 are taken as they are, without a copy, and never
            written to; everything else is kept as float32.
        kind: ``flat``, ``ivf``, or ``auto``: flat up to 200 000 labels, ivf above.
        probe: share of the lists that a search reads, in [0, 1]; at least one list.
        seed: of the choice of labels that the lists are trained on, and of the clustering.

    Raises:
        ImportError: ``ivf`` without faiss.
        TypeError, ValueError: unusable names, embeddings or settings; ``ivf`` for embeddings on a GPU.
    """

    def __init__(
        self,
        names: Sequence[str],
        embeddings: Embeddings,
        *,
        kind: Kind = "auto",
        probe: float = PROBE,
        seed: int = 0,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"no kind {kind!r}; there are {', '.join(map(repr, get_args(Kind)))}")
        checked = checked_names(names, "label")
        whole_number(seed, "seed", at_least=0)
        fraction(probe, "probe")
        embeddings = _unit_rows(embeddings)
        _same_number(checked, embeddings)
        if kind == "auto":
            kind = "flat" if len(checked) <= LARGEST_FLAT else "ivf"
        lists = _Lists.trained(embeddings, seed) if kind == "ivf" else None
        self._set_up(list(checked), embeddings, lists, probe, seed)

    def _set_up(
        self,
        names: list[str | None],
        embeddings: Tensor,
        lists: _Lists | None,
        probe: float,
        seed: int,
    ) -> None:
        self.kind: Kind = "flat" if lists is None else "ivf"
        self.probe = probe
        self.seed = seed
        self._names = names  # by row; None where the label was removed
        self._row = {name: row for row, name in enumerate(names) if name is not None}
        self._store = embeddings  # the first len(names) rows are used
        self._lists = lists
        self._removed = torch.tensor(
            [row for row, name in enumerate(names) if name is None],
            dtype=torch.int64,
            device=embeddings.device,
        )

    @classmethod
    def of(cls, bank: LabelBank, *, kind: Kind = "auto", probe: float = PROBE, seed: int = 0) -> LabelIndex:
        """An index of a bank's negative labels, row i its i-th negative; see the class for the settings.

        Raises:
            ValueError: the bank has none.
        """
        if not bank.num_negatives:
            raise ValueError("the bank has no negative labels to index; give it a corpus")
        return cls(bank.negative_names, bank.negative_embeddings, kind=kind, probe=probe, seed=seed)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, name: object) -> bool:
        return name in self._row

    @property
    def names(self) -> tuple[str, ...]:
        """The labels in the index, in the order of their rows."""
        return tuple(self._row)

    @property
    def rows(self) -> Tensor:
        """The rows of `names`, int64."""
        return torch.tensor(list(self._row.values()), dtype=torch.int64)

    @property
    def dim(self) -> int:
        """D."""
        return self._store.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, and where queries must be; the CPU for ``ivf``."""
        return self._store.device

    @property
    def embeddings(self) -> Tensor:
        """``[rows, D]``, by row, those of removed labels included. Not to be written to."""
        return self._store[: len(self._names)]

    @property
    def overhead(self) -> int:
        """Bytes held beside the embeddings and the names: those of the lists as they are saved."""
        return 0 if self._lists is None else self._lists.nbytes

    def name(self, row: int) -> str:
        """The label of a row.

        Raises:
            ValueError: there is none, or it was removed.
        """
        found = self._names[row] if 0 <= row < len(self._names) else None
        if found is None:
            raise ValueError(f"the index has no label of row {row}")
        return found

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
            ValueError: unusable z, k or fetch; an empty index.
        """
        z = self._checked(z)
        k = min(whole_number(k, "k", at_least=1), len(self))
        least, times = _FETCH
        fetch = max(least, times * k) if fetch is None else whole_number(fetch, "fetch", at_least=k)
        if self._exactly(fetch):
            return nearest(z, self.embeddings, k, without=self._removed)
        cosines, rows = self._fetched(z, fetch)
        order = _rank(cosines, rows).topk(k, dim=1).indices
        cosines, rows = cosines.gather(1, order), rows.gather(1, order)
        short = (rows < 0).any(dim=1)  # the lists that were read hold fewer than k labels
        if bool(short.any()):
            cosines[short], rows[short] = nearest(z[short], self.embeddings, k, without=self._removed)
        return Neighbours(cosines, rows)

    @torch.no_grad()
    def candidates(self, z: Embeddings, count: int) -> Neighbours:
        """About the ``count`` nearest labels of each query, in any order, with exact cosines.

        As `search` with ``fetch = k``, less the sorting. Where the lists that were read hold fewer labels,
        the places left over have the row -1 and the cosine -inf.
        """
        z = self._checked(z)
        count = min(whole_number(count, "count", at_least=1), len(self))
        if self._exactly(count):
            return nearest(z, self.embeddings, count, without=self._removed)
        return self._fetched(z, count)

    def add(self, names: Sequence[str], embeddings: Embeddings) -> None:
        """Add labels; they get the next rows. The lists of ``ivf`` stay as they were trained.

        Args:
            names: new labels, none of them in the index.
            embeddings: ``[n, D]``, unit rows, on the index's device.

        Raises:
            TypeError, ValueError: unusable names or embeddings, or a label that the index has; the index is
                unchanged then.
        """
        checked = checked_names(names, "label")
        known = [name for name in checked if name in self._row]
        if known:
            raise ValueError(f"in the index already: {_listed(known)}; remove a label to replace it")
        new = unit_embeddings(embeddings, "label embeddings", dim=self.dim, device=self.device)
        _same_number(checked, new)
        used, needed = len(self._names), len(self._names) + len(new)
        if needed > len(self._store):
            # At least double: then adding one by one copies no label more than twice on the average.
            store = self._store.new_empty(max(needed, 2 * used), self.dim)
            store[:used] = self._store[:used]
            self._store = store
        self._store[used:needed] = new
        if self._lists is not None:
            self._lists.add(self._store[used:needed], used)
        self._names.extend(checked)
        self._row.update(zip(checked, range(used, needed), strict=True))

    def remove(self, names: Sequence[str]) -> None:
        """Remove labels.

        Raises:
            TypeError, ValueError: unusable names, or one that the index does not have; it is unchanged then.
        """
        checked = checked_names(names, "label")
        unknown = [name for name in checked if name not in self._row]
        if unknown:
            raise ValueError(f"not in the index: {_listed(unknown)}")
        rows = torch.tensor([self._row[name] for name in checked], dtype=torch.int64)
        if self._lists is not None:
            self._lists.remove(rows)
        self._removed = torch.cat([self._removed, rows.to(self.device)]).sort().values
        for name in checked:
            self._names[self._row.pop(name)] = None

    def save(self, folder: str | PathLike[str]) -> None:
        """Keep the index in a folder, in place of one that is there.

        Files are written under new names, and then ``index.json``, which names them, is replaced in one step:
        whatever happens in between, the folder holds the old index or the new one, whole.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex[:12]
        tensors = {"embeddings": self.embeddings.cpu().contiguous()}
        if self._lists is not None:
            tensors["mean"] = self._lists.mean
        written: dict[str, Path] = {}
        try:
            written["embeddings"] = folder / f"embeddings-{token}.safetensors"
            save_file(tensors, written["embeddings"])
            if self._lists is not None:
                written["lists"] = folder / f"lists-{token}.faiss"
                self._lists.write(written["lists"])
            manifest = {
                "format": _FORMAT,
                "version": _VERSION,
                "kind": self.kind,
                "probe": self.probe,
                "seed": self.seed,
                "files": {what: _described(path) for what, path in written.items()},
                "names": self._names,
            }
            written["manifest"] = folder / f"manifest-{token}.part"
            written["manifest"].write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
            for path in written.values():
                _flush(path)
            written["manifest"].replace(folder / _MANIFEST)
        except BaseException:
            for path in written.values():
                path.unlink(missing_ok=True)
            raise
        for pattern in ("embeddings-*.safetensors", "lists-*.faiss", "manifest-*.part"):
            for path in folder.glob(pattern):
                if path not in written.values():
                    # Where a file that is mapped cannot be deleted it stays until the next save.
                    with contextlib.suppress(PermissionError):
                        path.unlink()

    @classmethod
    def load(cls, folder: str | PathLike[str], *, mmap: bool = True) -> LabelIndex:
        """An index that `save` kept.

        Args:
            folder: where it is.
            mmap: leave the embeddings in their file and read what is asked for; else read them now. The lists
                of ``ivf``, a sixteenth of float32 embeddings in size, are always read: faiss maps no lists of
                this kind.

        Raises:
            ImportError: it is an ``ivf`` index, and faiss is not there.
            ValueError: the folder holds no index, or a file is damaged or of another format; the message names it.
        """
        folder = Path(folder)
        path = folder / _MANIFEST
        if not path.exists():
            raise ValueError(f"{folder} holds no label index: it has no {_MANIFEST}")
        with _named(path, ValueError, KeyError, TypeError, AttributeError):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT or manifest["version"] != _VERSION:
                raise ValueError(f"it has the format {manifest['format']!r}, version {manifest['version']!r}")
            names, probe, seed = (
                list(manifest["names"]),
                fraction(manifest["probe"], "probe"),
                manifest["seed"],
            )
            if manifest["kind"] not in ("flat", "ivf"):
                raise ValueError(f"no kind {manifest['kind']!r}")
            files = {
                what: (folder / about["name"], about["bytes"]) for what, about in manifest["files"].items()
            }
            sha256 = manifest["files"]["lists"]["sha256"] if manifest["kind"] == "ivf" else ""
            source, _ = files["embeddings"]
        for file, size in files.values():
            if not file.exists():
                raise ValueError(f"{file} is missing: {path} names it")
            if file.stat().st_size != size:
                raise ValueError(f"{file} is damaged: it has {file.stat().st_size} bytes, not {size}")
        with (
            _named(source, SafetensorError, ValueError),
            safe_open(source, framework="pt") as tensors,  # type: ignore[no-untyped-call]
        ):
            embeddings = tensors.get_tensor("embeddings")
            mean = tensors.get_tensor("mean") if sha256 else None
            if embeddings.ndim != 2 or len(embeddings) != len(names):
                raise ValueError(f"it has embeddings {list(embeddings.shape)} for {len(names)} labels")
        lists = None
        if mean is not None:
            lists = _Lists.read(files["lists"][0], mean.clone(), sha256)
            present = sum(name is not None for name in names)
            if len(lists) != present:
                raise ValueError(f"{files['lists'][0]} holds {len(lists)} labels, but {path} names {present}")
        index = cls.__new__(cls)
        index._set_up(names, embeddings if mmap else embeddings.clone(), lists, probe, seed)
        return index

    def __repr__(self) -> str:
        probe = "" if self._lists is None else f", probe={self.probe}"
        return f"LabelIndex({len(self)} labels, D={self.dim}, kind={self.kind!r}{probe}, seed={self.seed})"

    def _checked(self, z: Embeddings) -> Tensor:
        if not self._row:
            raise ValueError("the index is empty: add labels before searching")
        return unit_embeddings(z, "query embeddings", dim=self.dim, device=self.device)

    def _exactly(self, fetch: int) -> bool:
        return self._lists is None or fetch >= len(self)

    def _fetched(self, z: Tensor, count: int) -> Neighbours:
        """The best ``count`` labels by their codes with their cosines, in any order; -1 and -inf for none."""
        assert self._lists is not None
        parts = []
        for part in torch.split(z, _QUERIES):
            rows = self._lists.best(part, count, self.probe)
            parts.append((_rescored(part, self.embeddings, rows), rows))
        return Neighbours(*(torch.cat(column) for column in zip(*parts, strict=True)))


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
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a cosine, in [-1, 1], not {threshold!r}")
    if index is None:
        index = LabelIndex.of(bank, kind="flat")
    found = index.search(bank.id_embeddings, k)
    pairs = [
        NearDuplicate(bank.id_names[i], index.name(int(found.rows[i, j])), float(found.cosines[i, j]))
        for i, j in (found.cosines >= threshold).nonzero().tolist()
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


class _Lists:
    """What is faiss's: inverted lists of codes of labels, by row."""

    def __init__(self, index: Any, mean: Tensor) -> None:
        self._index = index
        self.mean = mean  # [D]: what is taken off the embeddings before they are coded
        self._centres = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))  # [lists, D]

    @classmethod
    def trained(cls, embeddings: Tensor, seed: int) -> _Lists:
        """Lists for these labels, trained on some of them and filled with all."""
        faiss = load_faiss()
        if embeddings.device.type != "cpu":
            raise ValueError(
                f"kind 'ivf' is for embeddings on the CPU, not on {embeddings.device}; take 'flat'"
            )
        count, dim = embeddings.shape
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        num_lists = max(1, round(2 * count**0.5))
        chosen = chosen[: _TRAINING * num_lists].sort().values
        chosen = chosen.repeat(-(-_LEAST_TRAINING // len(chosen)))
        mean = (
            torch.stack([part.float().sum(dim=0) for part in torch.split(embeddings, _WIDE)]).sum(dim=0)
            / count
        )
        sample = (embeddings[chosen].float() - mean).numpy()

        clustering = faiss.Kmeans(
            dim, num_lists, niter=8, seed=seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=64
        )
        clustering.train(sample)
        quantizer = faiss.IndexFlatL2(dim)
        quantizer.add(clustering.centroids)
        codes = dim // 2 if dim % 2 == 0 else dim
        index = faiss.IndexIVFPQFastScan(quantizer, dim, num_lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = True
        index.train(sample)
        lists = cls(index, mean)
        for start in range(0, count, _WIDE):
            lists.add(embeddings[start : start + _WIDE], start)
        return lists

    @classmethod
    def read(cls, path: Path, mean: Tensor, sha256: str) -> _Lists:
        """Lists that `write` kept; ValueError if the file is not the same."""
        faiss = load_faiss()
        if _sha256(path) != sha256:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
        with _named(path, RuntimeError):
            return cls(faiss.read_index(str(path)), mean)

    def write(self, path: Path) -> None:
        """Keep them in a file, the mean not included."""
        load_faiss().write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Their size when they are kept in a file."""
        return int(load_faiss().serialize_index(self._index).nbytes)

    def add(self, embeddings: Tensor, first_row: int) -> None:
        """Add labels of the rows from ``first_row`` on."""
        rows = torch.arange(first_row, first_row + len(embeddings))
        self._index.add_with_ids((embeddings.float() - self.mean).numpy(), rows.numpy())

    def remove(self, rows: Tensor) -> None:
        """Take labels out of their lists."""
        self._index.remove_ids(rows.numpy())

    def best(self, z: Tensor, count: int, probe: float) -> Tensor:
        """Rows of the best ``count`` labels by their codes ``[B, count]``, in any order; -1 where there are no more.

        The lists are chosen here and not by faiss, whose products depend on the batch.
        """
        num_lists = len(self._centres)
        self._index.nprobe = max(1, round(probe * num_lists))
        closeness, chosen = products(z, self._centres).topk(self._index.nprobe, dim=1)
        _, rows = self._index.search_preassigned(z.numpy(), count, chosen.numpy(), closeness.numpy())
        return torch.from_numpy(rows)


def _nearest(z: Tensor, labels: Tensor, k: int, without: Tensor | None) -> Neighbours:
    """See `nearest`. Of later tiles only what reaches the k-th best so far is sorted."""
    width = min(_WIDE, len(labels))
    buffer = z.new_empty(-(-len(z) // _ROWS) * _ROWS, width)
    best, rows = z.new_empty(len(z), 0), torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
    for start in range(0, len(labels), width):
        tile = labels[start : start + width]
        cosines = products(z, tile, out=buffer[:, : len(tile)])
        if without is not None and len(without):
            gone = without[(without >= start) & (without < start + len(tile))] - start
            cosines[:, gone] = -torch.inf
        if best.shape[1] == k:
            least = best[:, -1:]
        elif len(tile) > k:
            least = cosines.topk(k, dim=1).values[:, -1:]
        else:
            least = cosines.new_full((len(z), 1), -torch.inf)
        row, column = (cosines >= least).nonzero(as_tuple=True)  # by row, then by column
        counts = row.bincount(minlength=len(z))
        slot = torch.arange(len(row), device=z.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        found = z.new_full((len(z), int(counts.max())), -torch.inf)
        found_rows = rows.new_zeros(found.shape)
        found[row, slot] = cosines[row, column]
        found_rows[row, slot] = column + start
        # What was found before has lower rows: a stable sort keeps equal ones in the order of their rows.
        best, order = torch.cat([best, found], dim=1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, found_rows], dim=1).gather(1, order)[:, :k]
        best = best[:, :k]
    return Neighbours(best.clone(), rows.clone())


def _rank(cosines: Tensor, rows: Tensor) -> Tensor:
    """Whole numbers in the order of the cosines and, among equal ones, against that of the rows."""
    bits = cosines.view(torch.int32)
    ordered = bits ^ (
        (bits >> 31) & 0x7FFF_FFFF
    )  # a float's bits, as a whole number that is larger where it is
    return (ordered.long() << 32) - rows


def _filled_up(block: Tensor) -> Tensor:
    if len(block) == _ROWS:
        return block
    whole = block.new_zeros(_ROWS, block.shape[1])
    whole[: len(block)] = block
    return whole


def _rescored(z: Tensor, embeddings: Tensor, rows: Tensor) -> Tensor:
    """Cosines of each query with labels of its own ``rows [B, n]``, float32; -inf for the row -1."""
    if embeddings.dtype == torch.float32:
        faiss = load_faiss()
        queries, labels, wanted = z.contiguous().numpy(), embeddings.numpy(), rows.numpy()
        cosines = torch.empty(rows.shape)
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


def load_faiss() -> Any:
    """The faiss module, of faiss-cpu or of a GPU build; ImportError says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "an index over faiss needs it: pip install 'tanl[faiss]'; LabelIndex(..., kind='flat') does without"
        ) from error
    return faiss


def _unit_rows(embeddings: Embeddings) -> Tensor:
    """The embeddings as they are kept: checked, float16 as it is, all else float32."""
    embeddings = as_tensor(embeddings, "label embeddings")
    dtype = torch.float16 if embeddings.dtype == torch.float16 else torch.float32
    return unit_embeddings(embeddings, "label embeddings", dtype=dtype).contiguous()


def _same_number(names: Sequence[str], embeddings: Tensor) -> None:
    if len(embeddings) != len(names):
        raise ValueError(f"{len(names)} names, but {len(embeddings)} embeddings; give one row a name")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _described(path: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"name": path.name, "bytes": path.stat().st_size}
    if path.suffix == ".faiss":
        about["sha256"] = _sha256(path)
    return about


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Have a file on the disk before another is made to name it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _named(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Tell of these errors as a ValueError that names the file."""
    try:
        yield
    except errors as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
