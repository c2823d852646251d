"""Areas: files that are damaged, and files of other kinds than they say."""

from __future__ import annotations

import atexit
import io
import json
import random
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from PIL import Image
from safetensors.torch import save as safetensors_bytes

from tanl.benchmarks.data.imglist import read_imglist
from tanl.detectors.verdict import detect_embeddings
from tanl.guard.guard import Guard
from tanl.io.embeddings import open_embeddings, read_embeddings
from tanl.io.images import read_image
from tanl.labels.corpus import Corpus
from tanl.labels.files import load_bank, save_bank
from tanl.labels.index import LabelIndex
from tanl.streams.result_files import open_results, recover
from tanl.streams.results import Result

from .detectors import MAKERS, bank
from .labels import backbone
from .values import damaged, scalars, unit
from .watch import Watch


@cache
def folder() -> Path:
    """A folder for the files of this run."""
    place = Path(tempfile.mkdtemp(prefix="tanl-fuzz-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def _rows() -> list[dict[str, Any]]:
    return [{"id": f"row {n}", "vector": row.tolist()} for n, row in enumerate(unit(12))]


def _npz(**options: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **options)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _encrypted() -> bytes:
    """An archive whose members say that they are encrypted."""
    content = bytearray(_npz(z=unit(12).numpy()))
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        place = archive.infolist()[0].header_offset
    content[place + 6] |= 1
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    return bytes(content)


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_rows()), file, row_group_size=5)
    return file.getvalue()


@cache
def _embedding_files() -> dict[str, tuple[str, bytes]]:
    csv = "id,vector\n" + "".join(f'{row["id"]},"{json.dumps(row["vector"])}"\n' for row in _rows())
    return {
        "npy": ("npy", _npy(unit(12).numpy())),
        "npy, Fortran": ("npy", _npy(np.asfortranarray(unit(12).numpy()))),
        "npy, objects": ("npy", _npy(np.array([{}, "a", None], dtype=object))),
        "npy, text": ("npy", _npy(np.array([["a", "b"]]))),
        "npz": ("npz", _npz(z=unit(12).numpy())),
        "npz of two": ("npz", _npz(a=unit(12).numpy(), b=unit(3).numpy())),
        "npz, encrypted": ("npz", _encrypted()),
        "safetensors": ("safetensors", safetensors_bytes({"z": unit(12)})),
        "parquet": ("parquet", _parquet()),
        "jsonl": ("jsonl", "".join(json.dumps(row) + "\n" for row in _rows()).encode()),
        "csv": ("csv", csv.encode()),
    }


def embedding_files(data: DataObject, watch: Watch) -> None:
    """Files of embeddings, damaged, or called otherwise than they are."""
    files = _embedding_files()
    name = data.draw(st.sampled_from(list(files)))
    ending, content = files[name]
    content = data.draw(st.one_of(damaged(content), st.just(content), st.binary(max_size=40)))
    if data.draw(st.integers(0, 9)) == 0:
        ending = data.draw(
            st.sampled_from(["npy", "npz", "safetensors", "parquet", "jsonl", "csv", "txt", ""])
        )
    path = folder() / f"embeddings.{ending}"
    path.write_bytes(content)
    column = data.draw(st.sampled_from([None, None, None, "vector", "id", "z", "nothing", ""]))
    normalize = data.draw(st.booleans())
    what = f"{name} as .{ending}, column {column!r}: {len(content)} bytes {content[:300]!r}"
    options = {"column": column, "id_column": data.draw(st.sampled_from([None, None, "id", "vector", "?"]))}
    found = watch.call(
        what, lambda: list(islice(read_embeddings(path, normalize=normalize, batch_size=5, **options), 50))
    )
    if found is not None:
        watch.works(what, lambda: _are_rows(found))


def _are_rows(found: list[Any]) -> None:
    for ids, z in found:
        assert z.ndim == 2
        assert len(ids) == len(z)
        assert all(isinstance(each, str) for each in ids)


def embedding_arguments(data: DataObject, watch: Watch) -> None:
    """What files of embeddings are opened with."""
    path = folder() / "sound.jsonl"
    path.write_bytes(_embedding_files()["jsonl"][1])
    name = data.draw(st.sampled_from(["path", "column", "id_column", "normalize", "batch_size"]))
    drawn = data.draw(scalars())
    given = {"path": path, name: drawn.value}
    watch.call(f"read_embeddings({name}={drawn})", lambda: list(islice(read_embeddings(**given), 50)))
    if name in ("path", "column", "id_column"):
        watch.call(f"open_embeddings({name}={drawn})", lambda: open_embeddings(**given))


@cache
def _kept() -> dict[str, bytes]:
    """One file of each kind that tanl writes."""
    place = folder()
    save_bank(bank(), place / "bank", initial_ood=unit(4))
    LabelIndex.of(bank()).save(place / "index")
    (place / "words").write_text("cat\nblue\tadj\nchair\tnoun\n")
    (place / "list").write_text("a/b.png 3\nc d.png -1\n")
    results = open_results(place / "r.csv", key="id")
    detection = detect_embeddings(MAKERS["TANL"](bank()), unit(6), evidence=2)
    results.write([Result(f"row {n}", verdict) for n, verdict in enumerate(detection)])
    journal = results.journal.read_bytes()
    results.close()
    return {
        **{name: (place / name).read_bytes() for name in ("bank", "index", "words", "list")},
        "journal": journal,
    }


