"""The methods that the benchmark measures: what each needs and keeps, and what tables call it.

How those that go by a name are made says `tanl.detectors.registry`, as for `tanl.Guard` and the command line. Here are
beside them GL-MCM, which takes more than an image's embedding, and TANL in settings that have no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from tanl.detectors import TANL, Detector, Fused, NegLabel, PairScore, Term, VisualDictionary
from tanl.detectors.gl_mcm import GLMCM
from tanl.detectors.registry import METHODS as NAMED
from tanl.detectors.registry import MINED, make_detector
from tanl.detectors.state import Activations
from tanl.detectors.tanl import PRESETS
from tanl.io.text import did_you_mean, letters_of
from tanl.labels.bank import LabelBank
from tanl.labels.inter_modal import InterModal

CorpusKind = Literal["user", "csp"]
EncodeTexts = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Given:
    """What a method's detector is made from.

    Attributes:
        bank: the labels.
        noise: embeddings of noise images, ``[n, D]``: the outliers that TANL starts from.
        seed: of the method's random choices.
        encode_texts: embeds texts.
        activations: what computes TANL's activations, by its ``candidates``; None leaves it to TANL.
        id_images: embeddings ``[n, D]`` of the ID images that are set aside for methods that choose by them.
        id_labels: the ID label of each.
    """

    bank: LabelBank
    noise: Tensor
    seed: int
    encode_texts: EncodeTexts
    activations: Callable[[int | None], Activations] | None = None
    id_images: Tensor | None = None
    id_labels: tuple[str, ...] = ()


Maker = Callable[[Given], Detector]


@dataclass(frozen=True)
class Method:
    """One method with the settings that it is measured with.

    Attributes:
        name: as in results and tables.
        make: makes the detector.
        corpus: the words of its bank: "user" for those that the run names, "csp" for `conjugated_words()`, None for
            no negatives.
        streaming: what it says of an image depends on the images before it.
        needs_local: it takes embeddings of each image's patches.
        memory: what it keeps beside the bank, with C ID labels and M negatives of D numbers.
        source: the paper, or what its settings are from.
        by_default: it is measured where no methods are named.
        needs_id_images: it chooses by ID images that are set aside.
    """

    name: str
    make: Maker
    corpus: CorpusKind | None
    streaming: bool
    needs_local: bool
    memory: str
    source: str
    by_default: bool = True
    needs_id_images: bool = False


def _named(method: str) -> Maker:
    return lambda given: make_detector(method, given.bank, seed=given.seed, initial_ood=given.noise)


def _tanl(settings: dict[str, Any], given: Given) -> TANL:
    more: dict[str, Any] = {}
    if given.activations is not None and not callable(settings.get("candidates")):
        more["activation"] = given.activations(settings.get("candidates"))
    return TANL(given.bank, **settings, **more, seed=given.seed, initial_ood=given.noise)


def _neglabel(settings: dict[str, Any], given: Given) -> NegLabel:
    return NegLabel(given.bank, **settings, seed=given.seed)


_TANL_MEMORY = "2 x 300 embeddings, about 2 x 16 sums of M numbers, 20 000 scores"
_TANL_SOURCE = "CVPR 2026, arXiv 2603.25250"
_PAIRS_KEPT = 250_000  # pairs of an ID set, for all of its streams


def _tanl_methods() -> Iterable[Method]:
    """TANL by its rings alone, as its paper has it, and with each preset that is not the paper's."""
    paper = TANL.preset("paper")
    variants: dict[str, tuple[dict[str, Any], str]] = {
        "distribution": ({**paper, "alpha": 1.0}, f"{_TANL_SOURCE}; alpha 1: ranked by its rings alone"),
        "batch-adaptive": (paper, f"{_TANL_SOURCE}; its defaults"),
    }
    for name in PRESETS:
        settings = TANL.preset(name)
        if settings not in [known for known, _ in variants.values()]:
            changed = ", ".join(
                f"{key} {value}" for key, value in settings.items() if value != paper.get(key)
            )
            whose = "this library's own" if name == "practice" else "of its published scripts"
            variants[name] = (settings, f"preset {name!r}, {whose}: {changed}")
    for name, (settings, source) in variants.items():
        make = partial(_tanl, settings)
        by_default = name != "siglip"
        yield Method(f"TANL ({name})", make, "user", True, False, _TANL_MEMORY, source, by_default)
    for name in ("batch-adaptive", "official-script"):
        settings, source = variants[name]
        make = partial(_tanl, {**settings, "final_pass": "float16"})
        source = f"{source}; its final pass in float16, as published"
        yield Method(
            f"TANL ({name}, float16)", make, "user", True, False, _TANL_MEMORY, source, by_default=False
        )


_ALL = (
    Method(
        "MCM",
        _named("mcm"),
        corpus=None,
        streaming=False,
        needs_local=False,
        memory="nothing",
        source="NeurIPS 2022, arXiv 2211.13445",
    ),
    Method(
        "MaxLogit",
        _named("max_logit"),
        corpus=None,
        streaming=False,
        needs_local=False,
        memory="nothing",
        source="ICML 2022, arXiv 1911.11132",
    ),
    Method(
        "Energy",
        _named("energy"),
        corpus=None,
        streaming=False,
        needs_local=False,
        memory="nothing",
        source="NeurIPS 2020, arXiv 2010.03759",
    ),
    Method(
        "GL-MCM",
        lambda given: GLMCM(given.bank),
        corpus=None,
        streaming=False,
        needs_local=True,
        memory="nothing; takes P x D numbers an image for its patches",
        source="IJCV 2025, arXiv 2304.04521",
    ),
    Method(
        "NegLabel",
        _named("neglabel"),
        corpus="user",
        streaming=False,
        needs_local=False,
        memory="a copy of its mined negatives, at most 10 000 D numbers",
        source="ICLR 2024, arXiv 2403.20078",
    ),
    Method(
        "CSP",
        _named("csp"),
        corpus="csp",
        streaming=False,
        needs_local=False,
        memory="a copy of its mined negatives, 0.15 M D numbers",
        source="NeurIPS 2024, arXiv 2410.08611",
    ),
    Method(
        "AdaNeg",
        _named("adaneg"),
        corpus="user",
        streaming=True,
        needs_local=False,
        memory="NegLabel's copy, a proxy of D numbers for each of these and the C labels, 9 images a label at most",
        source="NeurIPS 2024, arXiv 2410.20149",
    ),
    *_tanl_methods(),
)


