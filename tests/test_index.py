"""LabelIndex against brute force, its files; near-duplicate labels."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.io.tensors import read_tensors, write_tensors
from tanl.labels import index as index_module
from tanl.labels import lists as lists_module
from tanl.labels.index import LabelIndex, near_duplicates
from tanl.labels.nearest import Neighbours, nearest, products
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_given_embeddings_are_taken_as_they_are(dtype: torch.dtype) -> None:
    given = unit(65, 16).to(dtype)
    assert LabelIndex(names(65), given, kind="flat").embeddings.data_ptr() == given.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_finds_the_same_bits(kind: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    embeddings = clustered(2000).to(dtype)
    index = LabelIndex([*names(1999), "Äpfel 中"], embeddings, kind=kind, probe=0.25, seed=3)
    path = tmp_path / "i.safetensors"
    index.save(path)
    loaded = LabelIndex.load(path)
    z = unit(63, 32, seed=5)
    assert same(loaded.search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    assert (loaded.kind, loaded.probe, loaded.seed) == (kind, 0.25, 3)
    assert (loaded.names, loaded.embeddings.dtype) == (index.names, dtype)
    loaded.save(path)  # over the file that it was read from
    assert same(LabelIndex.load(path).search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    assert list(tmp_path.iterdir()) == [path]


def resaved(path: Path, **changes: Any) -> None:
    """The index again, with other tensors or notes and a checksum that fits."""
    tensors, about = read_tensors(path)
    for name, value in changes.items():
        (tensors if isinstance(value, Tensor) else about)[name] = value
    write_tensors(path, {k: v for k, v in tensors.items() if len(v)}, {k: v for k, v in about.items() if v})


def bits(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-9]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("no"),
    "a bit": lambda p: p.write_bytes(p.read_bytes()[:-9] + b"\x81" + p.read_bytes()[-8:]),
    "newer": lambda p: resaved(p, version="2"),
    "another format": lambda p: resaved(p, format="tanl-label-bank"),
    "one name": lambda p: resaved(p, names=bits('["a"]')),
    "names that are none": lambda p: resaved(p, names=bits("[1, 2]")),
    "no embeddings": lambda p: resaved(p, embeddings=torch.empty(0)),
    "fewer embeddings": lambda p: resaved(p, embeddings=unit(65, 16)),
    "no mean": lambda p: resaved(p, mean=torch.empty(0)),
    "lists that are none": lambda p: resaved(p, lists=bits("no index of faiss")),
    "no probe": lambda p: resaved(p, probe=""),
    "a probe beyond 1": lambda p: resaved(p, probe="1.5"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_index_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "i.safetensors"
    LabelIndex(names(1003), unit(1003, 16), kind="ivf").save(path)
    DAMAGE[case](path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        LabelIndex.load(path)


def test_an_index_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        LabelIndex.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
    path = tmp_path / "i.safetensors"
    LabelIndex(names(65), unit(65, 16), kind="ivf").save(path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for make in (
        lambda: LabelIndex(names(65), unit(65, 16), kind="ivf"),
        lambda: LabelIndex.load(path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'tanl\[faiss\]'"):
            make()
    assert LabelIndex(names(65), unit(65, 16)).search(unit(5, 16), 3).rows.shape == (5, 3)


def test_an_index_of_a_bank_has_its_negatives_in_order(bank: tanl.LabelBank) -> None:
    index = LabelIndex.of(bank)
    assert index.names == bank.negative_names
    assert index.names[4] == bank.negative_names[4]
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
    with pytest.raises(
        ValueError, match="kinds must be one of flat, ivf, ivf-flat, ivf-sq8, hnsw, not 'annoy'"
    ):
        label_index.Config(kinds=("annoy",))


# --- edits, shards, files without labels ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_struck_labels_are_not_found_and_later_ones_are(kind: Any) -> None:
    embeddings, late, z = clustered(2003), clustered(9, seed=4), unit(63, 32, seed=5)
    index = LabelIndex(names(2003), embeddings, kind=kind, probe=1.0)
    gone = [*range(0, 700, 7), 2002]
    edited = index.extended(names(9, "late"), late).without([f"word {i}" for i in gone] + ["late 3"])
    alive = torch.tensor([i for i in range(2012) if i not in {*gone, 2006}])
    expected = brute(z, torch.cat([embeddings, late]), 40, alive)
    found = edited.search(z, 40, fetch=1500)
    assert recall(found.rows, expected.rows) > 0.99
    assert not set(found.rows.flatten().tolist()) & {*gone, 2006}
    loose = edited.candidates(z, 1500)
    assert loose.rows.shape == (63, 1500)
    assert not set(loose.rows.flatten().tolist()) & {*gone, 2006}
    assert (len(edited), edited.num_struck, edited.is_edited) == (2012, 102, True)
    assert torch.equal(
        edited.vectors(torch.tensor([2011, 0, 2003])), torch.stack([late[8], embeddings[0], late[0]])
    )
    everything = edited.search(z[:5], 5000)
    assert everything.rows.shape == (5, 1910)
    assert torch.equal(everything.rows.sort(dim=1).values, alive.expand(5, -1))
    # What it was made from is as it was.
    assert (len(index), index.num_struck, index.is_edited) == (2003, 0, False)
    assert same(
        index.search(z, 5, fetch=300),
        LabelIndex(names(2003), embeddings, kind=kind, probe=1.0).search(z, 5, fetch=300),
    )


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_index_comes_back(kind: Any, labels: bool, tmp_path: Path) -> None:
    bank = tanl.LabelBank(["id", *names(1003)], clustered(1004), num_id=1, dtype=torch.float16)
    index = LabelIndex.of(bank, kind=kind)
    for seed in (3, 4):  # the second time one of the later labels goes and comes again
        index = index.without(["word 5"]).extended(["word 5"], clustered(1, seed=seed))
    path = tmp_path / "i.safetensors"
    index.save(path, labels=labels)
    again = LabelIndex.load(path, bank=None if labels else bank)
    assert again.fingerprint == index.fingerprint
    z = unit(9, 32, seed=5)
    assert same(again.search(z, 30, fetch=200), index.search(z, 30, fetch=200))
    if not labels:
        assert again.embeddings.data_ptr() == bank.negative_embeddings.data_ptr()
        assert path.stat().st_size < bank.embeddings.nbytes or kind == "ivf"


def test_an_index_without_its_labels_wants_the_bank_that_has_them(tmp_path: Path) -> None:
    path = tmp_path / "i.safetensors"
    bank = tanl.LabelBank(["id", *names(1003)], clustered(1004), num_id=1)
    LabelIndex.of(bank, kind="ivf").save(path, labels=False)
    fewer = tanl.LabelBank(bank.names[:-1], bank.embeddings[:-1], num_id=1)
    renamed = tanl.LabelBank(["id", *names(1003, "other")], bank.embeddings, num_id=1)
    turned = tanl.LabelBank(bank.names, bank.embeddings.flip(0), num_id=1)
    for wrong in (fewer, renamed, turned, bank.to(dtype=torch.float16)):
        with pytest.raises(
            ValueError, match=r"i\.safetensors cannot be used.*it is of another bank, with 1003 negatives"
        ):
            LabelIndex.load(path, bank=wrong)
    with pytest.raises(ValueError, match="load it with the bank that has them"):
        LabelIndex.load(path)
    LabelIndex.of(bank, kind="ivf").save(path)
    with pytest.raises(ValueError, match="it holds its labels itself: load it without a bank"):
        LabelIndex.load(path, bank=bank)


def test_edits_that_cannot_be_are_refused() -> None:
    index = LabelIndex(names(65), unit(65, 16))
    cases: list[tuple[Any, str]] = [
        (lambda: index.without(["nothing"]), "not among the labels of .*nothing"),
        (lambda: index.without(["word 1"]).without(["word 1"]), "not among the labels of .*word 1"),
        (lambda: index.without(names(65)), "these are all the labels"),
        (lambda: index.extended(["word 3"], unit(1, 16)), "word 3.* among the labels of .* already"),
        (lambda: index.extended(["new"], unit(2, 16)), "1 names, but 2 embeddings"),
        (lambda: index.extended(["new"], unit(1, 15)), "D = 15"),
        (lambda: index.extended(["new"], 2 * unit(1, 16)), "norm 2"),
        (lambda: LabelIndex(names(65), unit(65, 16), lists=0), "lists must be at least 1"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    assert not index.is_edited


def test_shards_make_the_same_index_and_a_stopped_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, z = clustered(4003), unit(63, 32, seed=5)
    whole = LabelIndex(names(4003), embeddings, kind="ivf", lists=40)
    monkeypatch.setattr(lists_module, "_SHARD", 1000)
    filled: list[int] = []
    add = lists_module._Filling.add

    def stopped(self: Any, rows: Tensor, first: int) -> None:
        filled.append(first)
        if filled == [0, 1000, 2000]:
            raise KeyboardInterrupt
        add(self, rows, first)

    monkeypatch.setattr(lists_module._Filling, "add", stopped)
    folder = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        LabelIndex(names(4003), embeddings, kind="ivf", lists=40, folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "shard-0000.safetensors",
        "shard-0001.safetensors",
        "trained.safetensors",
    ]
    index = LabelIndex(names(4003), embeddings, kind="ivf", lists=40, folder=folder)
    assert filled == [0, 1000, 2000, 2000, 3000, 4000]
    for one, other in zip(index.candidates(z, 300).rows, whole.candidates(z, 300).rows, strict=True):
        assert len(set(one.tolist()) & set(other.tolist())) >= 299  # equal codes at the end may be either
    assert same(index.search(z, 30, fetch=300), whole.search(z, 30, fetch=300))


def test_shards_keep_to_their_memory(tmp_path: Path) -> None:
    """One list gets longer by whole blocks; where such lists are merged in the form for fast scans, the heap breaks.

    In a process of its own, which a damaged heap ends.
    """
    script = f"""
