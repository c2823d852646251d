"""open_clip models by name, the embedded ones among them."""

from __future__ import annotations

from pathlib import Path

import torch

from ..io.text import did_you_mean, first_of, nearest_names
from . import mini, mini_photo
from .clip import ClipBackbone
from .defaults import plain_defaults
from .folding import fold_batch_norms
from .loading import cannot_load, check_device, check_precision, home_spelled_out, quiet

_NAMED = 5  # architectures that a message names
_HUB, _FOLDER = "hf-hub:", "local-dir:"

EMBEDDED = {"mini": mini.PATH, "mini-photo": mini_photo.PATH}
"""The models that ship with tanl, as open_clip folders."""


def load_open_clip(name: str, *, device: torch.device | str = "cpu", precision: str = "fp32") -> ClipBackbone:
    """See `tanl.load_backbone`."""
    import open_clip

    if not isinstance(name, str) or not name:
        raise TypeError(f'a backbone is named by a string such as "mini" or "ViT-B-16/openai", not {name!r}')
    check_precision(precision)
    check_device(device)
    model_name, pretrained = _parts(name)
    try:
        with quiet(), plain_defaults():
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained=pretrained,
                precision=_open_clip_precision(model_name, precision),
                device=device,
                force_custom_text=True,
                force_quick_gelu=_is_quick_gelu(model_name, pretrained),
                # Without it, a folder or a hub that lacks the weights gives a random model and a line in the log.
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(model_name)
    # Whatever goes wrong here comes from a download, a file or a config, in many types from three libraries.
    except Exception as error:
        raise cannot_load(name, error) from error
    # Both make convolutions on a processor about twice as fast, and change embeddings by rounding only.
    fold_batch_norms(model.visual.eval())
    model.to(memory_format=torch.channels_last)
    return _OpenClipBackbone(model, preprocess, tokenizer, name=name)


class _OpenClipBackbone(ClipBackbone):
    """A model that was loaded by its name, which its tokenizer follows from."""

    def _tokenizer_state(self) -> bytes:
        return b""


def _parts(name: str) -> tuple[str, str | None]:
    """open_clip's model name and pretrained tag, both known to it."""
    import open_clip

    if name in EMBEDDED:
        return f"{_FOLDER}{EMBEDDED[name]}", None
    if name.startswith(_FOLDER):
        return f"{_FOLDER}{home_spelled_out(name.removeprefix(_FOLDER))}", None
    if name.startswith(_HUB):
        return name, None
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        # OpenAI's weights come first; where no weights are named, an architecture's first ones stand for it.
        pairs = sorted(open_clip.list_pretrained(), key=lambda pair: pair[1] != "openai")
        if not nearest_names(tag, {each for _, each in pairs}, 1):
            pairs = list({pair[0]: pair for pair in reversed(pairs)}.values())
        named = [*EMBEDDED, *map("/".join, pairs)]
        like = nearest_names(architecture, known, _NAMED, likeness=0)
        raise ValueError(
            f'no backbone {name!r}: there are "mini" and "mini-photo", and open_clip\'s "architecture/pretrained", '
            f"hf-hub:owner/model and local-dir:folder, and transformers' hf:owner/model and hf:folder; "
            f"architectures: {first_of([*like, *sorted({*known} - {*like})], len(like))} (open_clip.list_models())"
            f"{did_you_mean(name, named)}"
        )
    tag = home_spelled_out(tag) if tag else tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not Path(tag).is_file():
        raise ValueError(
            f"{architecture} has no pretrained weights {tag!r}; give {architecture}/TAG with a checkpoint file "
            f"or one of: {', '.join(tags) or '(none published)'}"
            f"{did_you_mean(name, [f'{architecture}/{each}' for each in tags])}"
        )
    return architecture, tag


def _is_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Whether published weights were trained with QuickGELU.

    open_clip takes the activation from the architecture, where ``ViT-B-16`` has another one than OpenAI's
    weights of that name, and only warns.
    """
    import open_clip

    if pretrained is None:
        return False
    return bool((open_clip.get_pretrained_cfg(model_name, pretrained) or {}).get("quick_gelu", False))


def _open_clip_precision(model_name: str, precision: str) -> str:
    """What open_clip calls it. CoCa is cast whole: parameters that would stay in float32 meet others in it."""
    import open_clip

    if precision != "fp32" and "multimodal_cfg" in (open_clip.get_model_config(model_name) or {}):
        return f"pure_{precision}"
    return precision
