"""What a results file says, in sentences: the finding, what stands behind it, and what is not promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..io.text import shown_percentage
from ..streams.saved_results import SavedResults


@dataclass(frozen=True)
class Counts:
    """How many rows had each outcome."""

    passed: int = 0
    flagged: int = 0
    undecided: int = 0
    unreadable: int = 0

    @property
    def judged(self) -> int:
        """How many have a score."""
        return self.passed + self.flagged + self.undecided


def counts(results: SavedResults) -> Counts:
    """Count the outcomes of all rows."""
    outcomes = [row.outcome for row in results.rows]
    return Counts(*(outcomes.count(outcome) for outcome in ("ID", "OOD", "-", "unreadable")))


def finding(results: SavedResults) -> str:
    """The answer in one line: "47 of 1,000 images are flagged: none of the 12 classes (4.7 %)"."""
    found = counts(results)
    what = noun(results)
    labels = results.about.get("labels") or ()
    classes = f"the {len(labels)} classes" if len(labels) > 1 else "the class" if labels else "the classes"
    if not found.judged:
        return f"None of {_several(found.unreadable, what)} could be read"
    if found.undecided:
        return f"{_several(found.judged, what)} scored, without a threshold: no verdicts yet"
    if not found.flagged:
        return f"None of {_several(found.judged, what)} is flagged: all pass as {classes}"
    share = shown_percentage(found.flagged / found.judged).removesuffix("%")
    verb = "is" if found.flagged == 1 else "are"
    return (
        f"{found.flagged:,} of {_several(found.judged, what)} {verb} flagged: none of {classes} ({share} %)"
    )


def noun(results: SavedResults) -> str:
    """What a row is about, in the plural."""
    return "images" if results.key == "path" else "embeddings"


def background(results: SavedResults) -> list[str]:
    """Sentences about how the verdicts came about and what they promise; one that warns begins with "Beware"."""
    about, found = results.about, counts(results)
    if not about:
        return ["The file does not say how its rows were made: its description, NAME.json, is not beside it."]
    said = [_judged_by(about)]
    calibration = about.get("calibration")
    threshold = about.get("threshold")
    if isinstance(calibration, Mapping):
        said.append(
            f"The threshold was calibrated on {calibration.get('count')} {noun(results)} known to belong, so that "
            f"{_percent(calibration.get('tpr'))} of such ones pass."
        )
    elif threshold is not None:
        said.append(
            "Beware: the threshold is the method's own, found in the stream, and promises no rate of false alarms. "
            "Judge again with --calibrate and some images that are known to belong."
        )
    elif found.undecided:
        said.append(
            "Beware: this method finds no threshold by itself. Judge again with --calibrate, or look at the scores."
        )
    if about.get("complete") is False:
        said.append("Beware: the run was interrupted; what it had not judged by then is not here.")
    if found.unreadable:
        said.append(f"{_several(found.unreadable, noun(results))} could not be read.")
    return said


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that the file says of the run, as names and values for a table."""
    return [(name.replace("_", " "), _in_words(value)) for name, value in about.items()]


def _judged_by(about: Mapping[str, Any]) -> str:
    model = about.get("backbone") or about.get("bank")
    words = about.get("corpus_words")
    parts = [f"Judged by {about.get('method', 'an unnamed method')}"]
    parts += [f"with {model}"] * (model is not None)
    parts += [f"against {words:,} negative labels of {about.get('corpus')}"] * isinstance(words, int)
    return f"{' '.join(parts)}; tanl {about.get('tanl', 'of an unknown version')}."


def _several(count: int, what: str) -> str:
    return f"{count:,} {what if count != 1 else what.removesuffix('s')}"


def _percent(share: Any) -> str:
    return f"{100 * share:g} %" if isinstance(share, int | float) else "an unknown share"


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_in_words, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
