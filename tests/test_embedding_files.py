"""Files of embeddings: every kind gives the same rows, a batch at a time; what cannot be used says why."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import tanl
from conftest import unit
from tanl.io.embeddings import open_embeddings

D = 12
ROWS = unit(23, D, seed=3)
UUIDS = [f"id-{row}" for row in range(23)]


def parquet(path, vectors, kind=None, **columns):
    kind = pa.list_(pa.float32()) if kind is None else kind
    table = pa.table({**columns, "vector": pa.array(vectors, kind)})
    pq.write_table(table, path, row_group_size=10)


def write(path, z=ROWS, ids=UUIDS):
    """The rows in the kind of file that the ending names."""
    kind = path.suffix
    if kind == ".npy":
        np.save(path, z.numpy())
    elif kind == ".npz":
        np.savez_compressed(path, z=z.numpy(), labels=np.arange(len(z)))
    elif kind == ".safetensors":
        save_file({"z": z.contiguous(), "counts": torch.ones(3)}, path)
    elif kind == ".parquet":
        parquet(path, z.tolist(), id=ids)
    elif kind in (".jsonl", ".ndjson"):
        lines = [json.dumps({"id": i, "vector": v, "n": 3}) for i, v in zip(ids, z.tolist(), strict=True)]
        path.write_text("\n\n".join(lines))
    else:
        lines = [f'{i},"{json.dumps(v)}",[no list' for i, v in zip(ids, z.tolist(), strict=True)]
        path.write_text("\n".join(["id,embedding,note", *lines]))
    return path


ENDINGS = ["npy", "npz", "safetensors", "parquet", "jsonl", "ndjson", "csv"]


@pytest.mark.parametrize("batch_size", [1, 7, 23, 1000])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_gives_the_rows_in_batches(tmp_path, ending, batch_size):
    path = write(tmp_path / f"z.{ending}")
    batches = list(tanl.read_embeddings(path, batch_size=batch_size))
    assert max(len(z) for _, z in batches) <= batch_size
    assert torch.equal(torch.cat([z for _, z in batches]), ROWS)
    named = ending in ("parquet", "jsonl", "ndjson", "csv")
    assert [i for ids, _ in batches for i in ids] == (UUIDS if named else [str(row) for row in range(23)])
    file = open_embeddings(path)
    assert (file.dim, file.rows, file.has_ids) == (
        D,
        None if ending in ("jsonl", "ndjson", "csv") else 23,
        named,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_keep_their_dtype_and_tolerance(tmp_path, dtype):
    z = ROWS.to(dtype)
    save_file({"z": z}, tmp_path / "z.safetensors")
    ((_, found),) = tanl.read_embeddings(tmp_path / "z.safetensors")
    assert found.dtype == dtype
    assert torch.equal(found, z)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_npy_of_other_floats(tmp_path, dtype):
    np.save(tmp_path / "z.npy", ROWS.numpy().astype(dtype))
    ((_, z),) = tanl.read_embeddings(tmp_path / "z.npy")
    torch.testing.assert_close(z.float(), ROWS, atol=1e-3, rtol=0)


PARQUET_KINDS = {
    "lists": pa.list_(pa.float32()),
    "large lists": pa.large_list(pa.float32()),
    "fixed lists": pa.list_(pa.float32(), D),
    "doubles": pa.list_(pa.float64()),
    "half floats": pa.list_(pa.float16(), D),
}


@pytest.mark.parametrize("kind", PARQUET_KINDS)
def test_parquet_with_gaps_keeps_every_row_in_its_place(tmp_path, kind):
    vectors = [[np.float16(x) for x in row] if kind == "half floats" else row for row in ROWS.tolist()]
    vectors[0] = vectors[12] = None
    parquet(tmp_path / "z.parquet", vectors, PARQUET_KINDS[kind])
    file = open_embeddings(tmp_path / "z.parquet")
    assert (file.dim, file.rows) == (D, 23)
    batches = list(file.batches(5))
    assert {(b, r): e for b, batch in enumerate(batches) for r, e in batch.errors.items()} == {
        (0, 0): "there is no embedding",
        (2, 2): "there is no embedding",
    }
    z = torch.cat([batch.z for batch in batches]).float()
    gaps = torch.tensor([row in (0, 12) for row in range(23)])
    assert bool(z[gaps].isnan().all())
    torch.testing.assert_close(z[~gaps], ROWS[~gaps], atol=1e-3, rtol=0)


def test_parquet_of_tensors(tmp_path):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS.numpy())
    pq.write_table(pa.table({"z": column}), tmp_path / "z.parquet")
    ((_, z),) = tanl.read_embeddings(tmp_path / "z.parquet")
    assert torch.equal(z, ROWS)


def test_rows_that_cannot_be_used_have_a_reason(tmp_path):
    good = ROWS[0].tolist()
    bad = [
        [float("nan"), *good[1:]],
        [1e999, *good[1:]],
        [0.0] * D,
        None,
        good[:5],
        "text",
        [*good[1:], "x"],
        {"a": good},
        [],
    ]
    lines = [json.dumps({"id": n, "vector": v}) for n, v in enumerate([good, *bad, good])]
    (tmp_path / "z.jsonl").write_text("\n".join(lines))
    (batch,) = open_embeddings(tmp_path / "z.jsonl").batches(100)
    no_list = "the embedding is not a list of numbers"
    assert batch.errors == {
        1: "the embedding has NaN or infinite values",
        2: "the embedding has NaN or infinite values",
        3: "the embedding is all zeros",
        4: "there is no embedding",
        5: f"the embedding has D = 5, not {D}",
        6: no_list,
        7: no_list,
        8: no_list,
        9: no_list,
    }
    assert batch.z.isnan().all(dim=1).tolist() == [False, *[True] * 9, False]
    ((_, z),) = tanl.read_embeddings(tmp_path / "z.jsonl", normalize=True)
    assert z.isnan().all(dim=1).tolist() == [False, *[True] * 9, False]


def test_rows_that_are_not_unit_are_refused_or_normalised(tmp_path):
    z = ROWS.clone()
    z[8] *= 4
    np.save(tmp_path / "z.npy", z.numpy())
    with pytest.raises(
        ValueError, match=r"z\.npy: row 8 has norm 4, not 1; add --normalize .*normalize=True"
    ):
        list(tanl.read_embeddings(tmp_path / "z.npy", batch_size=5))
    found = torch.cat([z for _, z in tanl.read_embeddings(tmp_path / "z.npy", batch_size=5, normalize=True)])
    torch.testing.assert_close(found, ROWS, atol=1e-6, rtol=0)
    parquet(tmp_path / "z.parquet", z.tolist(), key=UUIDS)
    with pytest.raises(ValueError, match=r"row 8 \(id id-8\) has norm 4"):
        list(tanl.read_embeddings(tmp_path / "z.parquet", id_column="key"))


def test_normalising_neither_overflows_nor_underflows(tmp_path):
    z = torch.stack([1e30 * ROWS[0], 1e-30 * ROWS[1]])
    np.save(tmp_path / "z.npy", z.numpy())
    ((_, found),) = tanl.read_embeddings(tmp_path / "z.npy", normalize=True)
    torch.testing.assert_close(found, ROWS[:2], atol=1e-6, rtol=0)


# What databases write: the shape of their records, with the default column or the one that has to be named.
DATABASES = {
    "Pinecone": ({"id": "a", "values": [], "metadata": {"genre": "x", "tags": ["b"]}}, "values", None, "a"),
    "Qdrant": ({"id": 17, "vector": [], "payload": {"city": "x"}}, "vector", None, "17"),
    "Qdrant, named vectors": (
        {"id": 17, "vector": {"image": [], "text": [0.5] * 4}, "payload": {}},
        "vector.image",
        "vector.image",
        "17",
    ),
    "Weaviate": ({"uuid": "u", "vectors": {"default": []}, "properties": {}}, "vectors.default", None, "0"),
    "Milvus": ({"pk": 5, "embedding": [], "year": 1999}, "embedding", None, "0"),
}


@pytest.mark.parametrize("database", DATABASES)
def test_records_of_vector_databases(tmp_path, database):
    record, place, column, named = DATABASES[database]
    record = json.loads(json.dumps(record))
    inner = record
    *outer, last = place.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = ROWS[0].tolist()
    (tmp_path / "z.jsonl").write_text(json.dumps(record) + "\n")
    ((ids, z),) = tanl.read_embeddings(tmp_path / "z.jsonl", column=column)
    assert ids == [named]
    assert torch.equal(z, ROWS[:1])


def test_ids_of_every_type_become_text(tmp_path):
    for ids, texts in (
        ([3, 1], ["3", "1"]),
        ([b"\x01\xff", b"\x02"], ["01ff", "02"]),
        ([None, "x"], ["", "x"]),
    ):
        parquet(tmp_path / "z.parquet", ROWS[:2].tolist(), id=ids)
        ((found, _),) = tanl.read_embeddings(tmp_path / "z.parquet")
        assert found == texts


def test_a_file_is_not_read_before_its_rows_are_wanted(tmp_path):
    lines = write(tmp_path / "z.jsonl").read_text() + "\nno json"
    (tmp_path / "z.jsonl").write_text(lines)
    batches = tanl.read_embeddings(tmp_path / "z.jsonl", batch_size=10)
    assert len(next(batches)[1]) == len(next(batches)[1]) == 10
    with pytest.raises(ValueError, match=r"z\.jsonl, line 46: not JSON"):
        next(batches)


def save_npz(path, **arrays):
    np.savez(path, **arrays)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


MISTAKES = {
    "another kind": ("z.pt", lambda p: p.touch(), {}, r"read from \.npy.*'.*z\.pt' ends in none"),
    "a folder": ("z.npy", lambda p: p.mkdir(), {}, "is a folder; name the files"),
    "not an array": ("z.npy", lambda p: p.write_text("no"), {}, r"z\.npy is not a NumPy array, or damaged"),
    "cut short": ("z.npy", lambda p: cut(write(p)), {}, "is cut short: 23 rows are named, and 22 are there"),
    "one dimension": (
        "z.npy",
        lambda p: np.save(p, ROWS[0].numpy()),
        {},
        r"not \[12\]; one embedding is z\[None\]",
    ),
    "integers": (
        "z.npy",
        lambda p: np.save(p, np.ones((2, 3), int)),
        {},
        "floating dtype up to float64, not int",
    ),
    "objects": ("z.npy", lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), {}, "floating dtype"),
    "columns first": ("z.npy", lambda p: np.save(p, np.asfortranarray(ROWS)), {}, r"np\.ascontiguousarray"),
    "no rows": ("z.npy", lambda p: np.save(p, np.ones((0, 4))), {}, "has no rows"),
    "no numbers": ("z.npy", lambda p: np.save(p, np.ones((4, 0))), {}, "D = 0"),
    "a column of an array": ("z.npy", write, {"column": "z"}, "leave --column out"),
    "ids of an array": ("z.npy", write, {"id_column": "id"}, "leave --id-column out"),
    "no archive": ("z.npz", lambda p: p.write_text("no"), {}, "is not an .npz file"),
    "archive cut short": ("z.npz", lambda p: cut(write(p)), {}, "is not an .npz file"),
    "several arrays": (
        "z.npz",
        lambda p: save_npz(p, a=ROWS.numpy(), b=ROWS.numpy()),
        {},
        "several columns of embeddings: 'a', 'b'; choose one with --column",
    ),
    "no array that fits": (
        "z.npz",
        lambda p: save_npz(p, a=ROWS[0].numpy()),
        {},
        "nothing that holds embeddings",
    ),
    "another array": ("z.npz", write, {"column": "labels"}, "'labels' holds no embeddings .*are in 'z'"),
    "not safetensors": ("z.safetensors", lambda p: p.write_text("no"), {}, "is not a safetensors file"),
    "safetensors cut short": (
        "z.safetensors",
        lambda p: cut(write(p)),
        {},
        "not a safetensors file, or damaged",
    ),
    "no such tensor": ("z.safetensors", write, {"column": "x"}, "has no 'x'; embeddings are in 'z'"),
    "not Parquet": ("z.parquet", lambda p: p.write_text("no"), {}, "is not a Parquet file"),
    "no such column": ("z.parquet", write, {"column": "x"}, "has no 'x'; embeddings are in 'vector'"),
    "column of text": ("z.parquet", write, {"column": "id"}, "'id' holds no embeddings"),
    "no such ids": ("z.parquet", write, {"id_column": "x"}, "no column 'x' for ids; it has 'id', 'vector'"),
    "only gaps": ("z.parquet", lambda p: parquet(p, [None, None]), {}, "no row has an embedding in 'vector'"),
    "an empty file": ("z.jsonl", lambda p: p.touch(), {}, "has no rows"),
    "not JSON": ("z.jsonl", lambda p: p.write_text("{'a': 1}"), {}, "line 1: not JSON"),
    "no objects": ("z.jsonl", lambda p: p.write_text("[1, 2]"), {}, "line 1: not a JSON object"),
    "not text": ("z.jsonl", lambda p: p.write_bytes(b"\xff\xfe{}"), {}, "is not UTF-8 text"),
    "no vectors": ("z.jsonl", lambda p: p.write_text('{"id": 1, "text": "a"}'), {}, "it has 'id', 'text'"),
    "only a header": ("z.csv", lambda p: p.write_text("id,embedding\n"), {}, "has no rows"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_unusable_files_say_what_to_do(tmp_path, case):
    name, make, options, message = MISTAKES[case]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        open_embeddings(tmp_path / name, **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        open_embeddings(tmp_path / "z.npy")


def test_batches_of_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        tanl.read_embeddings(write(tmp_path / "z.npy"), batch_size=0)
