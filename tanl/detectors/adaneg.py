"""AdaNeg: adaptive negative proxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import Embeddings, fraction, not_negative, unit_embeddings, whole_number
from ..functional import grouped_negative_share
from ..kernels.surroundings import product, require_float64, undisturbed
from ..labels.bank import KEPT_TOLERANCE, LabelBank
from .base import Now, saved_threshold
from .merged_memory import merged_memories
from .neglabel import Choice, GroupedNegatives, NegLabel, grouped_negatives
from .saved import saved_count, saved_tensor

if TYPE_CHECKING:
    from typing_extensions import Self

# Confident rows against all labels, and labels brought to float32, at a time: small beside the labels themselves.
_ROWS = 64
_TILE_LABELS = 4096


@dataclass(frozen=True)
class _Remembered:
    """The images that a label has in memory; never changed, only replaced."""

    rows: Tensor  # [n, D], n < memory_length
    entropies: tuple[float, ...]  # n of them
    numbers: tuple[int, ...]  # of the batches that they came with


@dataclass(frozen=True)
class _Now(Now):
    """What AdaNeg changes, beside the threshold; neither the dict nor the tensor is ever changed."""

    memory: dict[int, _Remembered] = field(kw_only=True)
    proxies: Tensor = field(kw_only=True)  # [C + M, D]
    batches: int = field(kw_only=True, default=0)  # the number of the last batch
    shared: int = field(
        kw_only=True, default=0
    )  # the last batch that the streams beside this one have seen too


class AdaNeg(GroupedNegatives):
    """Adaptive negative proxies: NegLabel's score, and the same score with what the stream made of the labels.

    Zhang and Zhang, *AdaNeg: adaptive negative proxy guided OOD detection with vision-language models*, NeurIPS
    2024 (arXiv 2410.20149), with its task-adaptive proxies. Checked against outputs of the published
    implementation (YBZh/OpenOOD-VLM); equation numbers were not.

    Let ``S_text`` in [0, 1] be NegLabel's grouped share of the negatives, and ``c = 1 - S_text`` an image's ID
    confidence. A label remembers images: one with ``c > t + g (1 - t)`` goes to its best ID label, one with
    ``c < t - g t`` to its best negative, in the order of the batch, the ID images first. A label with
    ``memory_length - 1`` images takes another only in place of the one whose softmax over the labels of its kind
    has the largest entropy, and only if the new entropy is smaller. A label's proxy is the normalised mean of its
    text embedding and its images; ``S_proxy`` is the grouped share with proxies in place of texts, the
    batch's own images included. The OOD score is ``S_proxy + lambda S_text``, in [0, 1 + lambda]: that is
    ``1 + lambda`` less the published ``conf_ada + lambda conf``, without its rounding of confident images.

    The result depends on the order of the stream. Beside NegLabel's copy of its negatives the detector keeps one
    proxy a label, ``(C + M) D`` numbers in the bank's dtype, and the remembered images alone, at most
    ``memory_length - 1`` of D float32 for each label that a confident image fell to. A batch is scored
    with a second copy of the proxies, which takes the place of the first: nothing that is shared is touched before.

    Args:
        bank: ID labels and candidates for negatives.
        num_negatives: how many negatives are mined, as in `NegLabel`; None takes all of the bank's in its order.
        groups: into how many groups the negatives are split; the last ``M mod groups`` of them can take images,
            but count in no group.
        memory_length: slots of a label, one of which holds its text embedding; at least 2.
        lambda_value: weight of the texts' share beside the proxies'.
        memory_threshold: t in [0, 1], the confidence about which ``gap`` opens. The threshold on scores, which
            `predict` uses, is set by `calibrate`.
        gap: g in [0, 1]: how far past t a confidence must lie for an image to be remembered.
        seed: shuffles the negatives before they are split; None keeps their order.

    Raises:
        TypeError, ValueError: an unusable setting; a bank without negatives, or with fewer than ``groups``.
    """

    checked: ClassVar = {"lambda_value": not_negative, "memory_threshold": fraction, "gap": fraction}
    lasting: ClassVar = {
        **{name: NegLabel.lasting[name] for name in ("num_negatives", "groups", "seed")},
        "memory_length": partial(whole_number, at_least=2),
    }

    _now: _Now

    @undisturbed
    def __init__(
        self,
        bank: LabelBank,
        *,
        num_negatives: Choice = 10_000,
        groups: int = 5,
        memory_length: int = 10,
        lambda_value: float = 0.1,
        memory_threshold: float = 0.5,
        gap: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        super().__init__(bank)
        self._require_negatives()
        require_float64(bank.device, type(self).__name__)
        self.num_negatives, self.groups, self.seed = num_negatives, groups, seed
        self.memory_length, self.lambda_value = memory_length, lambda_value
        self.memory_threshold, self.gap = memory_threshold, gap
        self._names, self._embeddings = grouped_negatives(bank, self.num_negatives, self.groups, self.seed)
        self._now = _Now(memory={}, proxies=self._texts())

    @undisturbed
    def reset(self) -> None:
        """Forget the stream: every label's proxy is its text embedding again."""
        self._now = replace(self._now, memory={}, proxies=self._texts(), batches=0, shared=0)

    def _texts(self) -> Tensor:
        return torch.cat([self.bank.embeddings[: self.bank.num_id], self._embeddings])

    @property
    def _memory(self) -> dict[int, _Remembered]:
        return self._now.memory

    @property
    def _proxies(self) -> Tensor:
        return self._now.proxies

    @undisturbed
    def __call__(self, z: Embeddings, *, source: str | Sequence[str | None] | None = None) -> Tensor:
        """Score a batch of the stream, ``[B, D] -> [B]``, and remember its confident images.

        Raises:
            TypeError, ValueError: as `Detector`; a source, which this memory cannot bound.
        """
        if source is not None:
            raise ValueError("AdaNeg cannot bound a source: give none, or use TANL with the guarded memory")
        scores, self._now = self._advance(self._checked(z))
        return scores

    def as_share(self, scores: Tensor) -> Tensor:
        """The weighted mean of the proxies' share and the texts'."""
        return scores / (1 + self.lambda_value)

    def _scores(self, z: Tensor) -> Tensor:
        return self._advance(z)[0]

    @undisturbed
    def relabelled(self, bank: LabelBank) -> Self:
        """The same method with the same settings over other labels, and what it remembers of its stream.

        Negatives are mined anew. A label that is there before and after, ID both times or negative both times,
        keeps its images; those of the others are forgotten, and new labels start with none, as at the start of a
        stream. The images' entropies are computed over the new labels, as later ones are compared with them.

        The calibrated threshold is carried over, but scores with other labels are other scores: calibrate again.

        Raises:
            TypeError, ValueError: as `Detector.relabelled`.
        """
        other = super().relabelled(bank)
        memory: dict[int, _Remembered] = {}
        now = self._now
        names, first = self._label_names(), self.bank.num_id
        for is_negative, theirs, labels, start in (
            (False, bank.id_names, bank.id_embeddings, 0),
            (True, other._names, other._embeddings, bank.num_id),
        ):
            number = {name: start + i for i, name in enumerate(theirs)}
            carried = [
                (number[names[label]], images)
                for label, images in self._memory.items()
                if (label >= first) == is_negative and names[label] in number
            ]
            if carried:
                entropies = iter(other._best(torch.cat([images.rows for _, images in carried]), labels)[1])
                for label, images in carried:
                    new = tuple(islice(entropies, len(images.rows)))
                    memory[label] = replace(images, entropies=new)
        proxies = other._with_proxies(memory)
        other._now = replace(
            other._now, memory=memory, proxies=proxies, batches=now.batches, shared=now.shared
        )
        return other

    def state_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors, numbers and strings.

        Args:
            compact: leave out the proxies, and tell labels by name: where embeddings were computed again, mining
                may order them otherwise. See `Detector.state_dict`.
        """
        remembered = self._memory.values()
        touched = self._indices(list(self._memory))
        memory: dict[str, Any] = {
            "batches": self._now.batches,
            "shared": self._now.shared,
            "numbers": torch.tensor(
                [n for images in remembered for n in images.numbers], dtype=torch.int64, device="cpu"
            ),
            "counts": self._indices([len(images.rows) for images in remembered]),
            "rows": torch.cat([images.rows for images in remembered] or [self.bank.id_embeddings[:0]]),
            "entropies": torch.tensor(
                [e for images in remembered for e in images.entropies],
                dtype=torch.float64,
                device=self.bank.device,
            ),
        }
        if compact:
            names = self._label_names()
            memory["names"] = [names[label] for label in self._memory]
        else:
            memory |= {"labels": touched, "proxies": self._proxies[touched]}
        return {**super().state_dict(compact=compact), "memory": memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`: bit for bit, or from a compact one up to rounding.

        A label of a compact state that is not mined with this bank's embeddings is forgotten.

        Raises:
            ValueError: it comes from another method, bank or setting, or is incomplete; nothing changes then.
        """
        self._check_identity(state)
        memory, proxies = self._read(state["memory"])
        batches, shared = state["memory"]["batches"], state["memory"]["shared"]
        if proxies is None:
            proxies = self._proxies_of(memory)
        every = self._texts().index_copy_(0, self._indices(list(memory)), proxies)
        self._now = _Now(
            *saved_threshold(state), memory=memory, proxies=every, batches=batches, shared=shared
        )

    def _progress(self) -> list[int]:
        return [self._now.batches, sum(len(images.rows) for images in self._memory.values())]

    @property
    def _learnt_apart(self) -> bool:
        return self._now.shared != self._now.batches

    def _settle(self) -> None:
        self._now = replace(self._now, shared=self._now.batches)

    @classmethod
    def _merged_stream(cls, states: Sequence[dict[str, Any]], partial: bool) -> dict[str, Any]:
        """As `Detector._merged_stream`: a label keeps the images of smallest entropy, the earlier among equal ones."""
        places = int(states[0]["settings"]["memory_length"]) - 1
        return {"memory": merged_memories([state["memory"] for state in states], places, partial=partial)}

    def _settings(self) -> dict[str, Any]:
        return {
            "num_negatives": self.num_negatives,
            "groups": self.groups,
            "memory_length": self.memory_length,
            "lambda_value": self.lambda_value,
            "memory_threshold": self.memory_threshold,
            "gap": self.gap,
            "seed": self.seed,
        }

    def _advance(self, z: Tensor) -> tuple[Tensor, _Now]:
        """One step of the method on ``z [B, D]``: the scores, and what there is after it."""
        bank, now = self.bank, self._now
        share = grouped_negative_share(z, bank.id_embeddings, self._embeddings, bank.logit_scale, self.groups)
        now = replace(now, batches=now.batches + 1)
        changes = self._changes(z, 1 - share, now.batches)
        if changes:
            proxies = self._with_proxies(changes, now.proxies)
            now = replace(now, memory={**now.memory, **changes}, proxies=proxies)
        ids, negatives = now.proxies[: bank.num_id], now.proxies[bank.num_id :]
        adapted = grouped_negative_share(z, ids, negatives, bank.logit_scale, self.groups)
        return adapted + self.lambda_value * share, now

    def _with_proxies(self, memory: dict[int, _Remembered], others: Tensor | None = None) -> Tensor:
        """Every label's proxy ``[C + M, D]``: of these images, and for the labels without any as ``others`` has it."""
        every = self._texts() if others is None else others.clone()
        return every.index_copy_(0, self._indices(list(memory)), self._proxies_of(memory))

    def _changes(self, z: Tensor, confidence: Tensor, number: int) -> dict[int, _Remembered]:
        """What the confident images of the batch with this number make of their labels' memories."""
        t, gap, num_id = self.memory_threshold, self.gap, self.bank.num_id
        drafts: dict[int, list[tuple[Tensor, float, int]]] = {}
        for chosen, labels, first in (
            (confidence > t + gap * (1 - t), self.bank.id_embeddings, 0),
            (confidence < t - gap * t, self._embeddings, num_id),
        ):
            rows = z[chosen]
            for row, best, entropy in zip(rows, *self._best(rows, labels), strict=True):
                label = first + best
                if label not in drafts:
                    held = self._memory.get(label)
                    drafts[label] = (
                        list(zip(held.rows, held.entropies, held.numbers, strict=True)) if held else []
                    )
                self._remember((row, entropy, number), drafts[label])
        return {
            label: _Remembered(torch.stack(rows), entropies, numbers)
            for label, draft in drafts.items()
            for rows, entropies, numbers in [tuple(zip(*draft, strict=True))]
        }

    def _remember(self, image: tuple[Tensor, float, int], held: list[tuple[Tensor, float, int]]) -> None:
        if len(held) < self.memory_length - 1:
            held.append(image)
            return
        worst = max(range(len(held)), key=lambda i: held[i][1])
        if held[worst][1] > image[1]:
            held[worst] = image

    def _best(self, rows: Tensor, labels: Tensor) -> tuple[list[int], list[float]]:
        """Each row's best label, and the entropy of its softmax over the labels, as it is published."""
        best: list[int] = []
        entropies: list[float] = []
        for part in torch.split(rows * self.bank.logit_scale, _ROWS):
            tiles = torch.split(labels, _TILE_LABELS)
            logits = torch.cat([product(part, tile.float().T) for tile in tiles], dim=1)
            best += logits.argmax(dim=1).tolist()
            probability = logits.softmax(dim=1)
            entropies += (-(probability * (probability + 1e-8).log()).sum(dim=1)).tolist()
        return best, entropies

    def _proxies_of(self, memory: dict[int, _Remembered]) -> Tensor:
        """The labels' proxies with these images, ``[len(memory), D]``."""
        if not memory:
            return self._proxies[:0]
        means = [self._text(label) + images.rows.sum(dim=0) for label, images in memory.items()]
        return normalize(torch.stack(means), dim=1).to(self.bank.dtype)

    def _label_names(self) -> list[str]:
        """The name of every label that can have images."""
        return [*self.bank.id_names, *self._names]

    def _text(self, label: int) -> Tensor:
        num_id = self.bank.num_id
        text = self.bank.embeddings[label] if label < num_id else self._embeddings[label - num_id]
        return text.float()

    def _indices(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.bank.device)

    def _read(self, state: dict[str, Any]) -> tuple[dict[int, _Remembered], Tensor | None]:
        """The memory in a `state_dict`, checked, and the proxies of its labels; None from a compact one."""
        if not isinstance(state, dict):
            raise ValueError(f"the state is damaged: memory must be a dict, not {type(state).__name__}")
        device, dim, compact = self.bank.device, self.bank.dim, "names" in state

        def read(name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
            return saved_tensor(state[name], f"the memory's {name}", shape, dtype, device)

        try:
            counts = read("counts", (None,), torch.int64).tolist()
            if not all(0 < count < self.memory_length for count in counts):
                raise ValueError(f"a label remembers 1 to {self.memory_length - 1} images, not {counts}")
            rows = read("rows", (sum(counts), dim), torch.float32)
            entropies = read("entropies", (sum(counts),), torch.float64)
            numbers = saved_tensor(
                state["numbers"], "the memory's numbers", (sum(counts),), torch.int64, "cpu"
            )
            batches, shared = saved_count(state, "batches"), saved_count(state, "shared")
            labels = state["names"] if compact else read("labels", (len(counts),), torch.int64).tolist()
            proxies = None if compact else read("proxies", (len(counts), dim), self.bank.dtype)
        except KeyError as error:
            raise ValueError(f"the memory's state lacks {error}") from error
        if not isinstance(labels, list) or not all(
            isinstance(name, str if compact else int) for name in labels
        ):
            raise ValueError("the state is damaged: the memory's names must be a list of strings")
        if shared > batches or (
            numbers.numel() and not 0 < int(numbers.min()) <= int(numbers.max()) <= batches
        ):
            raise ValueError(f"the memory's numbers must lie from 1 to {batches}, and {shared} not above it")
        if len(labels) != len(counts) or len(set(labels)) < len(labels):
            raise ValueError("the memory's labels and counts are not of one stream")
        if counts:
            rows = unit_embeddings(rows, "the memory's rows", tolerance=KEPT_TOLERANCE)
        parts = zip(labels, *(torch.split(each, counts) for each in (rows, entropies, numbers)), strict=True)
        images = {
            label: _Remembered(rows, tuple(values.tolist()), tuple(of_batches.tolist()))
            for label, rows, values, of_batches in parts
        }
        if compact:
            place = {name: i for i, name in enumerate(self._label_names())}
            return {place[name]: kept for name, kept in images.items() if name in place}, None
        if not all(0 <= label < len(self._proxies) for label in images):
            raise ValueError(f"the memory's labels must lie below {len(self._proxies)}")
        return images, proxies
