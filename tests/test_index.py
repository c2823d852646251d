"""LabelIndex against brute force, its changes, its files; near-duplicate labels."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.labels import index as index_module
from tanl.labels.index import LabelIndex, Neighbours, near_duplicates, nearest, products
from tools import label_index

FAISS = pytest.importorskip("faiss")
KINDS = ("flat", "ivf")


def names(count: int, prefix: str = "word") -> list[str]:
    return [f"{prefix} {i}" for i in range(count)]


def clustered(count: int, dim: int = 32, seed: int = 0) -> Tensor:
    """Unit rows in clusters on a cone, as texts are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, count // 50), dim, generator=generator)
    rows = centres[torch.randint(len(centres), (count,), generator=generator)]
    return normalize(4 + rows + 0.7 * torch.randn(count, dim, generator=generator), dim=1)


def brute(z: Tensor, embeddings: Tensor, k: int, rows: Tensor | None = None) -> Neighbours:
    """The nearest, in float64; equal ones in the order of their rows."""
    rows = torch.arange(len(embeddings)) if rows is None else rows
    cosines = z.double() @ embeddings[rows].double().T
    best, order = cosines.sort(dim=1, descending=True, stable=True)
    return Neighbours(best[:, :k].float(), rows[order[:, :k]])


def recall(found: Tensor, truth: Tensor) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()


def same(one: Neighbours, other: Neighbours) -> bool:
    return torch.equal(one.rows, other.rows) and torch.equal(one.cosines, other.cosines)


@pytest.fixture(scope="module")
def many() -> LabelIndex:
    """4003 clustered labels in lists."""
    return LabelIndex(names(4003), clustered(4003), kind="ivf")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "k"), [(1, 1), (1, 9), (65, 7), (65, 65), (65, 900), (1003, 1), (1003, 40)]
)
@pytest.mark.parametrize("batch", [1, 5, 63, 130])
def test_few_labels_are_found_as_by_brute_force(kind: Any, count: int, k: int, batch: int) -> None:
    embeddings = unit(count, 24, seed=count)
    z = unit(batch, 24, seed=7)
    found = LabelIndex(names(count), embeddings, kind=kind, probe=1.0).search(z, k, fetch=count + k)
    expected = brute(z, embeddings, k)
    assert found.rows.shape == (batch, min(k, count))
    assert found.cosines.dtype == torch.float32
    torch.testing.assert_close(found.cosines, expected.cosines, atol=1e-6, rtol=0)
    torch.testing.assert_close((z[:, None] * embeddings[found.rows]).sum(2), found.cosines, atol=1e-6, rtol=0)
    assert torch.equal(found.rows, expected.rows)


@pytest.mark.parametrize(("count", "k"), [(40_003, 1), (40_003, 17), (40_003, 20_000), (16_385, 16_384)])
def test_exact_search_goes_over_many_tiles(count: int, k: int) -> None:
    embeddings, z = unit(count, 8, seed=1), unit(3, 8, seed=2)
    found, expected = nearest(z, embeddings, k), brute(z, embeddings, k)
    torch.testing.assert_close(found.cosines, expected.cosines, atol=1e-6, rtol=0)
    assert bool((found.cosines.diff(dim=1) <= 0).all())
    assert recall(found.rows, expected.rows) > 0.999  # but for swaps of cosines that are equal in float32
    assert all(len(set(row)) == k for row in found.rows.tolist())


def test_equal_labels_come_in_the_order_of_their_rows() -> None:
    embeddings = unit(7, 16, seed=3).repeat(5000, 1)  # 35 000 labels, 5000 of each kind, over three tiles
    z = embeddings[2:3]
    found = LabelIndex(names(len(embeddings)), embeddings, kind="flat").search(z, 4000)
    assert found.rows[0].tolist() == list(range(2, 2 + 7 * 4000, 7))


def test_equal_labels_in_lists_come_in_the_order_of_their_rows() -> None:
    embeddings = unit(200, 16, seed=3).repeat(5, 1)
    found = LabelIndex(names(1000), embeddings, kind="ivf", probe=1.0).search(embeddings[:9], 5, fetch=300)
    assert found.rows.tolist() == [[i, 200 + i, 400 + i, 600 + i, 800 + i] for i in range(9)]


