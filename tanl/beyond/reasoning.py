r"""Reasoned answers: a trace that ends in one ``\boxed{...}``, several of them compared, and when to abstain.

The format is that of CheXOne and of many reasoning models. A trace that does not keep it is refused, not repaired: a
second box or none says that the model did not do what it was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..checks import whole_number

_BOX = "\\boxed{"


@runtime_checkable
class ReasoningModel(Protocol):
    """What answers a question about an image with a reasoning trace."""

    def generate(self, image: Any, question: str, n: int) -> Sequence[str]:
        """n traces, sampled independently."""


@dataclass(frozen=True)
class ReasonedAnswer:
    """A trace's two parts: what leads to the answer, and the answer."""

    reasoning: str
    answer: str


def parse_reasoned(text: str) -> ReasonedAnswer:
    r"""Part a trace into its reasoning and the one answer in ``\boxed{...}``, whose braces may hold braces.

    Raises:
        ValueError: no box, more than one, an empty one, one that is not closed, or no text before it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a trace is text, not a {type(text).__name__}")
    start = text.find(_BOX)
    if start < 0:
        raise ValueError(f"the trace has no \\boxed{{...}}: {text[-60:]!r}")
    depth, place = 1, start + len(_BOX)
    while place < len(text) and depth:
        if text[place] == "\\" and text[place + 1 : place + 2] in ("{", "}"):  # a brace that is meant as one
            place += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
    if depth:
        raise ValueError(f"the box is not closed: {text[start : start + 60]!r}")
    if text.count(_BOX) > 1:
        raise ValueError("the trace has more than one \\boxed{...}: exactly one is the answer")
    answer, reasoning = text[start + len(_BOX) : place - 1].strip(), text[:start].strip()
    if not answer:
        raise ValueError("the box is empty")
    if not reasoning:
        raise ValueError("no text stands before the box: an answer without reasoning is not a reasoned one")
    return ReasonedAnswer(reasoning, answer)


@dataclass(frozen=True)
class Consistency:
    """What several traces agree on.

    Attributes:
        answer: the most frequent answer, in its first spelling; None if no trace could be parsed.
        share: of all traces, how many gave it: traces that could not be parsed count against it.
        unparsed: how many could not be parsed.
    """

    answer: str | None
    share: float
    unparsed: int


def self_consistency(traces: Sequence[str]) -> Consistency:
    """The answer that most traces give (Wang et al. 2023, arXiv 2203.11171).

    Case, spaces and a full stop at the end make no difference.

    Raises:
        ValueError: no traces.
    """
    if not traces:
        raise ValueError("no traces: sample at least one")
    found: list[str] = []
    for trace in traces:
        try:
            found.append(parse_reasoned(trace).answer)
        except ValueError:
            continue
    if not found:
        return Consistency(None, 0.0, len(traces))
    (same, count), *_ = Counter(map(_plain, found)).most_common(1)
    spelled = next(answer for answer in found if _plain(answer) == same)
    return Consistency(spelled, count / len(traces), len(traces) - len(found))


@dataclass(frozen=True)
class Decision:
    """An answer, or None with the reasons for giving none."""

    answer: str | None
    reasons: tuple[str, ...]


def answer_or_abstain(
    consistency: Consistency,
    *,
    is_ood: bool | None = None,
    trust: float | None = None,
    least_share: float = 0.5,
    least_trust: float | None = None,
) -> Decision:
    """Give the answer only if nothing speaks against it; otherwise say all that does.

    Args:
        consistency: of several traces about one image.
        is_ood: the guard's verdict on the image, None if there is none.
        trust: of the answer, higher is better (`HeadEntropyProbe.predict`, or minus the mean of `head_entropy`).
        least_share: the smallest share of traces that must agree; a tie at one half passes.
        least_trust: the smallest trust; needs ``trust``.

    Raises:
        ValueError: ``least_trust`` without ``trust``, or a share outside of 0 to 1.
    """
    if not 0 <= least_share <= 1:
        raise ValueError(f"least_share is {least_share!r}; it must lie between 0 and 1")
    if least_trust is not None and trust is None:
        raise ValueError("least_trust was given without a trust to hold against it")
    reasons = []
    if consistency.answer is None:
        reasons.append("no trace holds an answer")
    elif consistency.share < least_share:
        reasons.append(f"only {consistency.share:.0%} of the traces agree")
    if is_ood:
        reasons.append("the image belongs to none of the classes")
    if least_trust is not None and trust is not None and trust < least_trust:
        reasons.append(f"the answer's trust is {trust:.3g}, below {least_trust:.3g}")
    return Decision(None if reasons else consistency.answer, tuple(reasons))


def ask(model: ReasoningModel, image: Any, question: str, n: int = 5) -> Consistency:
    """Sample n traces and see what they agree on.

    Raises:
        ValueError: n below 1, or a model that gives another number of traces.
    """
    wanted = whole_number(n, "n", at_least=1)
    traces = model.generate(image, question, wanted)
    if len(traces) != wanted:
        raise ValueError(f"the model gave {len(traces)} traces, not {wanted}")
    return self_consistency(traces)


def _plain(answer: str) -> str:
    return " ".join(answer.casefold().split()).rstrip(".")
