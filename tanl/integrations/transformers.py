"""OOD detection for a zero-shot image classification pipeline of transformers, in two lines."""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from types import GeneratorType
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..backbones.hugging_face import HuggingFaceBackbone
from ..checks import whole_number
from ..detectors.registry import known_method
from ..guard.guard import Guard, Method
from ..io.images import has_levels, read_image, to_rgb
from ..labels.corpus import Corpus
from ..labels.names import checked_names
from ..streams.images import refuse_off_norm

_TASK = "zero-shot-image-classification"
_EMBEDDING = "image_embeds"
_MADE_ANEW = frozenset({"_lock", "_making", "_inner"})  # by a copy of a guarded pipeline


def guard_pipeline(
    pipe: Any,
    *,
    corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
    method: Method = "tanl",
    settings: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    templates: Mapping[str, str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    label_sets: int = 4,
    progress: bool | None = None,
) -> GuardedPipeline:
    """Give a pipeline of transformers OOD detection::

        pipe = pipeline("zero-shot-image-classification", model="google/siglip-base-patch16-224")
        pipe = tanl.guard_pipeline(pipe)
        pipe("photo.jpg", candidate_labels=["a cat", "a dog"])
        # [{"score": ..., "label": "a cat", "ood_score": ..., "is_ood": ...}, {...}]

    Args:
        pipe: a ``zero-shot-image-classification`` pipeline, which stays as it is.
        corpus: the negative labels, as `Guard` takes them.
        method: as `Guard` takes it.
        settings: of the method, as `Guard` takes them.
        labels: candidate labels of calls that name none. Their guard is made now, so that the first call waits
            for no corpus; without them each label set's is made at its first call.
        templates: the guard's prompt per part of speech, as `Guard` takes them.
        cache_dir: where corpus embeddings are kept; None is the user's cache folder.
        dtype: what labels' embeddings are kept as, as `Guard` takes it.
        label_sets: how many label sets are remembered; beyond them the one that was not used for longest is
            forgotten, with its stream. Each holds its own copy of the labels' embeddings.
        progress: show a progress bar while the corpus is embedded, as `build_bank` takes it.

    Raises:
        TypeError: ``pipe`` is no such pipeline, or its model no dual encoder.
        ValueError: unusable labels, corpus or method; the message names the value.
    """
    if getattr(pipe, "task", None) != _TASK:
        what = getattr(pipe, "task", None) or type(pipe).__name__
        raise TypeError(f"guard_pipeline takes a {_TASK} pipeline of transformers, not {what!r}")
    if isinstance(method, str):
        method = known_method(method)
    label_sets = whole_number(label_sets, "label_sets", at_least=1)
    if corpus is not None and not isinstance(corpus, Corpus | str | PathLike):
        corpus = tuple(corpus)  # it is read once for every label set
    options = {
        "corpus": corpus,
        "method": method,
        "settings": settings,
        "templates": templates,
        "cache_dir": cache_dir,
        "dtype": dtype,
        "progress": progress,
    }
    return GuardedPipeline(pipe, labels, label_sets, options)


class GuardedPipeline:
    """A zero-shot image classification pipeline that also tells what belongs to none of its labels.

    Made by `guard_pipeline`. It is called as the pipeline is, gives what the pipeline gives, and adds to each result
    ``ood_score`` (higher = more OOD) and ``is_ood`` (None while the method has no threshold). They say of the
    image whether it is of any of the candidate labels, so that they are the same in all results of an image.
    Every other attribute is the pipeline's.

    The image embeddings are those that the pipeline computes anyway: no image is encoded twice.

    A label set, whatever its order, has a `Guard` of its own, and with it a stream of its own: `guard_for` gives it,
    to calibrate or reset. A call is one batch of that stream, whether one image or a list. A generator or
    data set is answered lazily, and each batch (``batch_size``) is one of the stream. Scores of labels come from
    the pipeline and follow ``hypothesis_template``; the guard's prompts are its ``templates``.

    Calls from several threads take turns in the stream.
    """

    def __init__(
        self, pipe: Any, labels: Sequence[str] | None, label_sets: int, options: dict[str, Any]
    ) -> None:
        self.pipeline = pipe
        self.backbone = HuggingFaceBackbone(
            pipe.model,
            pipe.image_processor,
            pipe.tokenizer,
            name=getattr(pipe.model, "name_or_path", "") or "wrapped",
        )
        self.labels = None if labels is None else checked_names(labels, "candidate label")
        self._options = options
        self._label_sets = label_sets
        self._guards: OrderedDict[tuple[str, ...], Guard] = OrderedDict()
        self._lock = threading.Lock()  # held while the label sets that there are are read or changed
        self._making = threading.RLock()  # held while a guard is made
        self._inner = _with_embeddings(pipe)
        if self.labels is not None:
            self.guard_for(self.labels)

    def __call__(
        self, image: Any = None, candidate_labels: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Classify and judge, with the arguments and results of the pipeline.

        Args:
            image: a PIL image, path or URL, a list of them, a generator or a data set.
            candidate_labels: the ID labels of this call; may be left out if the guard was made with ``labels``.
            kwargs: what else the pipeline takes: ``hypothesis_template``, ``timeout``, ``batch_size`` and so on.

        Returns:
            For an image a list of ``{"score", "label", "ood_score", "is_ood"}``, the best label first; for a
            list of images a list of such lists; for a generator or data set an iterator over them.

        Raises:
            TypeError, ValueError: no labels, unusable ones, or no image. The stream is unchanged.
        """
        image = kwargs.pop("images", image)  # an older name, which the pipeline still takes
        if image is None:
            raise ValueError("give an image: a PIL image, a path, a URL, or a list of them")
        labels = self._named(candidate_labels)
        guard = self.guard_for(labels)
        if isinstance(image, list):
            image = [_as_shown(each) for each in image]
        elif isinstance(image, GeneratorType):
            image = (_as_shown(each) for each in image)
        else:
            image = _as_shown(image)
        results = self._inner(image, candidate_labels=list(labels), **kwargs)
        if isinstance(image, list):
            return self._judged(results, guard)
        if isinstance(results, tuple):
            return self._judged([results], guard)[0]
        size = kwargs.get("batch_size") or getattr(self.pipeline, "_batch_size", None) or 1
        return self._stream(iter(results), guard, size)

    def guard_for(self, candidate_labels: Sequence[str] | None = None) -> Guard:
        """The guard of a label set, for `Guard.calibrate`, `Guard.reset` and its detector; made if need be.

        Calls with label sets that have their guard do not wait while another is made. Guards are made one after
        the other: the first embeds the corpus, the next take it from the cache.
        """
        labels = self._named(candidate_labels)
        key = tuple(sorted(labels))
        if (guard := self._remembered(key)) is not None:
            return guard
        with self._making:
            if (guard := self._remembered(key)) is not None:  # another thread has made it meanwhile
                return guard
            guard = Guard(self.backbone, labels, evidence=0, **self._options)
            with self._lock:
                self._guards[key] = guard
                if len(self._guards) > self._label_sets:
                    self._guards.popitem(last=False)
            return guard

    def _remembered(self, key: tuple[str, ...]) -> Guard | None:
        with self._lock:
            if key in self._guards:
                self._guards.move_to_end(key)
            return self._guards.get(key)

    def _named(self, candidate_labels: Sequence[str] | None) -> tuple[str, ...]:
        if candidate_labels is None:
            if self.labels is None:
                raise ValueError("give candidate_labels, or give guard_pipeline the labels of every call")
            candidate_labels = self.labels
        return checked_names(candidate_labels, "candidate label")

    def _stream(self, results: Iterator[Any], guard: Guard, size: int) -> Iterator[Any]:
        while batch := list(islice(results, size)):
            yield from self._judged(batch, guard)

    def _judged(self, results: list[tuple[list[dict[str, Any]], Tensor]], guard: Guard) -> list[Any]:
        """Results with their images' embeddings, judged as one batch of the stream."""
        if not results:
            return []
        z = normalize(torch.cat([embedding for _, embedding in results]).float(), dim=1)
        refuse_off_norm(z, "the batch")
        detection = guard.detect_embeddings(z.to(guard.bank.device))
        return [
            [{**entry, "ood_score": verdict.ood_score, "is_ood": verdict.is_ood} for entry in entries]
            for (entries, _), verdict in zip(results, detection, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in _MADE_ANEW}
        with self._lock:
            state["_guards"] = self._guards.copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._making = threading.RLock()
        self._inner = _with_embeddings(self.pipeline)

    def __repr__(self) -> str:
        with self._lock:
            sets = len(self._guards)
        return f"GuardedPipeline({self.backbone.name!r}, label sets: {sets})"

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling ask before there is a pipeline, and for names that are the class's affair.
        if name.startswith("__") or "pipeline" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.pipeline, name)


def _as_shown(image: Any) -> Any:
    """Greys of more than 8 bits, in a file or not, as people see them: the pipeline would clip them to white.

    Anything else stays as it is, for the pipeline to read or to refuse.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image) if has_levels(image) else image
    if not (isinstance(image, str) and os.path.isfile(image)):  # noqa: PTH113, Path's refuses what is base64
        return image
    try:
        with Image.open(image) as opened:
            is_shown = not has_levels(opened)
    except Exception:
        return image
    return image if is_shown else read_image(image)


class _Recorder:
    """A model that remembers the output of each thread's last call."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._calls = threading.local()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls.output = self._model(*args, **kwargs)
        return self._calls.output

    def last_output(self) -> Any:
        """The output of the thread's last call, which is forgotten."""
        return self._calls.__dict__.pop("output", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _with_embeddings(pipe: Any) -> Any:
    """A copy of the pipeline that gives ``(result, image embedding [1, D])`` for each image.

    It shares the model, and the caller's pipeline goes on as it was. No hook is put on the model: a compiled one
    may ignore it.
    """
    inner = copy.copy(pipe)
    inner.model = _Recorder(pipe.model)

    def forward(model_inputs: Any, **options: Any) -> Any:
        outputs = type(pipe)._forward(inner, model_inputs, **options)
        embeddings = getattr(inner.model.last_output(), _EMBEDDING, None)
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
            raise TypeError(
                f"{type(pipe.model).__name__} gives no image_embeds, one for each image, to judge"
            )
        return {**outputs, _EMBEDDING: embeddings}

    def postprocess(model_outputs: Any, **options: Any) -> Any:
        embedding = model_outputs.pop(_EMBEDDING)
        return type(pipe).postprocess(inner, model_outputs, **options), embedding

    inner._forward, inner.postprocess = forward, postprocess
    return inner