@pytest.mark.parametrize("dim", [17, 32])
def test_lists_find_nearly_all_and_their_cosines_are_exact(dim: int) -> None:
    embeddings = clustered(4003, dim)
    z = normalize(unit(63, dim, seed=5) + 0.3 * embeddings[:63], dim=1)
    index = LabelIndex(names(4003), embeddings, kind="ivf", probe=1.0)
    found, expected = index.search(z, 50, fetch=250), brute(z, embeddings, 50)
    assert recall(found.rows, expected.rows) > 0.97
    exact = (z[:, None].double() * embeddings[found.rows].double()).sum(2).float()
    torch.testing.assert_close(found.cosines, exact, atol=1e-6, rtol=0)
    assert bool((found.cosines.diff(dim=1) <= 0).all())


def test_more_lists_and_more_rescoring_find_more(many: LabelIndex) -> None:
    z = unit(63, 32, seed=5)
    expected = brute(z, many.embeddings, 100).rows
    found = {}
    for probe in (0.02, 0.5, 1.0):
        many.probe = probe
        found[probe] = recall(many.search(z, 100, fetch=400).rows, expected)
    many.probe = 1.0
    bare = recall(many.search(z, 100, fetch=100).rows, expected)
    many.probe = index_module.PROBE
    assert found[0.02] < found[0.5] < found[1.0]
    assert bare < found[1.0]


