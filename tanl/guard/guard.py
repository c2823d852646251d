"""Guard: images in, verdicts out, around any CLIP-like pipeline."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..backbones import Backbone
from ..backbones.callables import CallableBackbone
from ..backbones.checks import warn_if_random
from ..backbones.clip import ClipBackbone
from ..backbones.hugging_face import HuggingFaceBackbone
from ..backbones.noise import noise_embeddings
from ..checks import Embeddings, as_tensor, whole_number
from ..detectors import Detector, Evidence
from ..detectors.registry import (
    FROM_OUTLIERS,
    METHODS,
    WITH_NEGATIVES,
    InUse,
    held_settings,
    known_method,
    make_detector,
    method_in_use,
    refuse_settings,
)
from ..detectors.verdict import Answer, Detection, Verdict, answers, detect_embeddings
from ..io.images import UnreadableImage
from ..io.options import BATCH_SIZE
from ..io.volumes import Grey, Volume, Window, cut
from ..labels.bank import LabelBank
from ..labels.build import build_bank
from ..labels.corpus import Corpus
from ..labels.not_shown import hidden_in
from ..labels.prompts import full_templates
from ..labels.vocabulary import Vocabulary
from ..streams.images import ImageEncoder, OneImage, unreadable
from ..streams.pump import Pump
from ..streams.verdicts import astream, stream
from .monitor import Health, Monitor, kind_of
from .saving import (
    GuardRecord,
    folder_lock,
    loaded_backbone,
    read_record,
    refuse_other_backbone,
    write_record,
)
from .volumes import Aggregate, Together, VolumeVerdict, judge_slices

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self

__all__ = ["METHODS", "Detection", "Guard", "Method", "Verdict"]

Images = Sequence[Image.Image | str | PathLike[str]] | Tensor
Source = str | Sequence[str | None] | None
Method = str | Callable[[LabelBank], Detector]

_LOG = logging.getLogger(__name__)
_AT_ONCE = 256  # images in memory as pixels


class Guard:
    """OOD detection around a vision-language model: knows the backbone and the detector.

    Each call is one batch of the stream that a stateful method such as TANL learns from. Whatever is wrong
    with a batch is raised before the state changes.

    Several threads may use one guard: batches are applied one after the other, whole, in the order in which they
    come to the detector; images are read and encoded side by side.

    Args:
        backbone: from `tanl.load_backbone`, or any other `Backbone`.
        labels: the ID classes. They, their plurals and their WordNet synonyms leave the corpus; WordNet's words are
            English, so that of a label in another language the translation stays in it, and counts against it
            ("cat" against "猫"): `remove_negatives` takes such words out, and `tanl.near_duplicates` finds
            what else a model reads like a label.
        corpus: the negative labels, as `build_bank` takes them; not used by "mcm", "max_logit", "energy".
        method: "tanl", with the preset "practice", which does not run away where outliers are rare; "tanl-paper" and
            "tanl-official-script", as published; "neglabel", "adaneg", "csp", "mcm", "max_logit", "energy", with the
            settings of their papers; or a function from the `LabelBank` to a `Detector`. Case and punctuation of a name
            do not count.
        settings: of a method by name, in place of its own: ``{"gap": 0.5}``.
        templates: prompt per part of speech and for ID labels, as `build_bank` takes them.
        removal: which words leave the corpus for the labels, as `build_bank` takes it.
        id_images: a few images of the ID classes, which choose the negatives of "tanl...", "neglabel" and "adaneg"
            (`InterModal`); which class each shows is taken from the model. For calibration give others: what chose the
            negatives scores lower than new ID images do. A guard made with some is saved as one that a function made:
            `load` takes ``method``, ``settings`` and ``id_images`` again.
        cache_dir: where corpus embeddings are kept; None is the user's cache folder.
        dtype: what labels' embeddings are kept as: float32, or float16 for half the memory.
        evidence: how many negative labels an OOD verdict comes with; 0 for none.
        show_all: name any negative label as evidence. By default those of WordNet's words that say nothing of a picture
            and may hurt or accuse are not named, though they score: slurs, obscenities, peoples, religions, crimes,
            diseases (`tanl.labels.not_shown`); words of your own always are.
        progress: show a progress bar while the corpus is embedded, as `build_bank` takes it.

    Raises:
        TypeError, ValueError: unusable labels, corpus, method, settings or dtype; the message names the value.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: Sequence[str],
        *,
        corpus: Corpus | str | PathLike[str] | Iterable[str] | None = "wordnet",
        method: Method = "tanl",
        settings: Mapping[str, Any] | None = None,
        templates: Mapping[str, str] | None = None,
        removal: str = "synonyms",
        id_images: Images | None = None,
        cache_dir: str | PathLike[str] | None = None,
        dtype: torch.dtype = torch.float32,
        evidence: int = 5,
        show_all: bool = False,
        progress: bool | None = None,
    ) -> None:
        if isinstance(method, str):
            method = known_method(method)
            refuse_settings(method, settings or {})
        elif settings:
            raise ValueError(f"settings are of a method by name; let the function set {', '.join(settings)}")
        if not hasattr(backbone, "encode_texts"):  # not isinstance, which would ask for the fingerprint
            raise TypeError(
                f"backbone must be a Backbone, not a {type(backbone).__name__}; tanl.load_backbone loads one by its "
                "name, and tanl.wrap takes a model that is loaded"
            )
        ours = isinstance(
            backbone, ClipBackbone | HuggingFaceBackbone | CallableBackbone
        )  # they warn themselves
        if not ours and (preprocess := getattr(backbone, "preprocess", None)) is not None:
            warn_if_random(preprocess, preprocess)
        self.evidence = whole_number(evidence, "evidence", at_least=0)
        if isinstance(method, str) and method not in WITH_NEGATIVES:
            corpus = None
        self._lock = threading.RLock()  # held by whatever reads or changes bank, detector or vocabulary
        self._editing = threading.Lock()  # taken before the other: one edit of the vocabulary at a time
        self._method = method if isinstance(method, str) else None
        self.backbone = backbone
        if corpus is not None and not isinstance(corpus, Corpus):
            corpus = Corpus.load(corpus)
        self.bank = build_bank(
            backbone,
            labels,
            corpus=corpus,
            templates=templates,
            removal=removal,
            cache_dir=cache_dir,
            progress=progress,
            dtype=dtype,
        )
        known = None if id_images is None else self.encode(id_images)
        self.id_images = 0 if known is None else len(known)
        self.detector = self._detector(method, known, settings)
        self.show_all = show_all
        self._monitor = Monitor()
        own = None if templates is None else dict(templates)
        self._vocabulary = Vocabulary(self.bank.id_names, corpus, own, removal)

    def __call__(self, images: Images, *, source: Source = None) -> Detection:
        """Judge one batch of the stream, and learn from it: `judge`."""
        return self.judge(images, source=source)

    def judge(self, images: Images, *, source: Source = None) -> Detection:
        """Judge one batch of the stream, and learn from it.

        Args:
            images: PIL images and paths, or pixels ``[B, 3, H, W]`` as ``backbone.preprocess`` makes them.
            source: where they come from (a camera, a customer), a name for all or one for each, None where it is not
                known: the method "tanl" bounds what one source may teach it (`GuardedMemory.per_source`).

        Raises:
            UnreadableImage: a path holds no readable image, or the model gives no usable embedding for an image.
            TypeError, ValueError: no images, or something that is none; unusable sources, or a source for a method
                that learns without a bound.
        """
        return self.detect_embeddings(self.encode(images), source=source)

    def answer(self, images: Images, *, source: Source = None, unknown: str = "unknown") -> list[Answer]:
        """Judge one batch of the stream, learn from it, and give one answer an image: a label, or "unknown".

        For pipelines that want a class and its probability: each is ``(label, probability)``. The probability of
        "unknown" is at least 1/2 exactly where an image is judged OOD; see `tanl.detectors.verdict.answers`.

        Args:
            images: as `judge` takes them.
            source: as `judge` takes it.
            unknown: what to call what none of the labels is right for.

        Raises:
            UnreadableImage, TypeError, ValueError: as `judge`; there is no threshold yet, see `calibrate`; the method's
                scores are no shares of the negatives; unknown is an ID label.
        """
        z = self.encode(images)
        with self._lock:
            if self.detector.threshold is None:
                raise ValueError("there is no threshold yet: call calibrate first")
            self.detector.as_share(z[:0, 0])  # refuses before anything is learnt
            if unknown in self.bank.id_names:
                raise ValueError(f"{unknown!r} is one of the ID labels: give unknown another name")
            detection = self.detect_embeddings(z, source=source)
            return answers(self.detector, detection, unknown=unknown)

    def score(self, images: Images) -> Tensor:
        """The OOD scores ``[B]`` that `judge` would give, higher = more OOD, without learning from the images.

        Raises:
            UnreadableImage, TypeError, ValueError: as `judge`.
        """
        z = self.encode(images)
        with self._lock:
            return self.detector.score(z)

    def predict(self, images: Images) -> Tensor:
        """Decide, True = OOD, ``[B]``, without learning from the images.

        Raises:
            UnreadableImage, TypeError, ValueError: as `judge`; there is no threshold yet, see `calibrate`.
        """
        z = self.encode(images)
        with self._lock:
            return self.detector.predict(z)

    def score_volume(
        self,
        volume: Volume | Grey,
        *,
        axis: int = 0,
        window: Window | None = None,
        aggregate: Aggregate = "top",
        k: int = 3,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> VolumeVerdict:
        """Judge the slices of a volume as one batch, without learning from them.

        Slices are resized so that a pixel is as high as it is wide. Greys go through ``window``, or all together by the
        one rule for levels (`tanl.io.levels.to_8_bits`), so that slices stay comparable.

        Args:
            volume: numbers ``[D, H, W]``, or what `tanl.read_volume` gives, with spacing.
            axis: along which it is cut.
            window: the values that become black and white.
            aggregate: how slices make the volume's score. "top" is the mean of the k highest, which a few foreign
                slices move and one noisy one does not decide alone; "max", "mean".
            k: of "top"; all slices if there are fewer.
            masks: regions ``[D, H, W]`` by name. Of each slice that a region meets, its bounding box there is judged.

        Raises:
            TypeError, ValueError: no volume, an impossible window, or masks of another shape; the message names it.
        """
        together = Together(aggregate, k)
        slices, regions = cut(volume, axis=axis, window=window, masks=masks)
        return judge_slices(
            lambda pictures: self.detect_embeddings(self.encode(pictures), learn=False),
            slices,
            regions,
            together,
        )

    def explain(self, images: Images, k: int = 5) -> list[tuple[Evidence, ...]]:
        """The ``k`` negative labels that count most against each image, ID or OOD; see `Detector.explain`.

        Raises:
            UnreadableImage, TypeError, ValueError: as `judge`.
        """
        z = self.encode(images)
        with self._lock:
            return self.detector.explain(z, k, hidden=self._hidden)

    def encode(self, images: Images) -> Tensor:
        """Embed images, ``[B, D]`` unit rows, without judging them.

        Pixels must be on the backbone's device, and are encoded in one piece. Files and PIL images are read and
        encoded 256 at a time, on that device.

        Raises:
            UnreadableImage, TypeError, ValueError: as `judge`.
        """
        if isinstance(images, Tensor):
            return self._encoder("the pixels").encode_given(images)
        encoder = self._encoder("the list")
        if isinstance(images, str | PathLike | Image.Image):
            raise TypeError(f"give a list of images, not the one image {images!r}")
        images = list(images)
        if not images:
            raise ValueError("no images; leave empty batches out")
        if any(isinstance(image, Tensor) for image in images):
            raise TypeError(
                "pixels are judged together as torch.stack([...]), or one by one, beside files and PIL images too, "
                "by guard.stream([...])"
            )
        pump = Pump(
            images, encoder.prepare, encoder.encode, batch_size=_AT_ONCE, read_ahead=0, refuse=unreadable
        )
        try:
            return torch.cat([batch.z for batch in pump if batch.z is not None])
        finally:
            pump.close()

    def detect_embeddings(self, z: Embeddings, *, source: Source = None, learn: bool = True) -> Detection:
        """Judge one batch of embeddings ``[B, D]``, a tensor or a NumPy array, and learn from it; see `judge`.

        Args:
            z: as `Detector` takes them.
            source: as `judge` takes it; not without learning.
            learn: False gives the verdicts that `judge` would give, and leaves stream and monitor as they are.
        """
        with self._lock:
            detection = detect_embeddings(
                self.detector,
                z,
                evidence=self.evidence,
                source=source,
                learn=learn,
                hidden=self._hidden,
            )
            if not learn:
                return replace(detection, warnings=self._monitor.warnings)
            told = set(map(kind_of, self._monitor.warnings))
            rows = as_tensor(z, "image embeddings")
            warnings = self._monitor.observe(self.detector, rows, detection.is_ood)
        for warning in warnings:
            if kind_of(warning) not in told:
                _LOG.warning("%s", warning)
        return replace(detection, warnings=warnings)

    def health(self) -> Health:
        """How the stream and the method's memory are; what looks wrong is in its ``warnings``.

        The same warnings come with every `Detection` and `Verdict`, and the logger ``tanl.guard.guard`` tells each when
        it appears. They are about the stream since the guard was made, loaded or reset.
        """
        with self._lock:
            return self._monitor.health(self.detector, self.method)

    @overload
    def stream(
        self,
        images: Iterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Generator[Verdict, None, None]: ...

    @overload
    def stream(
        self,
        images: Iterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["yield"],
    ) -> Generator[Verdict | UnreadableImage, None, None]: ...

    def stream(
        self,
        images: Iterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Generator[Any, None, None]:
        """Judge images one by one, as they come: the verdicts of calling the guard on one batch after the other::

            for verdict in guard.stream(images):
                ...

        Images are prepared in threads and judged in batches, each a batch of the guard's stream. The source is read no
        further ahead than ``batch_size + read_ahead`` images, usable or not, beyond what was given for them, and not
        at all before the first is asked for. Ending the loop, an error, or ``close()`` ends the threads; what was read
        ahead and not judged is dropped then.

        Args:
            images: PIL images, paths, or pixels ``[3, H, W]`` as ``backbone.preprocess`` makes them; any iterable,
                also an endless one.
            batch_size: usable images a batch. The last may be smaller, and one in which more than ``read_ahead``
                images cannot be used.
            max_wait: seconds after which a batch is judged although it is not full, counted from its oldest image: for
                slow sources, such as a camera or a queue. Such a source is read in a thread of its own. If it blocks
                when the stream is closed, that is waited for a second; the thread then ends with the source's next
                image, which is dropped. None waits for full batches and reads the source where verdicts are asked for.
            read_ahead: how many images may be read beyond a batch; None is 64, of which four a thread are prepared at
                once. There are as many threads as cores, at most 16.
            source: where all of them come from, as `judge` takes it.
            errors: what to do about an image that cannot be used: one that cannot be read, or for which the model
                gives an embedding with NaN, infinite values, zeros or another norm than 1. "raise" judges what came
                before it, gives those verdicts, and raises. "yield" gives the `UnreadableImage` in the verdict's
                place and goes on; the others are judged as if it were not there.

        Raises:
            UnreadableImage: an image that cannot be used, see ``errors``. One that has no path is told by its
                number in the stream, from 0.
            TypeError, ValueError: an unusable setting, at once; something that is no image, after the verdicts on what
                came before it. Errors of the source are passed on after those too.
        """
        return stream(
            self._encoder(),
            images,
            partial(self.detect_embeddings, source=source),
            batch_size=batch_size,
            max_wait=max_wait,
            read_ahead=read_ahead,
            errors=errors,
        )

    @overload
    def astream(
        self,
        images: Iterable[OneImage] | AsyncIterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["raise"] = "raise",
    ) -> AsyncGenerator[Verdict, None]: ...

    @overload
    def astream(
        self,
        images: Iterable[OneImage] | AsyncIterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["yield"],
    ) -> AsyncGenerator[Verdict | UnreadableImage, None]: ...

    def astream(
        self,
        images: Iterable[OneImage] | AsyncIterable[OneImage],
        *,
        batch_size: int = BATCH_SIZE,
        max_wait: float | None = None,
        read_ahead: int | None = None,
        source: str | None = None,
        errors: Literal["raise", "yield"] = "raise",
    ) -> AsyncGenerator[Any, None]:
        """`stream` for asyncio, with the same arguments, verdicts and errors::

            async for verdict in guard.astream(images, max_wait=0.1):
                ...

        Images may come from an asynchronous iterable, which is read by one task on the event loop, or a plain one,
        which is read in a thread. The guard's own work is done in threads. Cancelling waits for the
        batch that is being judged, and ends the threads. A single batch needs no stream:
        ``await asyncio.to_thread(guard, images)``.
        """
        return astream(
            self._encoder(),
            images,
            partial(self.detect_embeddings, source=source),
            batch_size=batch_size,
            max_wait=max_wait,
            read_ahead=read_ahead,
            errors=errors,
        )

    def calibrate(self, images: Images, tpr: float = 0.95, *, batch_size: int = BATCH_SIZE) -> float:
        """Set the threshold from ID images, so that new ones are kept with probability at least ``tpr``.

        The images are scored with the stream as it stands, which stays as it is. TANL keeps their embeddings, and its
        threshold follows the stream from then on (`TANL.calibrate_embeddings`); they are saved with the guard.

        Args:
            images: as `judge` takes them, all of them ID.
            tpr: wanted share of ID images that are kept.
            batch_size: how many are scored at a time: the stream's, where scores depend on their batch (AdaNeg).

        Returns:
            The threshold; see `tanl.detectors.thresholds.threshold_at_tpr` for what it guarantees.
        """
        return self.calibrate_embeddings(self.encode(images), tpr, batch_size=batch_size)

    def calibrate_embeddings(
        self, z: Embeddings, tpr: float = 0.95, *, batch_size: int = BATCH_SIZE
    ) -> float:
        """Set the threshold from embeddings ``[n, D]`` of ID images; see `calibrate`."""
        with self._lock:
            threshold = self.detector.calibrate_embeddings(z, tpr, batch_size=batch_size)
            self._monitor.calibrated()
        return threshold

    def calibrate_unlabelled(self, images: Images) -> float:
        """Set the threshold from images of which nobody knows whether they are ID or OOD, by Otsu's method.

        TANL does so by itself after every batch; this is for the methods without a threshold of their own. The
        images are scored with the stream as it stands, which stays as it is.

        Args:
            images: of both kinds, each frequent among them.

        Returns:
            The threshold; see `tanl.detectors.thresholds.threshold_from_stream` for when it fails.
        """
        z = self.encode(images)
        with self._lock:
            return self.detector.calibrate_unlabelled(self.detector.score(z))

    def uncalibrate(self) -> None:
        """Forget the threshold that was calibrated; TANL goes back to its own, the others have none then."""
        with self._lock:
            self.detector.uncalibrate()

    def save(self, folder: str | PathLike[str], *, compact: bool = False) -> None:
        """Keep the guard in a folder: labels, corpus, method, threshold, and the stream so far.

        As safetensors and JSON. Embeddings of labels are not kept: `load` takes them from the cache, or makes them
        again. Files are written beside their places and moved there: after a crash, or an error, the folder holds
        the guard that was saved last. Other threads may use the guard meanwhile. Several processes may save into one
        folder: they take turns, by a file ``.guard.lock`` in it, and the last one's guard stays.

        Args:
            folder: made if need be; a guard that it holds is replaced.
            compact: leave out what can be computed again. With 70 000 labels, D = 512 and TANL's settings that is
                at most 1.5 MB instead of 14. A loaded stream goes on up to float32 rounding then; otherwise bit for
                bit, where the label embeddings are the same bit for bit (see ``exact`` of `load`).

        Raises:
            OSError: the folder cannot be written, or others have been saving into it for a minute.
        """
        with folder_lock(folder):  # before the state is copied: the save that comes last has the latest state
            write_record(self._record(compact=compact), folder)

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        *,
        backbone: Backbone | None = None,
        method: Method | None = None,
        settings: Mapping[str, Any] | None = None,
        id_images: Images | None = None,
        cache_dir: str | PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        exact: bool = True,
        progress: bool | None = None,
    ) -> Self:
        """The guard that `save` kept; its stream goes on where it was.

        Args:
            folder: where it was saved.
            backbone: the one that it was saved with; None loads it by its name.
            method: the function that made the detector, for a guard that was made with one.
            settings: of the method, those that are objects, which the folder does not hold. The others go on as they
                were when the guard was saved, and may not be given otherwise.
            id_images: those that it was made with.
            cache_dir: where corpus embeddings are kept; None is the user's cache folder.
            device: where a backbone that is loaded by its name is put.
            exact: refuse a full save whose label embeddings have other bits than those made now: on another machine
                or device, with another torch, or after edits of labels. False loads it as a compact one then.
            progress: show a progress bar while the corpus is embedded, as `build_bank` takes it.

        Raises:
            FileNotFoundError: no guard was saved there.
            ValueError: a damaged file; another backbone, corpus or method, or other settings, than what was saved.
                The message names the difference.
            BackboneError: the backbone cannot be fetched or read.
        """
        saved = read_record(folder)
        if isinstance(method, str):
            method = known_method(method)
        if not callable(method):
            saved.refuse_other_method(method, settings or {})
        if backbone is None:
            backbone = loaded_backbone(saved, device)
        refuse_other_backbone(saved, backbone.name, backbone.fingerprint)
        if method is None:
            method = saved.method
            if method is None:
                raise ValueError(
                    f"the guard was saved with a detector that a function made, a {saved.detector}: "
                    "give that function as method"
                )
        guard = cls(
            backbone,
            saved.labels,
            corpus=saved.corpus,
            method=method,
            settings=settings if callable(method) else {**saved.by_hand, **(settings or {})},
            templates=saved.templates,
            removal=saved.removal,
            dtype=saved.dtype,
            id_images=id_images,
            cache_dir=cache_dir,
            evidence=saved.evidence,
            show_all=saved.show_all,
            progress=progress,
        )
        guard._go_on(saved, exact)
        return guard

    def restore(self, folder: str | PathLike[str], *, exact: bool = True) -> None:
        """Go on with the stream and the threshold that `save` kept, in this guard, which must be the same otherwise.

        Args:
            folder: where it was saved.
            exact: as `load` takes it.

        Raises:
            FileNotFoundError: no guard was saved there.
            ValueError: a damaged file; another backbone, corpus or method, other labels, templates or settings. The
                message names the difference, and nothing changes.
        """
        self._go_on(read_record(folder), exact)

    def merge(self, *others: Guard | str | PathLike[str]) -> None:
        """Go on from what this guard and others learnt, each from a stream of its own, as one stream.

        For guards that began alike and then watched different cameras, or ran on different machines. What they had seen
        when they parted counts once, see `Detector.merged`. To go on side by side and meet again, save this guard
        afterwards and load it in all places. The monitor goes on with this guard's images.

        Args:
            others: guards, which stay as they are, or folders that they were saved in.

        Raises:
            FileNotFoundError: no guard was saved there.
            ValueError: a damaged file; another backbone, corpus, method or dtype, other labels, templates or settings;
                guards that did not go on from one state. The message names the difference, and nothing changes.
        """
        records = [
            each._record(compact=True) if isinstance(each, Guard) else read_record(each) for each in others
        ]
        with self._lock:
            own = self._record(compact=True)
            for record in records:
                record.refuse_other(own)
                if record.dtype != own.dtype:
                    raise ValueError(
                        f"the guards keep labels as {own.dtype} and as {record.dtype}: give one dtype"
                    )
            self.detector.merge(*(record.compact for record in records))

    def synchronize(self, group: ProcessGroup | None = None) -> None:
        """Let the guards of all processes of a `torch.distributed` group go on from what they learnt together.

        See `Detector.synchronize`, which each process calls as often as the others. Other threads' calls of this guard
        wait meanwhile.

        Raises:
            ValueError, OSError: as `Detector.synchronize`.
        """
        with self._lock:
            self.detector.synchronize(group)

    @property
    def method(self) -> InUse:
        """The method's name, and those of its settings that are not its own."""
        return method_in_use(self.detector, self._method, by_images=bool(self.id_images))

    @property
    def corpus(self) -> Corpus | None:
        """The words that negatives are taken from, with all edits; the ID labels and their synonyms among them."""
        return self._vocabulary.corpus

    @property
    def removal(self) -> str:
        """Which words leave the corpus for the labels."""
        return self._vocabulary.removal

    def add_labels(self, names: Sequence[str]) -> None:
        """Add ID labels, while the stream goes on.

        As for all five edits: the bank becomes the one that `build_bank` would make of the labels and the
        corpus as they are then, but only texts that it lacks are encoded. (A model may round the last bits of a text
        otherwise when others are beside it; a guard saved in full is then refused, a compact one is not.)
        The detector keeps what it remembers of the stream, see `Detector.relabelled`. A calibrated threshold
        stays, though scores with other labels are other scores: calibrate again. ``bank`` and ``detector`` are
        new objects after an edit; after an error they are the ones from before.

        Args:
            names: new ID labels. They and their WordNet synonyms leave the negatives.

        Raises:
            TypeError, ValueError: no names, or an unusable one; a label that is there; no negative would be left; a
                method that cannot follow (a TANL whose ``activation`` is a function, a detector over another
                bank than the guard's).
        """
        self._edit(lambda vocabulary: vocabulary.with_labels(names))

    def remove_labels(self, names: Sequence[str]) -> None:
        """Remove ID labels; the negatives that they kept away come back. See `add_labels`.

        Raises:
            TypeError, ValueError: a label that is not there; fewer labels than the method needs would be left.
        """
        self._edit(lambda vocabulary: vocabulary.without_labels(names))

    def set_labels(self, names: Sequence[str]) -> None:
        """Make these the ID labels, in one edit: those that are not among them go, new ones come at the end.

        See `add_labels`. Labels that stay keep their order.

        Raises:
            TypeError, ValueError: no names, an unusable one, one twice; fewer labels than the method needs; no negative
                would be left.
        """
        self._edit(lambda vocabulary: vocabulary.with_labels_set(names))

    def add_negatives(self, words: Corpus | Iterable[str]) -> None:
        """Add words to the end of the corpus. See `add_labels`.

        Args:
            words: nouns, or a `Corpus` with parts of speech.

        Raises:
            TypeError, ValueError: there is no corpus; an unusable word, or one that is there; one that is an ID
                label or a WordNet synonym of one: the error says of which.
        """
        self._edit(lambda vocabulary: vocabulary.with_negatives(words))

    def add_new_negatives(self, words: Iterable[str], most: int | None = None) -> tuple[str, ...]:
        """Add those nouns that can be negatives and are none yet; the others are passed over. See `add_labels`.

        For words that nobody has looked at, such as a captioner's (`Proposals`). Passed over are words that are in the
        corpus, whatever their case, that leave it for an ID label, and that are no usable text.

        Args:
            words: any number of strings.
            most: how many of them are added at most; None for all.

        Returns:
            The words that were added, in order.

        Raises:
            TypeError, ValueError: there is no corpus, or a method that cannot follow.
        """
        added: list[str] = []

        def change(vocabulary: Vocabulary) -> Vocabulary:
            added[:] = vocabulary.new_negatives(words)[:most]
            return vocabulary.with_negatives(added) if added else vocabulary

        self._edit(change)
        return tuple(added)

    def remove_negatives(self, words: Iterable[str]) -> None:
        """Remove words from the corpus, whatever their case. See `add_labels`.

        Raises:
            TypeError, ValueError: there is no corpus; a word that is not among the negatives; fewer negatives than
                the method needs would be left.
        """
        self._edit(lambda vocabulary: vocabulary.without_negatives(words))

    def reset(self) -> None:
        """Forget the stream, in the monitor too; a calibrated threshold stays."""
        with self._lock:
            self.detector.reset()
            self._monitor.reset()

    def __repr__(self) -> str:
        bank = self.detector.bank
        return (
            f"{type(self).__name__}({self.method}, {bank.num_id} ID labels, "
            f"{bank.num_negatives} negatives, backbone {self.backbone.name!r}"
            f"{f', negatives chosen by {self.id_images} ID images' if self.id_images else ''})"
        )

    @property
    def _hidden(self) -> frozenset[str]:
        return frozenset() if self.show_all else hidden_in(self._vocabulary.corpus)

    def _encoder(self, what: str = "the stream") -> ImageEncoder:
        """What embeds the images of a call; ``what`` they come in, for messages."""
        return ImageEncoder(self.backbone, what=what)

    def _record(self, *, compact: bool) -> GuardRecord:
        name, fingerprint = self.backbone.name, self.backbone.fingerprint
        with self._lock:  # only while the state is copied, so that a stream goes on while it is written
            detector, bank, vocabulary = self.detector, self.bank, self._vocabulary
            used = self.method
            by_name = used.name in METHODS and not self.id_images
            held = held_settings(detector, used.settings)
            return GuardRecord(
                tanl=version("tanl"),
                backbone=name,
                backbone_fingerprint=fingerprint,
                labels=bank.id_names,
                corpus=vocabulary.corpus,
                templates=full_templates(vocabulary.templates),
                removal=vocabulary.removal,
                dtype=bank.dtype,
                names_fingerprint=bank.names_fingerprint,
                method=used.name if by_name else None,
                by_hand=held if by_name else {},
                objects=tuple(name for name in used.settings if by_name and name not in held),
                evidence=self.evidence,
                show_all=self.show_all,
                # A full state fits its labels' very bits alone; the small one beside it fits these labels anywhere.
                compact=detector.state_dict(compact=True),
                full=None if compact else detector.state_dict(),
            )

    def _go_on(self, saved: GuardRecord, exact: bool) -> None:
        """Take a saved stream over, after all in which the two may differ."""
        with self._lock:
            saved.refuse_other(self._record(compact=True))
            self.detector.load_state_dict(saved.state_for(self.detector.bank.fingerprint, exact))
            self._monitor.reset()

    def _detector(
        self, method: Method, id_images: Tensor | None, settings: Mapping[str, Any] | None
    ) -> Detector:
        if not isinstance(method, str):
            if id_images is not None:
                raise ValueError(
                    "id_images choose the negatives of a method by name; let the function take them"
                )
            return method(self.bank)
        outliers = noise_embeddings(self.backbone) if method in FROM_OUTLIERS else None
        return make_detector(method, self.bank, initial_ood=outliers, id_images=id_images, settings=settings)

    def _edit(self, change: Callable[[Vocabulary], Vocabulary]) -> None:
        with self._editing:
            with self._lock:
                earlier, before = self._vocabulary, self._editable_bank()
            # Texts are encoded while the stream goes on: only for the detector it must stand still.
            edited = change(earlier)
            bank = edited.embedded(self.backbone, earlier, before)
            with self._lock:
                self._editable_bank()  # a detector may have been set meanwhile
                before_it, detector = self.detector, self.detector.relabelled(bank)
                # One step: an interrupt comes before all three or after. What goes is held, so that nothing runs
                # in between because it ends.
                self.__dict__.update(_vocabulary=edited, bank=bank, detector=detector)
                del before_it

    def _editable_bank(self) -> LabelBank:
        if self.detector.bank is not self.bank:
            raise ValueError(
                f"{self.detector!r} is not over guard.bank, {self.bank!r}: its labels cannot be edited here"
            )
        return self.bank

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            state = {
                name: value for name, value in self.__dict__.items() if name not in ("_lock", "_editing")
            }
            # Whoever copies or pickles goes through the state when the lock is free again, and a detector changes in
            # place. A bank does not: the copy is over the same one.
            bank = self.detector.bank
            state["detector"] = copy.deepcopy(self.detector, {id(bank): bank})
            state["_monitor"] = copy.deepcopy(self._monitor)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._editing = threading.Lock()
