"""Files of embeddings: every kind gives the same rows, a batch at a time; what cannot be used says why."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tanl
from conftest import unit
from tanl.io.embeddings import is_embedding_file, open_embeddings

pa = pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "tanl[parquet]"')
pq = pytest.importorskip("pyarrow.parquet")

D = 12
ROWS = unit(23, D, seed=3)
UUIDS = [f"id-{row}" for row in range(23)]


def parquet(path, vectors, kind=None, **columns):
    kind = pa.list_(pa.float32()) if kind is None else kind
    table = pa.table({**columns, "vector": pa.array(vectors, kind)})
    pq.write_table(table, path, row_group_size=10)


def write_header(path, header, size):
    """A .safetensors file of any header, and as many bytes behind it."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


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
    "a folder": ("z.npy", lambda p: p.mkdir(), {}, "is a folder without numbered parts of one set"),
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
    "objects": ("z.npy", lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), {}, "never unpickled"),
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
    "safetensors with a long header": (
        "z.safetensors",
        lambda p: p.write_bytes((10**9).to_bytes(8, "little") + b"{}"),
        {},
        "its header would have 1000000000 bytes",
    ),
    "a tensor outside of safetensors": (
        "z.safetensors",
        lambda p: write_header(p, {"z": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}}, 40),
        {},
        "'z' would lie outside of it",
    ),
    "a tensor of another size": (
        "z.safetensors",
        lambda p: write_header(p, {"z": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 40]}}, 40),
        {},
        "'z' has 40 bytes, but its shape",
    ),
    "a tensor without a place": (
        "z.safetensors",
        lambda p: write_header(p, {"z": {"dtype": "F32", "shape": [4, 3], "data_offsets": [-48, 0]}}, 48),
        {},
        "'z' has no shape, or no place",
    ),
    "a tensor without a dtype": (
        "z.safetensors",
        lambda p: write_header(p, {"z": {"dtype": [], "shape": [4, 3], "data_offsets": [0, 48]}}, 48),
        {},
        "'z' has no dtype",
    ),
    "a header that is a list": (
        "z.safetensors",
        lambda p: write_header(p, ["z"], 48),
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


# --- bad records, wherever they are -------------------------------------------------------------------------

GOOD = ROWS.tolist()
BAD_RECORDS = {
    "missing": None,
    "empty": [],
    "too short": [0.5],
    "too long": [0.25] * 16,
    "NaN": [float("nan")] * D,
    "a null inside": [None, *GOOD[0][1:]],
    "zeros": [0.0] * D,
    "zero of one number": [0.0],
}
BAD_VALUES = {
    **BAD_RECORDS,
    "text": "no embedding",
    "a number": 0.5,
    "an object": {"a": 1},
    "a list of lists": [GOOD[0]],
    "a list of texts": ["0.5"] * D,
    "truth values": [True] * D,
    "a number too large": [10**400] * D,
}
POSITIONS = {
    "first": [0],
    "middle": [11],
    "last": [22],
    "first batch": [0, 1, 2, 3],
    "most of the first rows": [0, 1, 2, 4, 5, 7, 8],
    "all but the last": list(range(22)),
}


def write_records(path, vectors):
    ids = [f"id-{row}" for row in range(len(vectors))]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"id": i, "vector": v}) for i, v in zip(ids, vectors, strict=True)]
        path.write_text("\n".join(lines))
    elif path.suffix == ".csv":
        lines = [f'{i},"{"" if v is None else json.dumps(v)}"' for i, v in zip(ids, vectors, strict=True)]
        path.write_text("\n".join(["id,vector", *lines]))
    else:
        parquet(path, vectors, id=ids)
    return path


