"""Emoji drawn by many vendors, read from npm packages as typed records.

A *concept* is an emoji's code points in lower-case hexadecimal, joined by ``-``, without the variation selector
``fe0f``. Names, tags and groups come from ``emojibase-data``; skin tones and components are dropped.

    records = read_pictograms(folder_of_unpacked_packages)     # folder/iconify-json-noto-1.2.9/icons.json ...
    image = render(records[0], 160)                            # PIL, RGBA, 160 x 160
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import PACKAGES, MissingInputError, Package

if TYPE_CHECKING:
    from PIL import Image

EMOJIBASE: Package = next(package for package in PACKAGES if package.name == "emojibase-data")
PICTOGRAM_PACKAGES: tuple[Package, ...] = tuple(package for package in PACKAGES if package.vendor)

_SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
_SHORTCODES = ("github", "iamcal", "joypixels", "emojibase", "cldr")
_NAMING_PACKAGES = ("@iconify-json/noto", "@iconify-json/twemoji")


@dataclass(frozen=True)
class Concept:
    """One emoji's meaning, independent of who drew it."""

    hex: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Pictogram:
    """One drawing of a concept: either SVG text or the path of an image file."""

    concept: Concept
    package: Package
    svg: str | None = None
    path: Path | None = None

    @property
    def vendor(self) -> str:
        return self.package.vendor


def is_unseen(concept_hex: str) -> bool:
    """Whether a concept is kept out of all training, whoever drew it (one in ten, by hash)."""
    return int(hashlib.md5(concept_hex.encode(), usedforsecurity=False).hexdigest(), 16) % 10 == 0


def read_concepts(folder: str | Path) -> dict[str, Concept]:
    """Every emoji of ``emojibase-data`` that belongs to a group, keyed by its normalised code points."""
    root = _package_folder(folder, EMOJIBASE)
    meta = _read_json(root / "meta" / "groups.json")
    concepts: dict[str, Concept] = {}
    for entry in _read_json(root / "en" / "data.json"):
        if entry.get("group") is None:
            continue
        code = _normalise(entry["hexcode"])
        group, subgroup = meta["groups"][str(entry["group"])], meta["subgroups"][str(entry["subgroup"])]
        if group == "component":
            continue
        name = entry["label"].replace("flag: ", "flag of ")
        concepts[code] = Concept(code, name, tuple(entry.get("tags", ())), group, subgroup)
    return concepts


def read_pictograms(folder: str | Path, packages: Iterable[Package] = PICTOGRAM_PACKAGES) -> list[Pictogram]:
    """Every drawing in ``packages``, each unpacked at ``folder/<package.slug>``, in a fixed order."""
    concepts = read_concepts(folder)
    names: dict[str, str] | None = None
    records: list[Pictogram] = []
    for package in packages:
        root = _package_folder(folder, package)
        if not (root / "icons.json").is_file():
            records += _read_image_folder(root, package, concepts)
            continue
        characters = _read_json(root / "chars.json")
        if not characters and names is None:
            names = _known_names(folder, concepts)
        records += _read_icon_set(root, package, concepts, characters, names or {})
    return records


def render(pictogram: Pictogram, size: int) -> Image.Image:
    """Draw a pictogram as a square RGBA image of ``size`` pixels."""
    from PIL import Image

    if pictogram.path is not None:
        with Image.open(pictogram.path) as stored:
            picture: Image.Image = stored.convert("RGBA").resize((size, size), Image.Resampling.BICUBIC)
        return picture
    if pictogram.svg is None:
        raise ValueError(f"{pictogram.package.name} {pictogram.concept.hex}: neither SVG nor a file")
    return render_svg(pictogram.svg, size)


def render_svg(svg: str, size: int) -> Image.Image:
    """Draw SVG text ``size`` pixels wide."""
    try:
        import resvg_py  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("drawing pictograms needs resvg-py: pip install resvg-py") from error
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _read_icon_set(
    root: Path,
    package: Package,
    concepts: dict[str, Concept],
    characters: dict[str, str],
    names: dict[str, str],
) -> Iterator[Pictogram]:
    """The drawings of an Iconify JSON set, by its character table, or by name where that table is empty."""
    table = _read_json(root / "icons.json")
    pairs = (
        [(_normalise(code), name) for code, name in characters.items()]
        if characters
        else list(_match_by_name(table["icons"], names))
    )
    used: set[str] = set()
    for code, name in pairs:
        icon_name = _resolve_alias(table, name)
        if code not in concepts or icon_name is None or icon_name in used:
            continue
        used.add(icon_name)
        yield Pictogram(concepts[code], package, svg=_icon_svg(table, icon_name))


def _read_image_folder(root: Path, package: Package, concepts: dict[str, Concept]) -> Iterator[Pictogram]:
    for path in sorted((root / "assets").iterdir()):
        code = _normalise(path.stem)
        if code in concepts:
            yield Pictogram(concepts[code], package, path=path)


def _match_by_name(icons: Iterable[str], names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pair icon names with concepts; ``dog-face-2`` is tried as ``dogface2``, ``dogface``, then ``dog``."""
    for icon in icons:
        if "skin-tone" in icon or "skintone" in icon:
            continue
        spelling = icon.replace("flag-for-flag-", "flag-of-").replace("flag-for-", "flag-of-")
        exact, unnumbered = _squeeze(spelling), _squeeze(re.sub(r"-\d+$", "", spelling))
        for key in (exact, unnumbered, unnumbered.replace("face", "")):
            if key in names:
                yield names[key], icon
                break


def _known_names(folder: str | Path, concepts: dict[str, Concept]) -> dict[str, str]:
    """Squeezed name -> concept, from shortcodes, from two complete icon sets, and from the concepts' own names."""
    codes = _package_folder(folder, EMOJIBASE) / "en" / "shortcodes"
    found: list[tuple[str, str]] = []
    for style in _SHORTCODES:
        path = codes / f"{style}.json"
        for code, values in (_read_json(path) if path.is_file() else {}).items():
            found += [(value, code) for value in ([values] if isinstance(values, str) else values)]
    for package in PICTOGRAM_PACKAGES:
        if package.name in _NAMING_PACKAGES:
            characters = _read_json(_package_folder(folder, package) / "chars.json")
            found += [(name, code) for code, name in characters.items()]
    found += [(concept.name, concept.hex) for concept in concepts.values()]
    return {_squeeze(name): _normalise(code) for name, code in found if _normalise(code) in concepts}


def _resolve_alias(table: dict[str, Any], name: str) -> str | None:
    while name in table.get("aliases", {}):
        name = table["aliases"][name]["parent"]
    return name if name in table["icons"] else None


def _icon_svg(table: dict[str, Any], name: str) -> str:
    """The icon as a square SVG document, centred where it isn't square."""
    icon = table["icons"][name]
    width, height = (icon.get(side, table.get(side, 16)) for side in ("width", "height"))
    side = max(width, height)
    left, top = icon.get("left", 0) - (side - width) / 2, icon.get("top", 0) - (side - height) / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{left} {top} {side} {side}" color="#333">{icon["body"]}</svg>'
    )


def _package_folder(folder: str | Path, package: Package) -> Path:
    path = Path(folder) / package.slug
    if not path.is_dir():
        raise MissingInputError(
            f"no folder {package.slug}: fetch the package with `{package.fetch_command}` and unpack it there"
        )
    return path


def _normalise(code: str) -> str:
    """Lower case, no variation selector; a skin tone stays, so that the result matches no concept."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
