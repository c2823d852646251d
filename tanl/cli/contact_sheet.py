"""A picture of verdicts: images in a grid, each with its verdict, score and reasons. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..io.images import read_image

Colour = tuple[int, int, int]

_PAPER: Colour = (246, 246, 243)
_CARD: Colour = (255, 255, 255)
_INK: Colour = (28, 30, 33)
_FAINT_INK: Colour = (104, 108, 114)
# Told apart by lightness too, for those who cannot by hue.
_ID: Colour = (0, 109, 119)
_OOD: Colour = (201, 92, 20)
_WRONG: Colour = (179, 0, 27)

_MARGIN = 28
_GAP = 14
_CARD_WIDTH = 196
_PICTURE = 132
_BAND = 30
_LINE = 19
_CAPTION_LINES = 4
_CARD_HEIGHT = _BAND + _PICTURE + 24 + (1 + _CAPTION_LINES) * _LINE + 10


@dataclass(frozen=True)
class Tile:
    """One image of the sheet: what is on it, what was said of it, and why, as pairs of a word and its weight."""

    image: Path
    truth: str
    is_ood: bool
    ood_score: float
    why: Sequence[tuple[str, str]]
    is_wrong: bool = False


def contact_sheet(
    tiles: Sequence[Tile], *, title: str, lines: Sequence[str] = (), columns: int = 7
) -> Image.Image:
    """Draw the tiles in rows of ``columns``, left to right, below a title and lines of explanation."""
    rows = -(-len(tiles) // columns)
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    top = _MARGIN + 46 + 24 * len(lines)
    sheet = Image.new("RGB", (width, top + rows * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), title, _INK, _font(28))
    for index, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + 36 + 24 * index), line, _FAINT_INK, _font(16))
    for index, tile in enumerate(tiles):
        left = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        _draw_tile(sheet, draw, tile, left, top + index // columns * (_CARD_HEIGHT + _GAP))
    return sheet


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    colour = _OOD if tile.is_ood else _ID
    right, bottom = left + _CARD_WIDTH - 1, top + _CARD_HEIGHT - 1
    draw.rounded_rectangle((left, top, right, bottom), 8, _CARD)
    draw.rounded_rectangle((left, top, right, top + _BAND), 8, colour, corners=(True, True, False, False))
    draw.text((left + 10, top + _BAND / 2), "OOD" if tile.is_ood else "ID", _CARD, _font(17), anchor="lm")
    draw.text((right - 10, top + _BAND / 2), f"{tile.ood_score:.4f}", _CARD, _font(15), anchor="rm")
    if tile.is_wrong:
        draw.text(((left + right) / 2, top + _BAND / 2), "wrong", _CARD, _font(15), anchor="mm")
        draw.rounded_rectangle((left, top, right, bottom), 8, outline=_WRONG, width=4)

    picture = read_image(tile.image)
    picture.thumbnail((_PICTURE, _PICTURE))
    y = top + _BAND + 12
    sheet.paste(picture, (left + (_CARD_WIDTH - picture.width) // 2, y + (_PICTURE - picture.height) // 2))

    y += _PICTURE + 8
    draw.text((left + 10, y), _fitted(draw, tile.truth, _font(15), _CARD_WIDTH - 20), _INK, _font(15))
    for word, weight in tile.why[:_CAPTION_LINES]:
        y += _LINE
        room = _CARD_WIDTH - 28 - draw.textlength(weight, _font(13))
        draw.text((left + 10, y), _fitted(draw, word, _font(13), room), colour, _font(13))
        draw.text((right - 10, y), weight, colour, _font(13), anchor="ra")


def _fitted(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: float,
) -> str:
    """The text, cut and marked with dots where it is wider than ``width`` pixels."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