CASES = [("jsonl", kind) for kind in BAD_VALUES] + [
    (ending, kind) for ending in ("csv", "parquet") for kind in BAD_RECORDS
]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("ending", "kind"), CASES)
def test_a_bad_record_costs_one_row_wherever_it_is(tmp_path, ending, kind, position):
    bad = POSITIONS[position]
    vectors = [BAD_VALUES[kind] if row in bad else GOOD[row] for row in range(23)]
    file = open_embeddings(write_records(tmp_path / f"z.{ending}", vectors))
    if position == "all but the last" and kind in ("too short", "too long"):
        # Nothing tells that the many are the bad ones.
        assert file.dim == len(BAD_VALUES[kind])
        return
    assert file.dim == D
    batches = list(file.batches(4))
    wrong = [4 * b + row for b, batch in enumerate(batches) for row in sorted(batch.errors)]
    assert wrong == bad
    z = torch.cat([batch.z for batch in batches])
    keep = [row for row in range(23) if row not in bad]
    assert torch.equal(z[keep], ROWS[keep])
    assert bool(z[bad].isnan().all())
    assert [i for batch in batches for i in batch.ids] == UUIDS


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("kind", ["NaN", "zeros"])
def test_rows_that_are_all_bad_are_told_one_by_one(tmp_path, ending, kind):
    file = open_embeddings(write_records(tmp_path / f"z.{ending}", [BAD_RECORDS[kind]] * 5))
    (batch,) = file.batches(10)
    assert (file.dim, sorted(batch.errors)) == (D, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_of_which_none_has_an_embedding_refuse_the_file(tmp_path, ending):
    write_records(tmp_path / f"z.{ending}", [None] * 5)
    with pytest.raises(ValueError, match="embedding"):
        open_embeddings(tmp_path / f"z.{ending}", column="vector")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_good_row_behind_all_that_is_looked_at_first_decides(tmp_path, ending):
    vectors = [None] * 1500 + GOOD[:2]
    file = open_embeddings(write_records(tmp_path / f"z.{ending}", vectors))
    assert file.dim == D
    assert sum(len(batch.errors) for batch in file.batches(64)) == 1500


def test_records_that_lack_the_key_or_have_another_list(tmp_path):
    records = [{"id": "a"}, {"id": "b", "tags": [1, 2]}] + [
        {"id": str(row), "vector": GOOD[row]} for row in range(9)
    ]
    (tmp_path / "z.jsonl").write_text("\n".join(map(json.dumps, records)))
    (batch,) = open_embeddings(tmp_path / "z.jsonl").batches(20)
    assert sorted(batch.errors) == [0, 1]
    assert torch.equal(batch.z[2:], ROWS[:9])


@pytest.mark.parametrize("fixed", [False, True])
def test_nulls_in_parquet_lists(tmp_path, fixed):
    vectors = [[None, *GOOD[0][1:]], *GOOD[1:5], None]
    parquet(tmp_path / "z.parquet", vectors, pa.list_(pa.float32(), D) if fixed else None)
    (batch,) = open_embeddings(tmp_path / "z.parquet").batches(10)
    assert batch.errors == {0: "the embedding has NaN or infinite values", 5: "there is no embedding"}


OTHER_TYPES = {
    "lists of lists": (pa.list_(pa.list_(pa.float32())), [[0.5]]),
    "lists of integers": (pa.list_(pa.int64()), [1]),
    "lists of texts": (pa.list_(pa.string()), ["0.5"]),
    "numbers": (pa.float32(), 0.5),
    "truth values": (pa.bool_(), True),
}


@pytest.mark.parametrize("column", [None, "vector"])
@pytest.mark.parametrize("case", OTHER_TYPES)
def test_parquet_columns_of_another_type_are_refused(tmp_path, case, column):
    kind, value = OTHER_TYPES[case]
    pq.write_table(pa.table({"vector": pa.array([value], kind)}), tmp_path / "z.parquet")
    with pytest.raises(ValueError, match=r"holds (no )?embeddings \(rows of floats\).*"):
        open_embeddings(tmp_path / "z.parquet", column=column)


# --- embeddings as text -------------------------------------------------------------------------------------

V = np.array([0.6, -0.8, 0.0, 1e-7, -2.5e-05, 0, 0, 0, 0, 0, 0, 0], dtype=np.float32)
TEXTS = {
    "NumPy's print": str(V),
    "NumPy's repr": repr(V),
    "NumPy's repr of float64": repr(V.astype(np.float64)),
    "torch's repr": repr(torch.from_numpy(V)),
    "over several lines": np.array2string(V, max_line_width=20),
    "semicolons": "[" + "; ".join(map(str, V.tolist())) + "]",
    "commas": json.dumps(V.tolist()),
    "a comma at the end": "[" + ",".join(map(str, V.tolist())) + ",]",
    "tabs": "[" + "\t".join(map(str, V.tolist())) + "]",
    "scientific": "[" + " ".join(f"{x:.9E}" for x in V) + "]",
    "upright bars": "[" + "|".join(map(str, V.tolist())) + "]",
    "NumPy's numbers in a list": "[" + ", ".join(f"np.float32({x})" for x in V.tolist()) + "]",
    "jax's repr": f"Array({V.tolist()}, dtype=float32)",
    "TensorFlow's str": f"tf.Tensor({' '.join(str(V.tolist()).split(','))}, shape=(12,), dtype=float32)",
    "TensorFlow's repr": f"<tf.Tensor: shape=(12,), dtype=float32, numpy=array({V.tolist()}, dtype=float32)>",
    "a tensor of a graph": f"tensor({V.tolist()}, device='cuda:0', grad_fn=<DivBackward0>)",
    "a list that is called": f"list({V.tolist()})",
    "in quotes": f"'{V.tolist()}'",
    "minus signs": str(V.tolist()).replace("-", "\u2212"),
    "spaces that do not break": "[" + ",\u00a0".join(map(str, V.tolist())) + "]",
    "PostgreSQL's arrays": "{" + ",".join(map(str, V.tolist())) + "}",
    "a tuple": str(tuple(V.tolist())),
    "no brackets": " ".join(map(str, V.tolist())),
    "no brackets, commas": ",".join(map(str, V.tolist())),
    "no brackets, tabs": "\t".join(map(str, V.tolist())),
    "no brackets, semicolons": ";".join(map(str, V.tolist())),
}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("case", TEXTS)
def test_embeddings_as_text(tmp_path, ending, case):
    text = TEXTS[case]
    path = tmp_path / f"z.{ending}"
    if ending == "csv":
        path.write_text(f'id,vector\na,"{text}"\n', encoding="utf-8")
    elif ending == "jsonl":
        path.write_text(json.dumps({"id": "a", "vector": text}))
    else:
        pq.write_table(pa.table({"id": ["a"], "vector": [text]}), path)
    ((ids, z),) = tanl.read_embeddings(path)
    assert ids == ["a"]
    torch.testing.assert_close(z[0], torch.from_numpy(V), atol=1e-4 if "torch" in case else 1e-8, rtol=1e-6)


REFUSED_TEXTS = {
    "cut by NumPy's printing": (str(np.linspace(0, 1, 2000)), "was cut when it was printed"),
    "decimal commas and semicolons": ("[0,6; -0,8]", "has decimal commas"),
    "decimal commas and spaces": ("[0,6 -0,8]", "has decimal commas"),
    "two kinds of separators": ("[0.6 0.1, 0.8]", "not a list of numbers"),
    "a list of lists": ("[[0.6, 0.8]]", "list of lists"),
    "words": ("[a b]", "not a list of numbers"),
    "an address": ("<numpy.ndarray object at 0x7f>", "not a list of numbers"),
    "nothing in it": ("[]", "not a list of numbers"),
}


@pytest.mark.parametrize("case", REFUSED_TEXTS)
def test_texts_that_are_no_embedding_say_why(tmp_path, case):
    text, reason = REFUSED_TEXTS[case]
    lines = [json.dumps({"vector": each}) for each in ([0.6, 0.8], text)]
    (tmp_path / "z.jsonl").write_text("\n".join(lines))
    (batch,) = open_embeddings(tmp_path / "z.jsonl").batches(5)
    assert list(batch.errors) == [1]
    assert reason in batch.errors[1]


def test_a_text_without_brackets_is_no_embedding_where_another_column_has_one(tmp_path):
    box, text = "0.5, 0.5, 0.25, 0.25", str(V.tolist())
    (tmp_path / "z.csv").write_text(f'id,box,vector\na,"{box}","{text}"\n')
    ((_, z),) = tanl.read_embeddings(tmp_path / "z.csv")
    assert z.shape == (1, len(V))


@pytest.mark.parametrize(
    ("text", "reason"), [("[[0.6, 0.8]]", "is a list of lists"), ("[0,6; -0,8]", "has decimal commas")]
)
def test_a_file_of_nothing_but_such_texts_says_why(tmp_path, text, reason):
    (tmp_path / "z.csv").write_text(f'id,vector\na,"{text}"\n')
    with pytest.raises(ValueError, match=f"'vector' holds no embeddings .* {reason}"):
        open_embeddings(tmp_path / "z.csv")


def test_a_file_of_nothing_but_cut_texts_says_so(tmp_path):
    text = str(np.linspace(0, 1, 2000))
    (tmp_path / "z.csv").write_text(f'id,vector\na,"{text}"\nb,"{text}"\n')
    with pytest.raises(ValueError, match=r"'vector' holds no embeddings .* was cut when it was printed"):
        open_embeddings(tmp_path / "z.csv")


def test_csv_fields_longer_than_the_csv_modules_own_limit(tmp_path):
    z = unit(2, 20_000, seed=4)
    texts = [json.dumps(row) for row in z.tolist()]
    assert min(map(len, texts)) > 131_072
    (tmp_path / "z.csv").write_text(
        "id,vector\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts))
    )
    ((_, found),) = tanl.read_embeddings(tmp_path / "z.csv")
    assert torch.equal(found, z)


# --- damaged files ------------------------------------------------------------------------------------------


def npy_bytes(header, content=b""):
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


HEADERS = {
    "no dict": "[1, 2]",
    "no Python": "{'descr': ",
    "unclosed text": "{'descr': '<f4",
    "a call": "{'descr': '<f4', 'fortran_order': False, 'shape': f(3), }",
    "no such dtype": "{'descr': '<q9', 'fortran_order': False, 'shape': (2, 3), }",
    "a dtype of objects": "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }",
    "a negative shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }",
    "a shape of text": "{'descr': '<f4', 'fortran_order': False, 'shape': ('2', 3), }",
    "a shape of truth values": "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3), }",
    "a huge shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 99999999999), }",
    "more rows than there are": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }",
    "fewer rows than there are": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }",
    "deep nesting": "{'descr': " + "(" * 3000 + ")" * 3000 + "}",
    "no header": "",
}


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_damaged_or_lie_are_refused_by_the_files_name(tmp_path, case, ending):
    content = npy_bytes(HEADERS[case], b"\0" * 24)
    path = tmp_path / f"z.{ending}"
    if ending == "npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("z.npy", content)
    with pytest.raises(ValueError, match=rf"z\.{ending}"):
        open_embeddings(path)