def test_queries_whose_lists_hold_too_few_labels_are_searched_exactly(many: LabelIndex) -> None:
    z = unit(5, 32, seed=6)
    many.probe = 0.0  # one list
    found = many.search(z, 600, fetch=600)
    loose = many.candidates(z, 600)
    many.probe = index_module.PROBE
    expected = brute(z, many.embeddings, 600)
    torch.testing.assert_close(found.cosines, expected.cosines, atol=1e-6, rtol=0)
    assert bool((loose.rows < 0).any(dim=1).all())
    assert torch.equal(loose.rows < 0, loose.cosines == -torch.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_finds_the_same_bits_whatever_is_beside_it(kind: Any) -> None:
    embeddings = clustered(4003, 48)
    index = LabelIndex(names(4003), embeddings, kind=kind)
    z = unit(131, 48, seed=8)
    whole = index.search(z, 33, fetch=150)
    loose = index.candidates(z, 300)
    for rows in (slice(0, 1), slice(5, 68), slice(130, 131), slice(None, None, 7), slice(64, 131)):
        part = index.search(z[rows], 33, fetch=150)
        assert same(part, Neighbours(whole.cosines[rows], whole.rows[rows]))
        part = index.candidates(z[rows], 300)
        for one, other in zip(part.rows, loose.rows[rows], strict=True):
            assert set(one.tolist()) == set(other.tolist())


@pytest.mark.parametrize("rows", [1, 5, 64, 65, 200])
def test_products_are_the_same_bits_in_any_company(rows: int) -> None:
    z, labels = unit(200, 40, seed=1), unit(2311, 40, seed=2)
    whole = products(z, labels)
    torch.testing.assert_close(whole, z @ labels.T, atol=1e-6, rtol=0)
    assert torch.equal(products(z[-rows:], labels), whole[-rows:])


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_labels_stay_half_and_are_multiplied_in_float32(kind: Any) -> None:
    embeddings = clustered(2003).half()
    z = unit(9, 32, seed=5)
    index = LabelIndex(names(2003), embeddings, kind=kind, probe=1.0)
    found = index.search(z, 20, fetch=200)
    assert index.embeddings.dtype == torch.float16
    expected = (z[:, None].double() * embeddings[found.rows].double()).sum(2).float()
    torch.testing.assert_close(found.cosines, expected, atol=1e-6, rtol=0)
    assert recall(found.rows, brute(z, embeddings.float(), 20).rows) > 0.97
    index.add(["new"], z[:1])
    assert index.search(z[:1], 1).rows.item() == 2003


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_additions_and_removals_is_as_brute_force(kind: Any, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pool = clustered(2600, 16, seed=seed)
    index = LabelIndex(names(1200), pool[:1200], kind=kind, probe=1.0, seed=seed)
    present = {f"word {i}": i for i in range(1200)}
    next_row = 1200
    z = unit(5, 16, seed=seed)
    for step in range(12):
        if step % 3 == 1:
            count = int(generator.integers(1, 150))
            added = [f"word {i}" for i in range(next_row, next_row + count)]
            index.add(added, pool[next_row : next_row + count])
            present |= {name: next_row + i for i, name in enumerate(added)}
            next_row += count
        else:
            count = int(generator.integers(1, 200))
            gone = generator.choice(list(present), count, replace=False).tolist()
            index.remove(gone)
            for name in gone:
                del present[name]
        rows = torch.tensor(sorted(present.values()))
        assert len(index) == len(present)
        assert torch.equal(index.rows, rows)
        assert set(index.names) == set(present)
        found = index.search(z, 60, fetch=240)
        expected = brute(z, pool, 60, rows)
        assert set(found.rows.flatten().tolist()) <= set(rows.tolist())
        assert all(present[index.name(row)] == row for row in found.rows[0].tolist())
        exact = (z[:, None] * pool[found.rows]).sum(2)
        torch.testing.assert_close(found.cosines, exact, atol=1e-6, rtol=0)
        if kind == "flat":
            torch.testing.assert_close(found.cosines, expected.cosines, atol=1e-6, rtol=0)
        assert recall(found.rows, expected.rows) > (0.999 if kind == "flat" else 0.9)
        everything = index.search(z, 5000)
        assert everything.rows.shape == (5, len(present))
        assert set(everything.rows[0].tolist()) == set(rows.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_label_can_come_back_with_another_embedding(kind: Any) -> None:
    index = LabelIndex(names(65), unit(65, 16), kind=kind)
    index.remove(["word 3"])
    assert "word 3" not in index
    z = unit(1, 16, seed=9)
    index.add(["word 3"], z)
    assert index.search(z, 1).rows.item() == 65
    assert index.name(65) == "word 3"
    with pytest.raises(ValueError, match="no label of row 3"):
        index.name(3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_can_be_emptied_and_filled_again(kind: Any) -> None:
    index = LabelIndex(names(65), unit(65, 16), kind=kind)
    index.remove(names(65))
    assert len(index) == 0
    with pytest.raises(ValueError, match="the index is empty"):
        index.search(unit(1, 16), 1)
    index.add(["again"], unit(1, 16, seed=4))
    assert index.search(unit(2, 16), 3).rows.tolist() == [[65], [65]]


def test_changes_leave_the_given_embeddings_alone() -> None:
    given = unit(65, 16)
    before = given.clone()
    index = LabelIndex(names(65), given, kind="flat")
    assert index.embeddings.data_ptr() == given.data_ptr()  # and building copies nothing
    index.remove(["word 0", "word 64"])
    index.add(["new"], unit(1, 16, seed=2))
    index.add(["newer"], unit(1, 16, seed=3))
    assert torch.equal(given, before)


def test_adding_one_by_one_copies_seldom() -> None:
    index = LabelIndex(names(65), unit(65, 16), kind="flat")
    places = set()
    for i, row in enumerate(unit(300, 16, seed=2)):
        index.add([f"new {i}"], row[None])
        places.add(index.embeddings.data_ptr())
    assert len(places) <= 4
    assert torch.equal(index.embeddings[65:], unit(300, 16, seed=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_saved_index_finds_the_same_and_goes_on(kind: Any, mmap: bool, tmp_path: Path) -> None:
    index = LabelIndex([*names(1999), "Äpfel 中"], clustered(2000), kind=kind, probe=0.25, seed=3)
    index.remove(["word 5", "word 77"])
    index.save(tmp_path / "saved")
    loaded = LabelIndex.load(tmp_path / "saved", mmap=mmap)
    z = unit(63, 32, seed=5)
    assert same(loaded.search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    assert (loaded.kind, loaded.probe, loaded.seed) == (kind, 0.25, 3)
    assert loaded.names == index.names
    for each in (index, loaded):
        each.remove(["word 9"])
        each.add(["word 5", "new"], unit(2, 32, seed=6))
    assert same(loaded.search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    loaded.save(tmp_path / "saved")  # over the files that it is mapped from
    again = LabelIndex.load(tmp_path / "saved")
    assert same(again.search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    assert len(list((tmp_path / "saved").iterdir())) == (2 if kind == "flat" else 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["embeddings", "lists", "flush", "manifest"])
def test_a_crash_while_saving_leaves_the_index_saved_before(
    kind: Any, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, where) == ("flat", "lists"):
        pytest.skip("flat has no lists")
    first = LabelIndex(names(1003), unit(1003, 16), kind=kind)
    first.save(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def half_written(tensors: dict[str, Tensor], path: Path) -> None:
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:1000])
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        if where == "embeddings":
            patch.setattr(index_module, "save_file", half_written)
        elif where == "lists":
            patch.setattr(index_module._Lists, "write", crash)
        elif where == "flush":
            patch.setattr(index_module, "_flush", crash)
        else:
            patch.setattr(Path, "replace", crash)
        second = LabelIndex(names(65, "other"), unit(65, 16, seed=2), kind=kind)
        with pytest.raises((KeyboardInterrupt, OSError)):
            second.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files
    z = unit(5, 16, seed=3)
    assert same(LabelIndex.load(tmp_path).search(z, 9, fetch=50), first.search(z, 9, fetch=50))
    second.save(tmp_path)
    assert LabelIndex.load(tmp_path).names == second.names


def test_what_a_killed_save_left_behind_is_not_read_and_goes_with_the_next_save(tmp_path: Path) -> None:
    index = LabelIndex(names(65), unit(65, 16), kind="flat")
    index.save(tmp_path)
    for name in ("embeddings-0123456789ab.safetensors", "lists-0123456789ab.faiss", "manifest-0123.part"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("a user's own")
    assert LabelIndex.load(tmp_path).names == index.names
    index.save(tmp_path)
    left = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert left == {"embeddings", "index.json", "notes.txt"}


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("index.json", "truncated"),
        ("index.json", "list"),
        ("index.json", "version"),
        ("index.json", "names"),
        ("embeddings", "truncated"),
        ("embeddings", "header"),
        ("embeddings", "missing"),
        ("lists", "truncated"),
        ("lists", "bit"),
        ("lists", "missing"),
    ],
)
def test_a_damaged_file_is_named(file: str, damage: str, tmp_path: Path) -> None:
    LabelIndex(names(1003), unit(1003, 16), kind="ivf").save(tmp_path)
    (path,) = tmp_path.glob(f"{file}*")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "header":
        path.write_bytes(b"\xff" * 64 + content[64:])
    elif damage == "bit":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif damage == "list":
        path.write_text("[]")
    else:
        manifest = json.loads(content)
        manifest["version" if damage == "version" else "names"] = 99 if damage == "version" else ["one"]
        path.write_text(json.dumps(manifest))
    wanted = "embeddings-" if damage == "names" else path.name
    with pytest.raises(ValueError, match=wanted):
        LabelIndex.load(tmp_path)


def test_a_folder_without_an_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no label index: it has no index\.json"):
        LabelIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda i: i.add(["new", "word 3", "word 60"], unit(3, 16)),
            "in the index already: 'word 3', 'word 60'",
        ),
        (lambda i: i.add(["new", "new"], unit(2, 16)), "more than once: 'new'"),
        (lambda i: i.add(["new"], unit(2, 16)), "1 names, but 2 embeddings"),
        (lambda i: i.add(["new"], unit(1, 15)), "D = 15"),
        (lambda i: i.add(["new"], 2 * unit(1, 16)), "has norm 2, not 1"),
        (lambda i: i.add([" "], unit(1, 16)), "empty label"),
        (lambda i: i.remove(["word 3", "nonsense"]), "not in the index: 'nonsense'"),
        (lambda i: i.remove(["word 3", "word 3"]), "more than once: 'word 3'"),
        (lambda i: i.search(unit(2, 15), 3), "D = 15"),
        (lambda i: i.search(unit(2, 16), 0), "k must be at least 1, not 0"),
        (lambda i: i.search(unit(2, 16), 7, fetch=6), "fetch must be at least 7, not 6"),
        (lambda i: i.candidates(unit(2, 16), 0), "count must be at least 1, not 0"),
        (lambda i: i.search(unit(2, 16)[0], 3), r"z\[None\]"),
        (lambda i: i.search(torch.full((1, 16), torch.nan), 3), "NaN"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_refusals_name_the_value_and_change_nothing(kind: Any, call: Any, message: str) -> None:
    index = LabelIndex(names(65), unit(65, 16), kind=kind)
    before = index.search(unit(5, 16), 65)
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.names == tuple(names(65))
    assert same(index.search(unit(5, 16), 65), before)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "hnsw"}, ValueError, "no kind 'hnsw'; there are 'auto', 'flat', 'ivf'"),
        ({"probe": 1.5}, ValueError, r"probe must lie in \[0, 1\], not 1.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, not -1"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, not 0.5"),
    ],
)
def test_unusable_settings_are_refused(settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LabelIndex(names(65), unit(65, 16), **settings)


def test_auto_is_flat_up_to_a_size_and_lists_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LARGEST_FLAT", 100)
    assert LabelIndex(names(100), unit(100, 16)).kind == "flat"
    assert LabelIndex(names(101), unit(101, 16)).kind == "ivf"
    assert LabelIndex(names(100), unit(100, 16)).overhead == 0
    assert LabelIndex(names(101), unit(101, 16)).overhead > 101 * 16 // 4


def test_the_same_seed_makes_the_same_lists() -> None:
    embeddings, z = clustered(2003), unit(9, 32, seed=5)
    one, other = (LabelIndex(names(2003), embeddings, kind="ivf", probe=0.1, seed=4) for _ in range(2))
    assert same(one.search(z, 20, fetch=80), other.search(z, 20, fetch=80))


def test_without_faiss_only_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LabelIndex(names(65), unit(65, 16), kind="ivf").save(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for make in (
        lambda: LabelIndex(names(65), unit(65, 16), kind="ivf"),
        lambda: LabelIndex.load(tmp_path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'tanl\[faiss\]'"):
            make()
    assert LabelIndex(names(65), unit(65, 16)).search(unit(5, 16), 3).rows.shape == (5, 3)


def test_an_index_of_a_bank_has_its_negatives_in_order(bank: tanl.LabelBank) -> None:
    index = LabelIndex.of(bank)
    assert index.names == bank.negative_names
    assert index.name(4) == bank.negative_names[4]
    assert torch.equal(index.embeddings, bank.negative_embeddings)
    bare = tanl.LabelBank(bank.id_names, bank.id_embeddings, num_id=bank.num_id)
    with pytest.raises(ValueError, match="no negative labels"):
        LabelIndex.of(bare)


@pytest.mark.parametrize("with_index", [False, True])
def test_near_duplicates_are_found_and_sorted(with_index: bool) -> None:
    ids, corpus = unit(3, 64, seed=1), unit(65, 64, seed=2)
    corpus[7] = normalize(ids[2] + 0.02 * corpus[7], dim=0)
    corpus[50] = ids[0]
    corpus[51] = normalize(ids[2] + 0.3 * corpus[51], dim=0)
    bank = tanl.LabelBank(["cat", "dog", "red panda", *names(65)], torch.cat([ids, corpus]), num_id=3)
    index = LabelIndex.of(bank) if with_index else None
    found = near_duplicates(bank, index=index)
    assert [pair[:2] for pair in found] == [
        ("cat", "word 50"),
        ("red panda", "word 7"),
        ("red panda", "word 51"),
    ]
    assert found[0].cosine == pytest.approx(1, abs=1e-6)
    assert [pair.negative for pair in near_duplicates(bank, threshold=0.99, index=index)] == [
        "word 50",
        "word 7",
    ]
    assert [pair.negative for pair in near_duplicates(bank, k=1, index=index)] == ["word 50", "word 7"]
    with pytest.raises(ValueError, match=r"threshold must be a cosine, in \[-1, 1\], not 90"):
        near_duplicates(bank, threshold=90)


def test_the_measurement_has_a_line_for_every_index_and_setting() -> None:
    config = label_index.Config(labels=(3003,), dim=16, probes=(0.5, 1.0), repeats=1)
    result = label_index.run(config)
    (part,) = result.sets
    assert [row.kind for row in part.rows] == ["flat"] + [
        kind for kind in label_index.KINDS[1:] for _ in range(2)
    ]
    assert part.rows[0].recall == {100: 1.0, 1000: 1.0}
    for row in part.rows:
        assert all(0 < share <= 1 for share in row.recall.values())
        assert (row.activation is not None) == (row.kind in ("flat", "ivf"))
        assert (row.megabytes > 0) == (row.kind != "flat")
    table = label_index.format_table(result)
    assert table.count("\nivf-sq8") == 2
    assert json.loads(json.dumps(dataclasses.asdict(result)))["environment"]["faiss"] == FAISS.__version__
    with pytest.raises(ValueError, match="no kind annoy"):
        label_index.Config(kinds=("annoy",))
