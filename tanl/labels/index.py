"""LabelIndex: the labels nearest to an embedding, exactly or through faiss; near-duplicate labels.

As in `nearest`, what a query finds does not depend, in any bit, on the queries beside it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..checks import Embeddings, as_tensor, fraction, number, unit_embeddings, whole_number
from ..functional import shuffled
from ..io.paths import local_path
from ..io.tensors import read_tensors, write_tensors
from .bank import LabelBank
from .names import checked_names
from .nearest import QUERIES, Neighbours, nearest, products
from .on_gpu import best_search, nearest_in_shards

Kind = Literal["auto", "flat", "ivf"]

LARGEST_FLAT = 200_000
PROBE = 0.5
NEAR_DUPLICATE = 0.9

_FETCH = (2048, 4)  # what is rescored for the best k: at least 2048 labels, and 4 k
_TRAINING = 40  # labels for training, a list
_LEAST_TRAINING = 16 * 40  # a code book has 16 words, and faiss warns below 39 examples of each
_CODED = 16_384  # labels that are coded at once
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
        seed, probe = whole_number(seed, "seed", at_least=0), fraction(probe, "probe")
        embeddings = _unit_rows(embeddings)
        if len(embeddings) != len(checked):
            raise ValueError(f"{len(checked)} names, but {len(embeddings)} embeddings; give one row a name")
        if kind == "auto":
            kind = "ivf" if len(checked) > LARGEST_FLAT and embeddings.device.type == "cpu" else "flat"
        lists = _Lists.trained(embeddings, seed) if kind == "ivf" else None
        self._set_up(checked, embeddings, lists, probe, seed)

    def _set_up(
        self,
        names: tuple[str, ...],
        embeddings: Tensor,
        lists: _Lists | None,
        probe: float,
        seed: int,
    ) -> None:
        self.kind: Kind = "flat" if lists is None else "ivf"
        self.names = names
        self.embeddings = embeddings  # [N, D]
        self.probe = probe
        self.seed = seed
        self._lists = lists

    @classmethod
    def of(cls, bank: LabelBank, *, kind: Kind = "auto", probe: float = PROBE, seed: int = 0) -> LabelIndex:
        """An index of a bank's negative labels, row i its i-th negative; see the class for the settings.

        Raises:
            TypeError: bank is no LabelBank.
            ValueError: the bank has none.
        """
        if not isinstance(bank, LabelBank):
            raise TypeError(f"bank must be a LabelBank, not a {type(bank).__name__}")
        if not bank.num_negatives:
            raise ValueError("the bank has no negative labels to index; give it a corpus")
        return cls(bank.negative_names, bank.negative_embeddings, kind=kind, probe=probe, seed=seed)

    def __len__(self) -> int:
        return len(self.names)

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
        k = min(whole_number(k, "k", at_least=1), len(self))
        least, times = _FETCH
        fetch = max(least, times * k) if fetch is None else whole_number(fetch, "fetch", at_least=k)
        if self._exactly(fetch):
            return self._nearest(z, k)
        cosines, rows = self._fetched(z, fetch)
        order = _rank(cosines, rows).topk(k, dim=1).indices
        cosines, rows = cosines.gather(1, order), rows.gather(1, order)
        short = (rows < 0).any(dim=1)  # the lists that were read hold fewer than k labels
        if bool(short.any()):
            cosines[short], rows[short] = nearest(z[short], self.embeddings, k)
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
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"the index cannot be moved to {device}: {str(error).splitlines()[0]}"
            ) from error
        return other

    def save(self, path: str | PathLike[str]) -> None:
        """Keep the index in a file (safetensors, with a checksum), in place of one that is there.

        Args:
            path: the file, usually ``NAME.safetensors``, in a folder that is there.

        Raises:
            OSError: the file cannot be written; the one from before stays as it is.
        """
        tensors = {
            "embeddings": self.embeddings.cpu(),
            "names": torch.frombuffer(bytearray(json.dumps(self.names).encode()), dtype=torch.uint8),
        }
        if self._lists is not None:
            tensors |= {"mean": self._lists.mean, "lists": self._lists.packed()}
        about = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "probe": repr(float(self.probe)),
            "seed": str(self.seed),
        }
        write_tensors(local_path(path), tensors, about)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LabelIndex:
        """An index that `save` kept, on the CPU, wherever it was: there it finds the same, bit for bit; see `to`.

        Raises:
            ImportError: it is an ``ivf`` index, and faiss is not there.
            ValueError: the file holds no index, is damaged or of another format; the message names it.
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
            names = checked_names(json.loads(tensors["names"].numpy().tobytes()), "label")
            embeddings = tensors["embeddings"]
            if embeddings.ndim != 2 or len(embeddings) != len(names):
                raise ValueError(f"it has embeddings {list(embeddings.shape)} for {len(names)} labels")
            lists = _Lists.unpacked(tensors["lists"], tensors["mean"]) if "lists" in tensors else None
            if lists is not None and len(lists) != len(names):
                raise ValueError(f"its lists hold {len(lists)} labels, but it has {len(names)} names")
            probe, seed = fraction(float(about["probe"]), "probe"), int(about["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be used as a label index: {error}; save it again") from error
        index = cls.__new__(cls)
        index._set_up(names, embeddings, lists, probe, seed)
        return index

    def __repr__(self) -> str:
        probe = "" if self._lists is None else f", probe={self.probe}"
        return f"LabelIndex({len(self)} labels, D={self.dim}, kind={self.kind!r}{probe}, seed={self.seed})"

    def _nearest(self, z: Tensor, k: int) -> Neighbours:
        search = best_search(self.device)
        if search is None:
            return nearest(z, self.embeddings, k)
        return nearest_in_shards(z, self.embeddings, k, search)

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
        chosen = shuffled(count, seed)
        num_lists = max(1, round(2 * count**0.5))
        chosen = chosen[: _TRAINING * num_lists].sort().values
        chosen = chosen.repeat(-(-_LEAST_TRAINING // len(chosen)))
        mean = (
            torch.stack([part.float().sum(dim=0) for part in torch.split(embeddings, _CODED)]).sum(dim=0)
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
        for start in range(0, count, _CODED):
            lists.add(embeddings[start : start + _CODED], start)
        return lists

    @classmethod
    def unpacked(cls, packed: Tensor, mean: Tensor) -> _Lists:
        """Lists of what `packed` gave.

        Raises:
            ValueError: it is no index of faiss.
        """
        faiss = load_faiss()
        try:
            return cls(faiss.deserialize_index(packed.numpy()), mean)
        except RuntimeError as error:
            raise ValueError(f"faiss does not read its lists: {error}") from error

    def packed(self) -> Tensor:
        """The lists as faiss keeps them, bytes, the mean not included."""
        return torch.from_numpy(load_faiss().serialize_index(self._index))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Their size when they are kept in a file."""
        return len(self.packed())

    def add(self, embeddings: Tensor, first_row: int) -> None:
        """Add labels of the rows from ``first_row`` on."""
        rows = torch.arange(first_row, first_row + len(embeddings), dtype=torch.int64, device="cpu")
        self._index.add_with_ids((embeddings.float() - self.mean).numpy(), rows.numpy())

    def best(self, z: Tensor, count: int, probe: float) -> Tensor:
        """Rows of the best ``count`` labels by their codes ``[B, count]``, in any order; -1 where there are no more.

        The lists are chosen here and not by faiss, whose products depend on the batch.
        """
        num_lists = len(self._centres)
        self._index.nprobe = max(1, round(probe * num_lists))
        closeness, chosen = products(z, self._centres).topk(self._index.nprobe, dim=1)
        _, rows = self._index.search_preassigned(z.numpy(), count, chosen.numpy(), closeness.numpy())
        return torch.from_numpy(rows)


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