def own_files(data: DataObject, watch: Watch) -> None:
    """Banks, indices, words, image lists and journals, damaged."""
    kept = _kept()
    readers: dict[str, Callable[[Path], Any]] = {
        "bank": load_bank,
        "index": LabelIndex.load,
        "words": Corpus.load,
        "list": read_imglist,
        "journal": lambda path: recover(path, folder() / "recovered.jsonl"),
    }
    name = data.draw(st.sampled_from(list(readers)))
    content = data.draw(st.one_of(damaged(kept[name]), st.binary(max_size=40)))
    path = folder() / "damaged"
    path.write_bytes(content)
    (folder() / "recovered.jsonl").unlink(missing_ok=True)
    found = watch.call(f"{name}: {content[:300]!r}", lambda: readers[name](path))
    if found is not None and name in ("bank", "index") and content != kept[name]:
        watch.works(f"{name}: {content[:300]!r}", _taken)
    drawn = data.draw(scalars())
    watch.call(f"{name} from {drawn}", lambda: readers[name](drawn.value))


def _taken() -> None:
    raise AssertionError("a damaged file was taken for a sound one")


@cache
def _guard_folder() -> Path:
    place = folder() / "saved"
    _guard(place).save(place)
    return place


def _guard(place: Path) -> Guard:
    guard = Guard(
        backbone(),
        ["cat", "dog"],
        corpus=[f"word {n}" for n in range(20)],
        method=MAKERS["TANL"],
        cache_dir=folder() / "cache",
    )
    guard.detect_embeddings(unit(8))
    return guard


def saved_guards(data: DataObject, watch: Watch) -> None:
    """A guard's folder with one of its files damaged."""
    sound = _guard_folder()
    place = folder() / "damaged guard"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    path = data.draw(st.sampled_from(sorted(p for p in place.iterdir() if not p.name.startswith("."))))
    before = path.read_bytes()
    content = data.draw(st.one_of(damaged(before), st.binary(max_size=40)))
    path.write_bytes(content)
    options: dict[str, Any] = {
        "backbone": backbone(),
        "method": MAKERS["TANL"],
        "cache_dir": folder() / "cache",
    }
    what = f"{path.name.split('-')[0]}: {content[:300]!r}"
    found = watch.call(what, lambda: Guard.load(place, **options))
    if found is not None and content != before and json_of(content) != json_of(before):
        watch.works(what, _taken)
    drawn = data.draw(scalars())
    watch.call(f"Guard.load({drawn})", lambda: Guard.load(drawn.value, **options))


def json_of(content: bytes) -> Any:
    """What a file says, however it is laid out; its bytes if it is no JSON."""
    try:
        return json.loads(content)
    except ValueError:
        return content


@cache
def _image_files() -> dict[str, bytes]:
    draw = random.Random(0)
    pixels = Image.frombytes("RGB", (23, 17), draw.randbytes(23 * 17 * 3))
    files = {}
    modes = {
        "png": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
        "tiff": ["RGB", "L", "I;16", "F", "CMYK", "I"],
        "gif": ["P"],
        "jpeg": ["RGB", "L", "CMYK"],
        "webp": ["RGB", "RGBA"],
        "bmp": ["RGB", "P"],
        "ppm": ["RGB", "L"],
        "tga": ["RGBA"],
        "ico": ["RGBA"],
        "jpeg2000": ["RGB"],
    }
    for kind, each in modes.items():
        for mode in each:
            file = io.BytesIO()
            image = Image.new("I;16", (23, 17), 300) if mode == "I;16" else pixels.convert(mode)
            try:
                image.save(file, kind)
            except (OSError, KeyError, ValueError):  # not with this Pillow
                continue
            files[f"{kind} {mode}"] = file.getvalue()
    for kind in ("gif", "png", "webp", "tiff"):
        file = io.BytesIO()
        frames = [Image.new("RGB", (9, 9), (n * 20, 0, 0)) for n in range(4)]
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        files[f"{kind}, animated"] = file.getvalue()
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "png")
    files["png, a bomb"] = bomb.getvalue()
    strip = io.BytesIO()
    Image.new("L", (5000, 1)).save(strip, "png")
    files["png, a strip"] = strip.getvalue()
    return files


def image_files(data: DataObject, watch: Watch) -> None:
    """Pictures, whole, cut and damaged."""
    files = _image_files()
    name = data.draw(st.sampled_from(list(files)))
    content = files[name]
    if len(content) < 10_000:
        content = data.draw(st.one_of(damaged(content), damaged(content), st.just(content)))
    path = folder() / data.draw(st.sampled_from(["picture", "picture.png", "picture.jpg", "picture.tif"]))
    path.write_bytes(content)
    what = f"{name}: {len(content)} bytes {content[:200]!r}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = watch.call(what, lambda: read_image(path))
    if image is not None:
        watch.works(what, lambda: _is_rgb(image))


def _is_rgb(image: Image.Image) -> None:
    assert image.mode == "RGB"
    assert min(image.size) > 0
    torch.tensor(list(image.resize((2, 2)).tobytes()))


def image_arguments(data: DataObject, watch: Watch) -> None:
    """What `read_image` is given."""
    drawn = data.draw(scalars())
    watch.call(f"read_image({drawn})", lambda: read_image(drawn.value))


AREAS = {
    "embedding files": embedding_files,
    "arguments for embedding files": embedding_arguments,
    "files of tanl's own": own_files,
    "saved guards": saved_guards,
    "image files": image_files,
    "arguments for image files": image_arguments,
}
