"""Inverted lists of coded labels, by faiss: trained on some labels, filled in shards that are kept as they come."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..functional import shuffled
from ..io.tensors import read_tensors, write_tensors
from .nearest import products

_TRAINING = 40  # labels for training, a list
_LEAST_TRAINING = 16 * 40  # a code book has 16 words, and faiss warns below 39 examples of each
_CODED = 16_384  # labels that are coded at once
_SHARD = 1 << 20  # labels of a shard
_FORMAT = "tanl-label-shard"
_VERSION = 2


class Lists:
    """What is faiss's: inverted lists of codes of labels, by row."""

    def __init__(self, index: Any, mean: Tensor) -> None:
        self._index = index
        self.mean = mean  # [D]: what is taken off the embeddings before they are coded
        self._centres = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))  # [lists, D]

    @classmethod
    def built(
        cls, embeddings: Tensor, seed: int, num_lists: int | None = None, folder: Path | None = None
    ) -> Lists:
        """Lists for these labels, trained on some of them and filled with all, a shard of a million at a time.

        Args:
            embeddings: ``[N, D]`` on the CPU, float32 or float16, mapped or not.
            seed: of the choice of labels for training, and of the clustering.
            num_lists: how many; None is twice the root of N.
            folder: where the trained lists and each full shard are kept, so that a build that is stopped goes on from
                them; None keeps nothing. What is there of another set of labels, or of other settings, is refused.

        Raises:
            ValueError: embeddings on a GPU; a file in the folder that is damaged, or of something else.
            OSError: the folder cannot be written.
        """
        count = len(embeddings)
        num_lists = max(1, round(2 * count**0.5)) if num_lists is None else min(num_lists, count)
        mark = f"{rows_fingerprint(embeddings)} seed {seed} lists {num_lists}"
        kept = None if folder is None else _Shards(folder, mark)
        empty = None if kept is None else kept.read("trained", 0)
        if empty is None:
            empty = _Filling.trained(embeddings, seed, num_lists)
            if kept is not None:
                kept.write("trained", empty)
        whole = empty.copied()
        for start in range(0, count, _SHARD):
            shard = embeddings[start : start + _SHARD]
            name = f"shard-{start // _SHARD:04d}"
            filled = None if kept is None else kept.read(name, len(shard))
            if filled is None:
                filled = empty.copied()
                for first in range(0, len(shard), _CODED):
                    filled.add(shard[first : first + _CODED], start + first)
                if kept is not None:
                    kept.write(name, filled)
            whole.take(filled)
        return whole.finished()

    @classmethod
    def unpacked(cls, packed: Tensor, mean: Tensor) -> Lists:
        """Lists of what `packed` gave.

        Raises:
            ValueError: it is no index of faiss.
        """
        return cls(_read(packed), mean)

    def packed(self) -> Tensor:
        """The lists as faiss keeps them, bytes, the mean not included."""
        return torch.from_numpy(load_faiss().serialize_index(self._index))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Their size when they are kept in a file."""
        return len(self.packed())

    def best(self, z: Tensor, count: int, probe: float) -> Tensor:
        """Rows of the best ``count`` labels by their codes ``[B, count]``, in any order; -1 where there are no more.

        The lists are chosen here and not by faiss, whose products depend on the batch.
        """
        num_lists = len(self._centres)
        self._index.nprobe = max(1, round(probe * num_lists))
        closeness, chosen = products(z, self._centres).topk(self._index.nprobe, dim=1)
        _, rows = self._index.search_preassigned(z.numpy(), count, chosen.numpy(), closeness.numpy())
        return torch.from_numpy(rows)


class _Filling:
    """Lists that are being filled.

    Of faiss's lists for fast scans, which search takes, no two may be merged: `BlockInvertedLists.add_entries` (1.15)
    writes past the end of a list whose length is a multiple of the bytes of a block of codes. So shards are plain
    lists of the same codes, which are brought into the other form once, when all are there.
    """

    def __init__(self, index: Any, mean: Tensor) -> None:
        self._index = index
        self.mean = mean

    @classmethod
    def trained(cls, embeddings: Tensor, seed: int, num_lists: int) -> _Filling:
        """Empty lists, their centres and code book made for these labels ``[N, D]``."""
        faiss = load_faiss()
        if embeddings.device.type != "cpu":
            raise ValueError(
                f"kind 'ivf' is for embeddings on the CPU, not on {embeddings.device}; take 'flat'"
            )
        count, dim = embeddings.shape
        chosen = shuffled(count, seed)
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
        index = faiss.IndexIVFPQ(quantizer, dim, num_lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = True
        index.train(sample)
        return cls(index, mean)

    @classmethod
    def unpacked(cls, packed: Tensor, mean: Tensor) -> _Filling:
        """What `packed` gave; ValueError where it is no index of faiss."""
        return cls(_read(packed), mean)

    def packed(self) -> Tensor:
        """All but the mean, bytes."""
        return torch.from_numpy(load_faiss().serialize_index(self._index))

    def copied(self) -> _Filling:
        """The same, of which each may be filled by itself."""
        return self.unpacked(self.packed(), self.mean)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, embeddings: Tensor, first_row: int) -> None:
        """Add labels of the rows from ``first_row`` on."""
        rows = torch.arange(first_row, first_row + len(embeddings), dtype=torch.int64, device="cpu")
        self._index.add_with_ids((embeddings.float() - self.mean).numpy(), rows.numpy())

    def take(self, other: _Filling) -> None:
        """Move what the other has to the end of these lists."""
        self._index.merge_from(other._index, 0)

    def finished(self) -> Lists:
        """The lists in the form that is searched; these are empty afterwards."""
        whole = load_faiss().IndexIVFPQFastScan(self._index)
        self._index.reset()
        return Lists(whole, self.mean)


class _Shards:
    """A folder of lists that are full in part.

    Args:
        folder: made where it is not there.
        mark: what the lists are of.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._mark = folder, mark

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def write(self, name: str, lists: _Filling) -> None:
        about = {"format": _FORMAT, "version": str(_VERSION), "of": self._mark}
        write_tensors(self._path(name), {"lists": lists.packed(), "mean": lists.mean}, about)

    def read(self, name: str, count: int) -> _Filling | None:
        """What was kept under that name, with so many labels; None where nothing is."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            tensors, about = read_tensors(path)
            if (about.get("format"), about.get("version")) != (_FORMAT, str(_VERSION)):
                raise ValueError(
                    f"it has the format {about.get('format')!r}, version {about.get('version')!r}"
                )
            if about.get("of") != self._mark:
                raise ValueError("it is of other labels or settings")
            lists = _Filling.unpacked(tensors["lists"], tensors["mean"])
            if len(lists) != count:
                raise ValueError(f"it holds {len(lists)} labels, not {count}")
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{path} is no shard of this index: {error}; delete it, or give another folder"
            ) from error
        return lists


def _read(packed: Tensor) -> Any:
    """An index of faiss from its bytes; ValueError where they are none."""
    faiss = load_faiss()
    try:
        return faiss.deserialize_index(packed.numpy())
    except RuntimeError as error:
        raise ValueError(f"faiss does not read its lists: {error}") from error


def rows_fingerprint(embeddings: Tensor) -> str:
    """SHA-256 of the shape, the dtype and up to 4096 rows ``[N, D]``, evenly spread: tells labels apart without a look
    at every one.
    """
    digest = hashlib.sha256(f"{tuple(embeddings.shape)} {embeddings.dtype}".encode())
    places = torch.linspace(
        0, len(embeddings) - 1, min(4096, len(embeddings)), dtype=torch.float64, device="cpu"
    ).long()
    digest.update(embeddings[places.to(embeddings.device)].cpu().contiguous().numpy().data)
    return digest.hexdigest()


def load_faiss() -> Any:
    """The faiss module, of faiss-cpu or of a GPU build; ImportError says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "an index over faiss needs it: pip install 'tanl[faiss]'; LabelIndex(..., kind='flat') does without"
        ) from error
    return faiss