def _beside(make: Maker, term: Callable[[EncodeTexts], Term], given: Given) -> Detector:
    return Fused(make(given), term(given.encode_texts))


def _by_id_images(
    make: Callable[[dict[str, Any], Given], Detector], settings: dict[str, Any], setting: str, given: Given
) -> Detector:
    """The method with its negatives chosen by the ID images, as many as it takes otherwise."""
    if given.id_images is None:
        raise ValueError("the method chooses its negatives by ID images, and none are set aside")
    choice = InterModal(given.id_images, given.id_labels, count=settings.get(setting))
    return make({**settings, setting: choice}, given)


def _parts() -> Iterable[Method]:
    """NegLabel and TANL with one part more each; see docs/method.md, "Parts"."""
    mined = {"num_negatives": MINED}
    bases: tuple[tuple[str, Callable[[dict[str, Any], Given], Detector], dict[str, Any], str, str], ...] = (
        (
            "NegLabel",
            _neglabel,
            mined,
            "num_negatives",
            "a copy of its mined negatives, at most 10 000 D numbers",
        ),
        ("TANL (official-script)", _tanl, TANL.preset("official-script"), "candidates", _TANL_MEMORY),
    )
    for base, maker, settings, setting, memory in bases:
        learns, own = maker is _tanl, partial(maker, settings)
        for weighing, source in (
            ("balanced", "arXiv 2605.10756 and 2603.02618: each group's mean against the ID labels' mean"),
            ("debiased", "arXiv 2605.23797: less what false negatives add"),
        ):
            make: Maker = partial(maker, {**settings, "weighing": weighing})
            yield Method(
                f"{base} + {weighing}", make, "user", learns, False, memory, source, by_default=False
            )
        make = partial(_beside, own, lambda texts: VisualDictionary())
        kept, source = f"{memory}, 2 048 embeddings", "arXiv 2503.10468: its dictionary of outliers alone"
        yield Method(f"{base} + dictionary", make, "user", True, False, kept, source, by_default=False)
        make = partial(_beside, own, lambda texts: PairScore(texts, kept=_PAIRS_KEPT))
        kept = f"{memory}, at most {_PAIRS_KEPT // 1000} 000 embeddings of pairs"
        source = "arXiv 2507.09795: its score of pairs, without a language model"
        yield Method(f"{base} + pairs", make, "user", learns, False, kept, source, by_default=False)
        yield Method(
            f"{base} + inter-modal",
            partial(_by_id_images, maker, settings, setting),
            "user",
            learns,
            False,
            memory,
            "arXiv 2603.02618: negatives chosen by ID images that are set aside",
            by_default=False,
            needs_id_images=True,
        )


METHODS: dict[str, Method] = {method.name: method for method in (*_ALL, *_parts())}
"""Every method, by its name."""

DEFAULT: tuple[str, ...] = tuple(name for name, method in METHODS.items() if method.by_default)
"""Those that are measured where none is named."""

PUBLISHED: tuple[str, ...] = tuple(
    name for name, method in METHODS.items() if method.by_default or "float16" in name
)
"""The same in a run of what the papers took: TANL in both precisions too."""

_CORPUS = {
    None: "no corpus",
    "user": "the run's corpus",
    "csp": "a corpus of its own (WordNet's nouns, and superclasses with an adjective)",
}


def find_methods(names: Iterable[str]) -> tuple[str, ...]:
    """The methods of these names, each once, in the table's order; case and punctuation do not matter.

    The names that `tanl.Guard` and ``tanl judge`` take are understood too.

    Raises:
        ValueError: there is no method of a name, or no name.
    """
    known = {letters_of(name): name for name in METHODS}
    for name, (kind, preset) in NAMED.items():
        if kind == "TANL":
            known[letters_of(name)] = f"TANL ({'batch-adaptive' if preset == 'paper' else preset})"
    wanted = [name.strip() for name in names if name.strip()]
    unknown = [name for name in wanted if letters_of(name) not in known]
    if unknown or not wanted:
        hint = did_you_mean(unknown[0], METHODS) if unknown else ""
        raise ValueError(f"no method {', '.join(unknown) or 'named'}; there are {', '.join(METHODS)}{hint}")
    found = {known[letters_of(name)] for name in wanted}
    return tuple(name for name in METHODS if name in found)


def describe_methods() -> str:
    """What each method needs and keeps, and where it is from, as text."""
    width = max(map(len, METHODS))
    lines = []
    for method in METHODS.values():
        needs = [_CORPUS[method.corpus], "a state of the stream" if method.streaming else "no state"]
        needs += ["patch embeddings"] if method.needs_local else []
        needs += ["ID images set aside (--shots)"] if method.needs_id_images else []
        needs += [] if method.by_default else ["only where it is named, or with --published"]
        lines += [
            f"{method.name:<{width}}  {method.source}",
            f"{'':{width}}  {', '.join(needs)}; keeps {method.memory}",
        ]
    lines.append("Kept beside the label bank of C ID labels and M negatives, D numbers each.")
    return "\n".join(lines)
