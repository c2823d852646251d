"""``tanl doctor``: what is here, what is not and why, and what a backbone and a corpus cost on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..io.text import one_line, shown_path
from .label_arguments import add_backbone_argument, add_precision_argument

if TYPE_CHECKING:
    from ..backbones import Backbone

_DESCRIPTION = """\
Tell what tanl finds on this machine: versions, devices, kernels, extras, the cache. With --backbone the model is
loaded and measured: texts and images a second, and how long each corpus takes to embed."""

_EPILOG = """\
examples:
  tanl doctor
  tanl doctor --backbone ViT-B-16/openai --device cuda --precision fp16

exit codes: 0 done; 2 a mistake in what was asked for, or a model that cannot be loaded."""

_PACKAGES = ("torch", "open_clip_torch", "numpy", "Pillow", "safetensors")
_EXTRAS: Mapping[str, str] = {
    "parquet": "pyarrow",
    "pandas": "pandas",
    "hf": "transformers",
    "faiss": "faiss",
    "heif": "pillow_heif",
    "medical": "pydicom",
    "beyond": "sklearn",
    "bench": "matplotlib",
    "pytorch-ood": "pytorch_ood",
    "ray": "ray",
    "serve": "gradio",
}
_CORPORA = ("wordnet", "neglabel")
_TEXTS, _IMAGES = 512, 32  # what is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_backbone_argument(parser, default="none is loaded")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    add_precision_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    for what, told in _facts():
        print(one_line(f"{what:<9} {told}"))
    if arguments.backbone is not None:
        from ..backbones import load_backbone

        started = time.perf_counter()
        backbone = load_backbone(
            arguments.backbone, device=arguments.device, precision=arguments.precision or "fp32"
        )
        print(one_line(f"backbone  {backbone!r}, loaded in {time.perf_counter() - started:.1f} s"))
        for line in _costs(backbone):
            print(one_line(f"          {line}"))
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    yield "tanl", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield "cpu", f"{_cores()} cores, of which torch uses {torch.get_num_threads()}"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    else:
        yield (
            "cuda",
            "no: "
            + ("this torch was built without it" if torch.version.cuda is None else "no GPU or driver"),
        )
    if sys.platform == "darwin":
        yield "mps", "yes" if torch.backends.mps.is_available() else "no"
    yield from _kernels()
    for extra, module in _EXTRAS.items():
        there = find_spec(module) is not None
        yield "extra", f"{extra}: {'yes' if there else f'''no, pip install 'tanl[{extra}]' '''}".rstrip()
    yield "cache", _cache()


def _kernels() -> Iterator[tuple[str, str]]:
    import torch

    from .. import kernels
    from ..kernels import native

    yield "kernels", f"TANL_KERNELS={os.environ.get('TANL_KERNELS', 'auto')}"
    for name, device in (("native", "cpu"), ("triton", "cuda")):
        reason = kernels.why_not(name, torch.device(device))
        if reason is None and device == "cuda" and not torch.cuda.is_available():
            reason = "there is no GPU"
        told = f"no: {reason}" if reason else "yes"
        if name == "native" and reason is None:
            told += f", with the instructions {native.variants()[-1]}"
        yield "", f"{name}, for the {device}: {told}"


def _cache() -> str:
    from ..io.cache import default_cache_dir
    from ..io.cache_files import kept_in

    try:
        folder = default_cache_dir()
    except OSError as error:
        return f"no: {error}"
    there = next(each for each in (folder, *folder.parents) if each.exists())
    state = "" if os.access(there, os.W_OK) else "; it cannot be written, so nothing is kept"
    return f"{shown_path(folder)}, {sum(each.size for each in kept_in(folder)) / 1e6:.0f} MB{state}"


class Rates(NamedTuple):
    """What a model embeds in a second: texts of the corpus, and images, prepared and encoded, without reading files."""

    texts: float
    images: float


def rates(backbone: Backbone) -> Rates:
    """Measure it: 512 texts of WordNet, 32 images of 500 x 400 pixels."""
    import torch
    from PIL import Image

    from ..labels.build import label_prompts
    from ..labels.corpus import Corpus

    whole = label_prompts((), Corpus.load(_CORPORA[0]), None)
    texts = whole[:: len(whole) // _TEXTS][:_TEXTS]
    backbone.encode_texts(texts[:8])  # what the first call costs besides
    started = time.perf_counter()
    backbone.encode_texts(texts)
    text_rate = len(texts) / (time.perf_counter() - started)
    picture = Image.effect_noise((500, 400), 60).convert("RGB")
    started = time.perf_counter()
    pixels = torch.stack([backbone.preprocess(picture) for _ in range(_IMAGES)]).to(backbone.device)
    backbone.encode_images(pixels)
    return Rates(text_rate, _IMAGES / (time.perf_counter() - started))


def _costs(backbone: Backbone) -> Iterator[str]:
    """Texts and images a second, and what that comes to for a corpus."""
    from ..io.cache import default_cache_dir
    from ..io.progress import duration
    from ..io.text_store import TextStore
    from ..labels.build import label_prompts
    from ..labels.corpus import Corpus

    corpora = {name: label_prompts((), Corpus.load(name), None) for name in _CORPORA}
    measured = rates(backbone)
    yield (
        f"{measured.texts:.0f} texts/s, {measured.images:.0f} images/s prepared and encoded, without reading files"
    )
    try:
        store = TextStore(default_cache_dir(), backbone.fingerprint, backbone.name)
        kept = store.texts()
    except OSError:
        kept = set()
    for name, prompts in corpora.items():
        left = len(set(prompts) - kept)
        took = f"{duration(left / measured.texts)} to embed" if left else "nothing to embed"
        yield f"corpus {name}: {len(prompts)} texts, {len(prompts) - left} of them kept; {took}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
