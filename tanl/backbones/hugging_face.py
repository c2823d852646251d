"""Dual encoders of Hugging Face transformers: CLIP, SigLIP, SigLIP 2, ALIGN, Chinese CLIP and their like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .base import ImageSize, image_size
from .checks import check_evaluating, check_parts, check_pixels, check_texts, unit_rows, warn_if_random
from .clip import digest_weights, image_dtype, images_at_once, uncompiled
from .defaults import on_the_processor, plain_defaults
from .loading import (
    OFFLINE,
    PRECISIONS,
    cannot_load,
    check_device,
    check_precision,
    first_line,
    home_spelled_out,
    quiet,
)

PREFIX = "hf:"

_HUB_SECONDS = 10

# What a config tells of its origin rather than of the function that the model computes.
_ORIGIN = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"})


class HuggingFaceBackbone:
    """A dual encoder of transformers with its image processor and tokenizer.

    The model is put in evaluation mode and otherwise left as it is: on its device, in its dtype (pixels are cast to
    it, embeddings come back as float32), under an autocast if the caller has one on. A model that
    `torch.compile` wrapped is taken too; its encoders run uncompiled, as only its ``forward`` is compiled.

    What cosines are multiplied by is ``exp(logit_scale)``, or ``1 / temperature`` for the models that have one
    instead (ALIGN, TIPSv2). SigLIP's bias is left out: it adds the same to every label's logit, so no softmax, and
    no share of labels, depends on it.

    SigLIP's texts are padded to the whole context, as it was trained, all others to the longest of their batch. An
    image processor of variable resolution (SigLIP 2's NaFlex) keeps each image's shape: its pixels are the
    patches ``[N, 3 p^2 + 2]``, of which the last two columns hold the height and width of the grid.

    Args:
        model: a transformers model with ``get_image_features``, ``get_text_features`` and ``logit_scale`` or
            ``temperature``.
        image_processor: its image processor, as ``AutoImageProcessor`` loads it.
        tokenizer: its tokenizer, as ``AutoTokenizer`` loads it.
        name: what to call it in messages and caches.

    Raises:
        TypeError: the model is no torch module, or no such dual encoder; the message names its class.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        image_processor: Callable[..., Any],
        tokenizer: Callable[..., Any],
        *,
        name: str = "wrapped",
    ) -> None:
        check_dual_encoder(model)
        self.name = name
        self.model: Any = model.eval()
        self.image_processor: Any = image_processor
        self.tokenizer: Any = tokenizer
        warn_if_random(self.preprocess, image_processor)

    def __repr__(self) -> str:
        return f"HuggingFaceBackbone({self.name!r}, {type(uncompiled(self.model)).__name__}, {self.device})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, config, preprocessing and tokenizer."""
        model = uncompiled(self.model)
        about = {
            "model": type(model).__name__,
            "config": _without_origin(model.config.to_diff_dict()),
            "image_processor": _without_origin(self.image_processor.to_dict()),
            "tokenizer": _tokenizer_state(self.tokenizer),
            "padding": self._padding,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        digest_weights(digest, model)
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by."""
        if (log_scale := getattr(self.model, "logit_scale", None)) is not None:
            return float(log_scale.detach().float().exp())
        return 1 / float(self.model.temperature.detach().float())

    @cached_property
    def image_size(self) -> ImageSize:
        """The size of the pixels in; with NaFlex the side of the largest square that it takes."""
        if self._is_naflex:
            return int(self._naflex_side * self.image_processor.patch_size)
        return image_size(self.preprocess(Image.new("RGB", (64, 64))).shape)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter: Tensor = next(self.model.parameters())
        return parameter.device

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``, or patches ``[N, 3 p^2 + 2]``, float32."""
        # The processor keeps mean and deviation from its first call on, as tensors that it makes by torch's defaults.
        with plain_defaults():
            features = self.image_processor(images=image, return_tensors="pt")
        pixels: Tensor = features["pixel_values"][0]
        if self._is_naflex:
            grid = features["spatial_shapes"][0].to(pixels.dtype)
            pixels = torch.cat([pixels, grid.expand(len(pixels), 2)], dim=1)
        return pixels.float()

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to unit embeddings ``[B, D]``, float32; any B, in batches that suit the device.

        With NaFlex, patches ``[B, N, 3 p^2 + 2]`` as `preprocess` gives them, or pixels of `image_size`.

        Raises:
            TypeError: pixels are no floating tensor, or the model gives no vector an image.
            ValueError: wrong shape or device, no image, or a model in training mode.
        """
        check_pixels(pixels, self.image_size, self.device, self.name, patches=self._patches)
        check_evaluating(self.model, self.name)
        dtype = image_dtype(self.model) or pixels.dtype
        rows = []
        for part in torch.split(pixels, images_at_once(self.device)):
            inputs = self._naflex_inputs(part) if self._is_naflex else {"pixel_values": part}
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            rows.append(self._rows(self.model.get_image_features(**inputs), len(part), "image"))
        return torch.cat(rows)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """n texts to unit embeddings ``[n, D]``, float32, on the model's device.

        A text longer than the model's context is cut.

        Raises:
            TypeError: one string in place of a list, something that is no string, or a model that gives no vector
                a text.
            ValueError: no text, or a model in training mode.
        """
        check_texts(texts)
        check_evaluating(self.model, self.name)
        # Texts of alike lengths are batched, so that little is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Tensor] = []
        for start in range(0, len(order), batch_size):
            chosen = [texts[i] for i in order[start : start + batch_size]]
            with on_the_processor():
                tokens = self.tokenizer(chosen, return_tensors="pt", truncation=True, **self._padding)
            features = self.model.get_text_features(**tokens.to(self.device))
            rows.append(self._rows(features, len(chosen), "text"))
        embeddings = torch.cat(rows)
        return torch.empty_like(embeddings).index_copy_(
            0, torch.tensor(order, dtype=torch.int64, device=embeddings.device), embeddings
        )

    @property
    def _is_naflex(self) -> bool:
        return hasattr(self.image_processor, "max_num_patches")

    @property
    def _naflex_side(self) -> int:
        """Patches along a side of the largest square."""
        return int(self.image_processor.max_num_patches**0.5)

    @property
    def _patches(self) -> tuple[int, int] | None:
        """The shape of an image's patches, as a NaFlex processor gives them."""
        if not self._is_naflex:
            return None
        return self.image_processor.max_num_patches, 3 * self.image_processor.patch_size**2 + 2

    @cached_property
    def _padding(self) -> dict[str, Any]:
        config = self.model.config
        text = getattr(config, "text_config", config)
        # A tokenizer that knows of no limit gives an astronomical one.
        length = min(self.tokenizer.model_max_length, getattr(text, "max_position_embeddings", 512))
        return {"max_length": length, "padding": "max_length" if "siglip" in config.model_type else "longest"}

    def _naflex_inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """What a NaFlex model takes, from patches with their grid or from square pixels."""
        if pixels.ndim == 4:
            size = self.image_processor.patch_size
            side = self._naflex_side
            # A patch is a row: its rows, columns and channels, as the image processor has them.
            grid = pixels.reshape(-1, 3, side, size, side, size).permute(0, 2, 4, 3, 5, 1)
            patches, shapes = (
                grid.reshape(len(pixels), side * side, -1),
                pixels.new_full((len(pixels), 2), side),
            )
        else:
            patches, shapes = pixels[:, :, :-2], pixels[:, 0, -2:]
        shapes = shapes.long()
        number = torch.arange(patches.shape[1], dtype=torch.int64, device=pixels.device)
        mask = (number < shapes.prod(dim=1, keepdim=True)).int()
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def _rows(self, output: Any, count: int, what: str) -> Tensor:
        """The embeddings in what a ``get_..._features`` gives: a tensor, or since transformers 5 a record."""
        pooled = output[1] if isinstance(output, tuple) else getattr(output, "pooler_output", None)
        features = output if pooled is None else pooled
        asked = f"get_{what}_features of {type(uncompiled(self.model)).__name__}"
        # A model that is spread over devices gives them where its last layer is.
        return unit_rows(features, count, asked).to(self.device)


def load_hugging_face(
    name: str, *, device: torch.device | str = "cpu", precision: str = "fp32"
) -> HuggingFaceBackbone:
    """Load a model of transformers: from a folder, the local cache, or else the hub.

    Args:
        name: ``"hf:owner/model"`` or ``"hf:folder"``.
        device: where to put it.
        precision: "fp32", "fp16" or "bf16", for all weights, whatever they are stored as.

    Raises:
        ImportError: transformers is not installed.
        TypeError: the model is no dual encoder.
        ValueError: nothing follows ``hf:``; an unknown precision.
        BackboneError: the model cannot be fetched or read, or its files lack weights.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f'backbone {name!r} needs transformers: pip install "tanl[hf]" ({OFFLINE})'
        ) from error
    check_precision(precision)
    check_device(device)
    source = name.removeprefix(PREFIX)
    if not source:
        raise ValueError(f'nothing follows "hf:" in {name!r}: give hf:owner/model or hf:folder')
    source = home_spelled_out(source)

    def load(local_files_only: bool) -> tuple[Any, Any, Any]:
        options = {"local_files_only": local_files_only, "trust_remote_code": False}
        model, found = transformers.AutoModel.from_pretrained(source, output_loading_info=True, **options)
        check_dual_encoder(model)
        if missing := sorted(found["missing_keys"]):
            raise OSError(f"its files lack {len(missing)} weights, {missing[0]} among them")
        processor = transformers.AutoImageProcessor.from_pretrained(source, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        # Where its files are missing, transformers 5 makes a tokenizer without a vocabulary.
        first, second = tokenizer(["cat", "dog"])["input_ids"]
        if first == second:
            raise OSError("its tokenizer has no vocabulary; are the tokenizer's files there?")
        return model, processor, tokenizer

    try:
        with quiet(), plain_defaults():
            try:
                with _no_progress_bars():
                    model, processor, tokenizer = load(True)
            # Not all of it is in the cache; what else may be wrong comes up again.
            except OSError:
                if Path(source).is_dir():
                    raise
                _check_hub(source)
                model, processor, tokenizer = load(False)
        model.to(device=device, dtype=PRECISIONS[precision])
    except TypeError:
        raise
    # Whatever else goes wrong comes from a download, a file or a config, in many types from three libraries.
    except Exception as error:
        raise cannot_load(name, error) from error
    return HuggingFaceBackbone(model, processor, tokenizer, name=name)


def check_dual_encoder(model: object) -> None:
    """Refuse what has not the encoders and the scale, with a TypeError that names its class."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    scale = "temperature" if hasattr(model, "temperature") else "logit_scale"
    what = "a dual encoder of transformers such as CLIPModel or SiglipModel has"
    check_parts(model, ("get_image_features", "get_text_features"), what)
    check_parts(model, (scale,), what)


def _check_hub(source: str) -> None:
    """Ask the hub once: where it cannot be reached, each file would be tried for many seconds."""
    hub: Any = import_module("huggingface_hub")
    url = hub.hf_hub_url(source, "config.json")
    try:
        hub.get_hf_file_metadata(url, timeout=_HUB_SECONDS)
    except hub.utils.HfHubHTTPError:
        pass  # It was reached; what it refuses is told by what loads the files.
    except Exception as error:
        raise OSError(
            f"the local cache has not all of it, and the hub cannot be reached: {first_line(error)}"
        ) from error


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_origin(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _ORIGIN
    }


def _tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    state = {"class": type(tokenizer).__name__, "special": tokenizer.special_tokens_map}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        state["backend"] = json.loads(backend.to_str())
        # The settings of its last call, which come with every call.
        del state["backend"]["padding"], state["backend"]["truncation"]
    else:
        state["vocabulary"] = tokenizer.get_vocab()
    return state


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hold back transformers' bar over the reading of weights; downloads keep theirs."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