import torch
import tanl.labels.lists as lists
from tanl.labels.index import LabelIndex

rows = torch.nn.functional.normalize(torch.randn(64 * 128, 8, generator=torch.Generator().manual_seed(0)), dim=1)
labels = [f"label {{i}}" for i in range(len(rows))]
whole = LabelIndex(labels, rows, kind="ivf", lists=1)
lists._SHARD = 64
whole.save({str(tmp_path / "whole.safetensors")!r})
for _ in range(3):
    LabelIndex(labels, rows, kind="ivf", lists=1).save({str(tmp_path / "shards.safetensors")!r})
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (whole, _), (shards, _) = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("whole", "shards"))
    assert whole.keys() == shards.keys()
    assert all(torch.equal(whole[name], shards[name]) for name in whole)


def test_shards_of_other_labels_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    embeddings = clustered(1003)
    LabelIndex(names(1003), embeddings, kind="ivf", folder=tmp_path)
    for other in (clustered(1003, seed=1), embeddings[:1002], embeddings.half()):
        with pytest.raises(ValueError, match="is no shard of this index: it is of other labels or settings"):
            LabelIndex(names(len(other)), other, kind="ivf", folder=tmp_path)
    with pytest.raises(ValueError, match="other labels or settings"):
        LabelIndex(names(1003), embeddings, kind="ivf", folder=tmp_path, seed=1)
    shard = tmp_path / "shard-0000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"shard-0000\.safetensors is no shard of this index"):
        LabelIndex(names(1003), embeddings, kind="ivf", folder=tmp_path)
