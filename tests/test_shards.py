"""Images in units: folders, Parquet files, tar shards, data sets; all of them once, in order, whatever is broken."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from colour_backbone import paint
from PIL import Image

from tanl.io.shards import open_shards
from tanl.io.shards.items import Broken, Remote
from tanl.streams.batches import Ready

pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "tanl[parquet]"')
import pyarrow as pa  # noqa: E402


def png(shade):
    content = io.BytesIO()
    Image.new("RGB", (5, 7), (shade, 10, 200)).save(content, "PNG")
    return content.getvalue()


PNGS = [png(shade) for shade in range(11)]


def names_of(shards, start=0):
    """Through pickle, as workers get them."""
    units = [pickle.loads(pickle.dumps(unit)) for unit in shards.units]
    return [item.name for unit in units for item in unit.items(start)]


def contents_of(shards):
    return [item.content for unit in shards.units for item in unit.items()]


def write_parquet(path, column="image", rows=PNGS, row_group_size=4, **more):
    table = pa.table({column: pa.array(rows, pa.binary()), **more})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_tar(path, count=5, start=0):
    with tarfile.open(path, "w") as file:
        for number in range(start, start + count):
            for ending, content in ((".png", PNGS[number % 11]), (".json", b"{}")):
                member = tarfile.TarInfo(f"{number:04d}{ending}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


# --- files ----------------------------------------------------------------------------------------------------


def test_a_folder_in_units_in_the_order_of_one_process(tmp_path):
    for i in range(11):
        paint(tmp_path / f"{i % 3}" / f"{i:02d}.png", "red")
    (tmp_path / "notes.txt").write_text("no image")
    shards = open_shards(tmp_path, unit_rows=4)
    assert [unit.rows for unit in shards.units] == [4, 4, 3]
    assert names_of(shards) == sorted(map(str, tmp_path.rglob("*.png")))
    assert shards.count == 11
    assert shards.notes == (f"{tmp_path}: passed over 1 .txt file",)
    assert [item.name for item in shards.units[1].items(3)] == names_of(shards)[7:8]


def test_relative_names_are_kept_and_found_from_elsewhere(tmp_path, monkeypatch):
    paint(tmp_path / "in" / "a.png", "red")
    monkeypatch.chdir(tmp_path)
    (item,) = open_shards("in").units[0].items()
    assert item.name == str(Path("in", "a.png"))
    assert item.content == str(tmp_path / "in" / "a.png")


def test_an_order_is_the_seeds_and_tells_itself(tmp_path):
    for i in range(11):
        paint(tmp_path / f"{i:02d}.png", "red")
    first, same, other = (open_shards(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert names_of(first) == names_of(same) != names_of(other)
    assert sorted(names_of(first)) == sorted(names_of(other))
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert open_shards(tmp_path, seed=1, unit_rows=3).fingerprint != first.fingerprint


def test_files_behind_an_address_are_listed_and_left_where_they_are(tmp_path):
    for i in range(3):
        paint(tmp_path / "in" / f"{i}.png", "red")
    shards = open_shards(f"file://{tmp_path}/in")
    assert names_of(shards) == [f"file://{tmp_path}/in/{i}.png" for i in range(3)]
    assert contents_of(shards) == [Remote(name) for name in names_of(shards)]


def test_memory_file_system_of_fsspec():
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe_file("/shots/a.png", PNGS[0])
    system.pipe_file("/shots/b.parquet", b"")
    try:
        assert names_of(open_shards("memory://shots")) == ["memory:///shots/a.png"]
        with system.open("/tables/x.parquet", "wb") as file:
            write_parquet(file)
        shards = open_shards("memory://tables")
        assert shards.kind == "parquet" and contents_of(shards) == PNGS
    finally:
        system.store.clear()


@pytest.mark.parametrize(
    ("inputs", "more", "error", "told"),
    [
        ([], {}, ValueError, "nothing is given"),
        ("nowhere", {}, FileNotFoundError, "no file or directory nowhere"),
        (
            "nowhere",
            {"kind": "tar"},
            ValueError,
            "kind must be one of images, parquet, webdataset, huggingface",
        ),
        ("nowhere.parquet", {}, FileNotFoundError, "nowhere.parquet"),
        ("memory://nowhere", {}, ValueError, "there are no images at memory://nowhere"),
        ("memory://nowhere/*.tar", {}, FileNotFoundError, "there is nothing at memory://nowhere/"),
        ("nosuch://nowhere", {}, ValueError, "nosuch://nowhere cannot be read"),
    ],
)
def test_what_is_not_there_is_told(inputs, more, error, told):
    with pytest.raises(error, match=told.replace("*", r"\*")):
        open_shards(inputs, **more)


def test_several_kinds_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    paint(tmp_path / "b.png", "red")
    with pytest.raises(ValueError, match="images and parquet; judge each kind in a run of its own"):
        open_shards([tmp_path / "a.parquet", tmp_path / "b.png"])


# --- Parquet --------------------------------------------------------------------------------------------------


def test_parquet_by_row_groups(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    shards = open_shards(tmp_path, unit_rows=5)
    assert shards.kind == "parquet"
    assert [unit.rows for unit in shards.units] == [8, 3]
    assert contents_of(shards) == PNGS
    assert names_of(shards) == [f"{file}:{i}" for i in range(11)]
    assert [item.name for item in shards.units[1].items(1)] == [f"{file}:9", f"{file}:10"]


def test_parquet_of_structs_and_paths_with_ids(tmp_path):
    rows = [
        {"bytes": PNGS[0], "path": "x"},
        {"bytes": None, "path": "/a/b.png"},
        None,
        {"bytes": b"", "path": ""},
    ]
    table = pa.table({"picture": rows, "name": ["a", "b", None, "d"]})
    pq.write_table(table, tmp_path / "a.parquet")
    shards = open_shards(tmp_path / "a.parquet", id_column="name")
    assert names_of(shards) == ["a", "b", f"{tmp_path}/a.parquet:2", "d"]
    empty = Broken("its cell is empty")
    assert contents_of(shards) == [PNGS[0], "/a/b.png", empty, empty]


def test_columns_that_are_not_there_are_told(tmp_path):
    write_parquet(tmp_path / "a.parquet", "left", right=pa.array(PNGS, pa.binary()), note=["x"] * 11)
    with pytest.raises(ValueError, match=r"several columns may hold images \(left, right\); name it"):
        open_shards(tmp_path)
    with pytest.raises(ValueError, match="no column 'middle'; it has left, right, note"):
        open_shards(tmp_path, column="middle")
    with pytest.raises(ValueError, match="no column 'id'"):
        open_shards(tmp_path, column="left", id_column="id")
    assert contents_of(open_shards(tmp_path, column="right")) == PNGS


def test_a_parquet_file_without_its_end_is_one_row_that_names_it(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    shards = open_shards(tmp_path)
    assert shards.count is None
    broken, *rest = contents_of(shards)
    assert broken.reason.startswith(f"the Parquet file {file} cannot be read here: ")
    assert rest == PNGS


def test_a_parquet_file_that_breaks_in_its_middle_has_a_row_for_each_image(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    shards = open_shards(tmp_path, unit_rows=4)
    content = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    found = contents_of(shards)
    assert len(found) == 11
    assert [isinstance(each, Broken) for each in found] == [False] * 4 + [True] * 4 + [False] * 3
    assert names_of(shards) == [f"{file}:{i}" for i in range(11)]


# --- tar shards -----------------------------------------------------------------------------------------------


@pytest.fixture
def tars(tmp_path):
    pytest.importorskip("webdataset", reason='needs webdataset: pip install "tanl[ray]"')
    write_tar(tmp_path / "000.tar")
    write_tar(tmp_path / "001.tar", 3, 5)
    return tmp_path


def test_tar_shards_in_their_order(tars):
    shards = open_shards(tars)
    assert (shards.kind, shards.count) == ("webdataset", None)
    members = [("000", i) for i in range(5)] + [("001", i) for i in range(5, 8)]
    assert names_of(shards) == [f"{tars}/{shard}.tar/{i:04d}.png" for shard, i in members]
    assert contents_of(shards) == PNGS[:8]
    assert [item.content for item in shards.units[0].items(3)] == PNGS[3:5]
    assert names_of(open_shards(f"{tars}/{{000..001}}.tar")) == names_of(shards)
    assert names_of(open_shards(f"file://{tars}/*.tar")) == [f"file://{name}" for name in names_of(shards)]


@pytest.mark.parametrize(
    ("cut", "images", "told"),
    [
        (lambda content: content[:2600], 1, "beyond its image 1"),
        (lambda content: content[:2048], 1, "it has no end; it was cut"),
        (lambda content: b"", 0, "cannot be read beyond its image 0"),
        (lambda content: b"nonsense" * 100, 0, "cannot be read beyond its image 0"),
        (lambda content: bytes(10240), 0, "it holds no image"),
    ],
)
def test_a_broken_shard_has_a_row_that_names_it(tars, cut, images, told):
    file = tars / "000.tar"
    file.write_bytes(cut(file.read_bytes()))
    found = contents_of(open_shards(tars))
    assert found[:images] == PNGS[:images]
    assert str(file) in found[images].reason and told in found[images].reason
    assert found[images + 1 :] == PNGS[5:8]
    # What is done by then, the broken end included, is not told again.
    assert [*open_shards(tars).units[0].items(images + 1)] == []


# --- data sets ------------------------------------------------------------------------------------------------


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason='needs datasets: pip install "tanl[ray]"')


def test_a_data_set_on_disk_in_units(datasets):
    data = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": None} for content in PNGS],
            "key": [f"k{i}" for i in range(11)],
        },
        features=datasets.Features({"image": datasets.Image(), "key": datasets.Value("string")}),
    )
    shards = open_shards(data, unit_rows=4)
    assert (shards.kind, shards.count) == ("huggingface", 11)
    assert contents_of(shards) == PNGS
    assert names_of(shards) == [f"data set:{i}" for i in range(11)]
    assert names_of(open_shards(data, unit_rows=4, id_column="key")) == [f"k{i}" for i in range(11)]
    assert [item.content for item in shards.units[1].items(3)] == PNGS[7:8]
    with pytest.raises(ValueError, match="no column 'photo'; it has image, key"):
        open_shards(data, column="photo")


def test_a_data_set_that_streams_in_its_shards(datasets, tmp_path):
    for part in range(3):
        write_parquet(tmp_path / f"{part}.parquet", rows=PNGS[part * 4 : part * 4 + 4])
    data = datasets.load_dataset(
        "parquet",
        data_files=[f"{tmp_path}/{part}.parquet" for part in range(3)],
        split="train",
        streaming=True,
    )
    shards = open_shards(data)
    assert (len(shards.units), shards.count) == (3, None)
    assert contents_of(shards) == PNGS
    assert names_of(shards) == [f"data set:{i // 4}:{i % 4}" for i in range(11)]
    assert [item.content for item in shards.units[2].items(2)] == PNGS[10:]
    named = open_shards(str(tmp_path), kind="huggingface")
    assert contents_of(named) == PNGS
    with pytest.raises(ValueError, match="cannot be opened"):
        open_shards(str(tmp_path / "nowhere"), kind="huggingface")


def test_a_data_set_that_breaks_is_told(datasets, tmp_path):
    for part in range(2):
        write_parquet(tmp_path / f"{part}.parquet", rows=PNGS[part * 4 : part * 4 + 4])
    data = datasets.load_dataset(
        "parquet",
        data_files=[f"{tmp_path}/{part}.parquet" for part in range(2)],
        split="train",
        streaming=True,
    )
    shards = open_shards(data)
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    broken, *rest = contents_of(shards)
    assert "the data set cannot be read here" in broken.reason
    assert rest == PNGS[4:8]


def test_items_are_prepared_as_files_are(tmp_path):
    pytest.importorskip("ray", reason='needs ray: pip install "tanl[ray]"')
    from colour_backbone import ColourBackbone

    from tanl.integrations.ray.embedding import UnitEmbedder, Work
    from tanl.io.shards.items import Item

    path = paint(tmp_path / "a.png", "red")
    embedder = UnitEmbedder(Work(lambda device: ColourBackbone(), "colours", 4, 1, False))
    contents = [str(path), path.read_bytes(), Image.open(path), Remote(f"file://{path}")]
    ready = [embedder.prepared(0, Item("a", content)) for content in contents]
    assert all(isinstance(each, Ready) and each.name == "a" for each in ready)
    assert all(each.content.equal(ready[0].content) for each in ready)
    wrong = [b"", b"no image", Remote("file:///nowhere.png"), "nowhere.png", Broken("lost")]
    assert [embedder.prepared(0, Item("b", content)).reason for content in wrong] == [
        "it is empty",
        "it is not an image, or in a format that this Pillow does not know",
        "no such file or directory",
        "there is no such file",
        "lost",
    ]
    with pytest.raises(ValueError, match="the workers' model colours has other weights"):
        UnitEmbedder(Work(lambda device: ColourBackbone(), "another", 4, 1, False))