def test_every_cut_and_every_flipped_byte_of_a_header_is_told_or_harmless(tmp_path):
    np.save(tmp_path / "z.npy", ROWS[:2].numpy())
    whole = (tmp_path / "z.npy").read_bytes()
    start = len(whole) - 2 * D * 4
    damaged = [whole[:count] for count in range(0, len(whole), 3)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :] for at in range(start)]
    refused = 0
    for content in damaged:
        (tmp_path / "z.npy").write_bytes(content)
        try:
            batches = list(open_embeddings(tmp_path / "z.npy").batches(10, normalize=True))
            assert sum(len(batch.ids) for batch in batches) == 2
        except ValueError as error:
            assert "z.npy" in str(error)
            refused += 1
    assert refused > len(damaged) // 2


def test_several_arrays_in_one_npy_are_not_read_as_the_first_alone(tmp_path):
    with (tmp_path / "z.npy").open("wb") as file:
        np.save(file, ROWS[:3].numpy())
        np.save(file, ROWS[3:].numpy())
    with pytest.raises(ValueError, match=r"several arrays are in it: .* bytes follow its 3 rows of D = 12"):
        open_embeddings(tmp_path / "z.npy")


def test_an_encrypted_archive_is_refused(tmp_path):
    np.savez(tmp_path / "z.npz", z=ROWS.numpy())
    content = bytearray((tmp_path / "z.npz").read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "z.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"z\.npz is encrypted"):
        open_embeddings(tmp_path / "z.npz")


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_damage_inside_is_told_with_the_files_name(tmp_path, ending):
    whole = write(tmp_path / f"z.{ending}").read_bytes()
    refused = 0
    for at in range(8, len(whole), 41):
        (tmp_path / f"z.{ending}").write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            list(open_embeddings(tmp_path / f"z.{ending}").batches(10, normalize=True))
        except (ValueError, OSError) as error:
            assert f"z.{ending}" in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("ending", ["safetensors", "npy"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, ending):
    """It is never mapped: reading a page that is gone would kill the process."""
    path = write(tmp_path / f"z.{ending}", unit(5000, 16))
    batches = open_embeddings(path).batches(100, normalize=False)
    first = next(batches)
    os.truncate(path, 1000)
    assert torch.equal(first.z, unit(5000, 16)[:100])
    with pytest.raises(ValueError, match=f"z.{ending}"):
        list(batches)


# --- folders of numbered parts ------------------------------------------------------------------------------

SIZES = [3, 1, 2, 2, 1, 2, 3, 1, 2, 2, 4]  # eleven parts: 10 comes after 9


def save_parts(folder, name="part-{}", metadata=None, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for number, size in enumerate(SIZES, start=first):
        np.save(folder / f"{name.format(number)}.npy", ROWS[start : start + size].numpy())
        if metadata is not None:
            metadata.mkdir(exist_ok=True)
            table = pa.table({"caption": ["c"] * size, "image_path": UUIDS[start : start + size]})
            pq.write_table(table, metadata / f"metadata_{number}.parquet")
        start += size
    assert start == 23
    return folder


def whole_of(path, **options):
    batches = list(tanl.read_embeddings(path, batch_size=2, **options))
    return [i for ids, _ in batches for i in ids], torch.cat([z for _, z in batches])


@pytest.mark.parametrize("name", ["img_emb_{}", "part-{:05}", "{}", "embeddings.{}", "Z{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_parts_are_one_set_in_the_order_of_their_numbers(tmp_path, name, first):
    folder = save_parts(tmp_path / "set", name, first=first)
    ids, z = whole_of(folder)
    assert ids == [str(row) for row in range(23)]
    assert torch.equal(z, ROWS)
    file = open_embeddings(folder)
    assert (file.dim, file.rows, file.has_ids) == (D, 23, False)


@pytest.mark.parametrize("layout", ["flat", "folders", "folder of images"])
def test_clip_retrievals_folders_are_read_with_their_ids(tmp_path, layout):
    metadata = tmp_path / "set" / ("" if layout == "flat" else "metadata")
    images = save_parts(tmp_path / "set" / ("" if layout == "flat" else "img_emb"), "img_emb_{}", metadata)
    np.save(images / "text_emb_0.npy", ROWS[:3].numpy())
    folder = images if layout == "folder of images" else tmp_path / "set"
    ids, z = whole_of(folder)
    assert ids == UUIDS
    assert torch.equal(z, ROWS)
    assert whole_of(folder, id_column="caption")[0] == ["c"] * 23
    with pytest.raises(ValueError, match=r"metadata_0\.parquet has no column 'nothing' for ids"):
        open_embeddings(folder, id_column="nothing")


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    folder = save_parts(tmp_path / "set", "img_emb_{}", tmp_path / "set")
    (folder / "metadata_4.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"img_emb_4\.npy has no metadata_4\.parquet"):
        open_embeddings(folder)
    pq.write_table(pa.table({"image_path": ["a", "b"]}), folder / "metadata_4.parquet")
    with pytest.raises(ValueError, match=r"metadata_4\.parquet has 2 rows, but .*img_emb_4\.npy has 1"):
        open_embeddings(folder)
    np.save(folder / "img_emb_4.npy", ROWS[:1, :5].numpy())
    with pytest.raises(ValueError, match=r"img_emb_4\.npy has D = 5, but .*img_emb_0\.npy has D = 12"):
        open_embeddings(folder)
    (folder / "img_emb_4.npy").unlink()
    with pytest.raises(ValueError, match=r"part 4 is missing, between img_emb_3\.npy and img_emb_5\.npy"):
        open_embeddings(folder)
    np.save(folder / "img_emb_04.npy", ROWS[:1].numpy())
    np.save(folder / "img_emb_4.npy", ROWS[:1].numpy())
    with pytest.raises(ValueError, match="have the same number"):
        open_embeddings(folder)


def test_several_sets_in_a_folder_are_refused(tmp_path):
    save_parts(tmp_path, "a_{}")
    save_parts(tmp_path, "b_{}")
    with pytest.raises(ValueError, match=r"several sets: 'a\.npy', 'b\.npy'"):
        open_embeddings(tmp_path)


def test_a_folder_of_images_with_an_array_is_no_set_of_embeddings(tmp_path):
    save_parts(tmp_path, "weights_{}")
    assert is_embedding_file(tmp_path)
    (tmp_path / "a.JPG").touch()
    assert not is_embedding_file(tmp_path)
    assert is_embedding_file(tmp_path, beside_images=True)
