"""Lay out Tux Paint's stamps for ``tanl bench``: cut-out photographs of animals as ID, and of other things as OOD.

    python -m tools.stamps --packages FOLDER --out stamps

``FOLDER`` holds Debian's package of them, which is named with the command that fetches it when it is missing. The
stamps are under GPL-2, so none of them ships with tanl: they stay with whoever fetched them. Written are a folder for
each set, with the stamps laid on white paper, ``animals.csv`` with the label of each animal, and ``labels.txt`` with
all of them; what is printed is the command that measures methods on them. Labels are the descriptions that come with
the stamps, without article and remarks. Left out are drawings, toys, mirrored stamps, and folders of mixed things.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image

from tanl.io.arguments import a_path

from .mini.inputs import MissingInputError, Package, find, unpack
from .pictograms import on_white

STAMPS = Package(
    "deb",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "test",
    "GPL-2",
    "Tux Paint's stamps, Copyright 2002-2022 by Bill Kendrick and contributors",
    "https://tuxpaint.org/stamps/",
)

ID_SET = "animals"
OOD_SETS = ("food", "hobbies", "household", "plants", "space", "sports", "vehicles")

_LEFT_OUT = (
    "*/cartoon/*",
    "*/toys/*",
    "*mirror*",
    "animals/mammals/echidna.png",  # a silhouette; the next two are drawn, the last is a toy
    "animals/mammals/hedgehog.png",
    "food/pizza.png",
    "household/rubberduck.png",
)
# Where the description says more, or other, than what the animal is.
_LABELS = {
    "animals/birds/albino_peahen.png": "peahen",
    "animals/birds/hen.png": "hen",
    "animals/birds/rooster.png": "rooster",
    "animals/fish/bluegroper.png": "blue groper",
    "animals/fish/lionfish.png": "lionfish",
    "animals/fish/lobster.png": "spiny lobster",
    "animals/insects/hoverfly.png": "hoverfly",
    "animals/insects/xanthia.png": "moth",
    "animals/mammals/bears/european-bear.png": "brown bear",
    "animals/mammals/bovines/gnu-baby-stand.png": "gnu",
    "animals/mammals/bovines/gnu-baby.png": "gnu",
    "animals/mammals/bovines/gnu-sitting.png": "gnu",
    "animals/mammals/bovines/gnu-stand.png": "gnu",
    "animals/mammals/bovines/indian_blackbuck.png": "blackbuck",
    "animals/mammals/bovines/mountaingoat.png": "mountain goat",
    "animals/mammals/bovines/sheep_lamb.png": "lamb",
    "animals/mammals/pig_golden.png": "pig",
    "animals/mammals/pig_golden2.png": "pig",
    "animals/mammals/rabbit_little.png": "rabbit",
    "animals/mammals/rhino_black.png": "black rhinoceros",
    "animals/mammals/rodents/capybara.png": "capybara",
    "animals/mammals/rodents/rabbit-2.png": "rabbit",
    "animals/mammals/wildboar.png": "wild boar",
}


def label_of(name: str, description: str) -> str:
    """What a stamp shows.

    Args:
        name: its path below the stamps' folder, with forward slashes.
        description: the first line of its text file.
    """
    if name in _LABELS:
        return _LABELS[name]
    plain = re.sub(r"\(.*?\)", "", description).strip().rstrip(".!").strip()
    return re.sub(r"^(?:an?|the)\s+", "", plain, flags=re.IGNORECASE)


def stamps_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """The stamps that are taken: each one's path below the folder, with forward slashes, and its file."""
    for name in (ID_SET, *OOD_SETS):
        for path in sorted((folder / name).rglob("*.png")):
            stamp = path.relative_to(folder).as_posix()
            if not any(fnmatchcase(stamp, pattern) for pattern in _LEFT_OUT):
                yield stamp, path


def lay_out(folder: Path, out: Path) -> Counter[str]:
    """Write the stamps of a folder, ``animals.csv`` and ``labels.txt``; returns how many each set has.

    Raises:
        ValueError: ``out`` holds something already, or an animal has no description.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already; give another folder for the stamps")
    counts: Counter[str] = Counter()
    labels: list[tuple[str, str]] = []
    for stamp, path in stamps_in(folder):
        kind = stamp.split("/")[0]
        file = f"{kind}/{stamp.removeprefix(f'{kind}/').replace('/', '-')}"
        if kind == ID_SET:
            text = path.with_suffix(".txt")
            lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
            if not lines or not label_of(stamp, lines[0]):
                raise ValueError(f"{path} has no description beside it, so nobody knows which animal it is")
            labels.append((file, label_of(stamp, lines[0])))
        (out / kind).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            on_white(image.convert("RGBA")).save(out / file)
        counts[kind] += 1
    with (out / f"{ID_SET}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label"))
        writer.writerows(labels)
    names = sorted({label for _, label in labels})
    (out / "labels.txt").write_text("\n".join([*names, ""]), encoding="utf-8")
    return counts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Lay out Tux Paint's stamps for tanl bench.")
    parser.add_argument("--packages", type=a_path, required=True, help="the folder of the package archive")
    parser.add_argument("--out", type=a_path, default=Path("stamps"), help="where to write (default: stamps)")
    options = parser.parse_args(arguments)
    try:
        archives = find(options.packages, (STAMPS,))
        with tempfile.TemporaryDirectory() as scratch:
            (folder,) = unpack(archives, scratch).values()
            counts = lay_out(folder / "usr/share/tuxpaint/stamps", options.out)
    except (MissingInputError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for name, count in counts.items():
        print(f"{name:10} {count:5}")
    sets = " ".join(str(options.out / name) for name in OOD_SETS)
    print(
        f"\ntanl bench run --id {options.out / ID_SET}.csv --ood {sets} --labels {options.out / 'labels.txt'}"
    )


if __name__ == "__main__":
    main()
