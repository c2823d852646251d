"""Embeddings alone: the library and the command judge them without any image library, row for row as in Python."""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from states import assert_same_state, state_of
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.cli.main import main
from tanl.io.embeddings import open_embeddings
from tanl.streams.embeddings import embedding_batches, judge_embeddings

pa = pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "tanl[parquet]"')
pq = pytest.importorskip("pyarrow.parquet")

D = 16
NAMES = [f"class {i}" for i in range(7)] + [f"word {i}" for i in range(103)]


def images(count, seed=5):
    """Rows near labels, every other one near an ID label."""
    labels = unit(110, D, seed=1)
    generator = torch.Generator().manual_seed(seed)
    nearest = torch.randint(7, 110, (count,), generator=generator)
    nearest[::2] %= 7
    return normalize(labels[nearest] + 0.1 * torch.randn(count, D, generator=generator), dim=1)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank = tanl.LabelBank(NAMES, unit(110, D, seed=1), num_id=7, logit_scale=20.0)
    tanl.save_bank(bank, "bank.safetensors", initial_ood=unit(5, D, seed=9))
    np.save("z.npy", images(61).numpy())
    return tmp_path


BASE = ["judge", "z.npy", "--bank", "bank.safetensors"]


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- the library --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_go_all_the_way(dtype):
    rows = unit(110, D, seed=1).numpy().astype(dtype)
    bank = tanl.LabelBank(NAMES, rows, num_id=7, logit_scale=20.0)
    detector = tanl.TANL(bank, initial_ood=unit(5, D, seed=9).numpy())
    detection = tanl.detect_embeddings(detector, images(61).numpy().astype(dtype), evidence=2)
    assert isinstance(detection.ood_score, torch.Tensor)
    assert detection.label[0].startswith("class")
    assert {len(evidence) for evidence in detection.evidence} == {0, 2}


def test_arrays_of_float32_share_memory_with_the_bank():
    rows = unit(110, D, seed=1).numpy()
    bank = tanl.LabelBank(NAMES, rows, num_id=7)
    assert bank.embeddings.data_ptr() == rows.ctypes.data


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_a_guard_takes_embeddings_of_either_kind(kind, tiny_backbone, tmp_path):
    guard = tanl.Guard(tiny_backbone, ["a", "b"], corpus=["c", "d", "e"], cache_dir=tmp_path)
    good = unit(9, 24)
    bad = 2 * good
    before = state_of(guard.detector)
    with pytest.raises(ValueError, match="row 0 has norm 2"):
        guard.detect_embeddings(bad if kind is torch.Tensor else bad.numpy())
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor or a NumPy array, not list"):
        guard.detect_embeddings(good.tolist())
    assert_same_state(guard.detector.state_dict(), before)
    assert len(guard.detect_embeddings(good if kind is torch.Tensor else good.numpy())) == 9


def test_rows_that_cannot_be_used_take_no_place_in_a_batch(tmp_path):
    saved = tanl.load_bank("bank.safetensors")
    z = images(30)
    gaps = [0, 7, 8, 29]
    with_gaps = torch.zeros(34, D)
    kept = [row for row in range(34) if row not in gaps]
    with_gaps[kept] = z
    with_gaps[gaps] = float("nan")
    np.save("gaps.npy", with_gaps.numpy())
    np.save("whole.npy", z.numpy())
    outcomes = []
    for name in ("gaps.npy", "whole.npy"):
        detector = tanl.TANL(saved.bank, initial_ood=saved.initial_ood)
        judge = partial(tanl.detect_embeddings, detector)
        batches = list(judge_embeddings([open_embeddings(name)], saved.bank, judge, batch_size=10))
        assert [sum(r.error is None for r in batch) for batch in batches] == [10, 10, 10]
        outcomes.append([result for batch in batches for result in batch])
    assert [result.path for result in outcomes[0]] == [str(row) for row in range(34)]
    assert [row for row, result in enumerate(outcomes[0]) if result.error] == gaps
    assert [r.verdict for r in outcomes[0] if not r.error] == [r.verdict for r in outcomes[1]]


def test_batches_go_on_over_several_files():
    np.save("a.npy", images(7).numpy())
    np.save("b.npy", images(8).numpy())
    files = [open_embeddings("a.npy"), open_embeddings("b.npy")]
    batches = list(embedding_batches(files, tanl.load_bank("bank.safetensors").bank, batch_size=10))
    assert [len(batch.z) for batch in batches] == [10, 5]
    assert batches[0].images[5:9] == ["a.npy:5", "a.npy:6", "b.npy:0", "b.npy:1"]


def test_another_dimension_is_refused_before_anything_is_judged():
    np.save("narrow.npy", unit(3, D - 1).numpy())
    detector = tanl.MCM(tanl.load_bank("bank.safetensors").bank)
    with pytest.raises(ValueError, match=r"narrow\.npy has D = 15, but the label bank has D = 16"):
        judge_embeddings(
            [open_embeddings("z.npy"), open_embeddings("narrow.npy")],
            detector.bank,
            partial(tanl.detect_embeddings, detector),
        )


BLOCKED = ("PIL", "torchvision", "open_clip", "timm", "transformers", "cv2", "skimage")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
"""
WITHOUT_IMAGES = {
    "library": """
import numpy as np, tanl
rows = np.random.default_rng(0).standard_normal((140, 8))
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
bank = tanl.LabelBank([f"label {i}" for i in range(140)], rows, num_id=5)
for method in (tanl.TANL, tanl.NegLabel, tanl.AdaNeg, lambda bank: tanl.CSP(bank, groups=3), tanl.MCM, tanl.Energy):
    detector = method(bank)
    detector.calibrate(detector.score(rows))
    tanl.detect_embeddings(detector, rows)
for ids, z in tanl.read_embeddings("z.npy"):
    assert len(ids) == len(z)
tanl.save_bank(bank, "own.safetensors")
tanl.load_bank("own.safetensors")
""",
    "score": """
from tanl.cli.main import main
assert main(["judge", "z.npy", "--bank", "bank.safetensors", "--out", "r.parquet", "--calibrate", "z.npy"]) == 0
assert main(["judge", "z.npy", "--bank", "bank.safetensors", "--method", "mcm", "--quiet"]) == 0
""",
    "bank": """
import numpy as np
from tanl.cli.main import main
np.save("id.npy", np.eye(3, 8))
np.save("neg.npy", -np.eye(3, 8))
open("words.txt", "w").write("granite\\nviolin\\ncloud")
own = ["--id-embeddings", "id.npy", "--negatives", "words.txt", "--negative-embeddings", "neg.npy"]
names = ["--label", "a", "--label", "b", "--label", "c"]
assert main(["bank", *names, *own, "--logit-scale", "10", "--out", "own.safetensors"]) == 0
""",
}


@pytest.mark.parametrize("case", WITHOUT_IMAGES)
def test_no_image_library_is_needed(case):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + WITHOUT_IMAGES[case]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- the command --------------------------------------------------------------------------------------------


def write_inputs(ending):
    z, ids = images(61), [f"id-{row}" for row in range(61)]
    if ending == "npz":
        np.savez("in.npz", z=z.numpy())
    elif ending == "safetensors":
        save_file({"z": z}, "in.safetensors")
    elif ending == "parquet":
        pq.write_table(pa.table({"key": ids, "z": z.tolist()}), "in.parquet")
    elif ending == "jsonl":
        lines = [json.dumps({"key": i, "vector": {"z": v}}) for i, v in zip(ids, z.tolist(), strict=True)]
        Path("in.jsonl").write_text("\n".join(lines))
    else:
        lines = [f'{i},"{v}"' for i, v in zip(ids, z.tolist(), strict=True)]
        Path("in.csv").write_text("\n".join(["key,z", *lines]))


@pytest.mark.parametrize("ending", ["npz", "safetensors", "parquet", "jsonl", "csv"])
def test_every_kind_of_file_gets_the_verdicts_of_the_library(ending):
    write_inputs(ending)
    tables = ending in ("parquet", "jsonl", "csv")
    extra = ["--id-column", "key"] if tables else []
    assert (
        main(["judge", f"in.{ending}", *BASE[2:], *extra, "--batch-size", "20", "--out", "r.csv", "--quiet"])
        == 0
    )
    rows = rows_of("r.csv")
    evidence = [name for n in range(1, 6) for name in (f"evidence_{n}", f"evidence_{n}_probability")]
    assert list(rows[0]) == ["id", "label", "id_probability", "ood_score", "is_ood", *evidence, "error"]
    assert [row["id"] for row in rows] == [f"id-{row}" if tables else str(row) for row in range(61)]
    saved = tanl.load_bank("bank.safetensors")
    detector = tanl.TANL(saved.bank, initial_ood=saved.initial_ood, **tanl.TANL.preset("practice"))
    verdicts = [v for z in images(61).split(20) for v in tanl.detect_embeddings(detector, z)]
    for row, verdict in zip(rows, verdicts, strict=True):
        assert (row["label"], float(row["ood_score"])) == (verdict.label, verdict.ood_score)
        assert row["is_ood"] == str(verdict.is_ood).lower()
        pairs = [(row[f"evidence_{n}"], row[f"evidence_{n}_probability"]) for n in range(1, 6)]
        assert [(label, float(p)) for label, p in pairs if label] == [e[:2] for e in verdict.evidence]
    assert {row["is_ood"] for row in rows} == {"true", "false"}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_results_of_every_format_have_ids(ending):
    assert main([*BASE, "--out", f"r.{ending}", "--quiet"]) == 0
    if ending == "jsonl":
        rows = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    else:
        rows = pq.read_table("r.parquet").to_pylist()
    assert [row["id"] for row in rows] == [str(row) for row in range(61)]


@pytest.mark.parametrize("method", ["tanl", "neglabel", "adaneg", "mcm", "max_logit", "energy"])
def test_every_method_calibrated_by_embeddings(method, capsys):
    known = images(400, seed=7)[::2]
    np.save("known.npy", known.numpy())
    assert (
        main([*BASE, "--method", method, "--calibrate", "known.npy", "--tpr", "0.9", "--out", "r.csv"]) == 0
    )
    kept = [row["is_ood"] == "false" for row in rows_of("r.csv")[::2]]
    assert sum(kept) >= 24
    assert capsys.readouterr().out.startswith("61 embeddings: ")


def test_rows_that_cannot_be_used_keep_their_place(capsys):
    z = images(61)
    z[3, 5] = float("nan")
    z[60] = 0
    np.save("z.npy", z.numpy())
    assert main([*BASE, "--out", "r.csv"]) == 1
    rows = rows_of("r.csv")
    assert len(rows) == 61
    assert {i: row["error"] for i, row in enumerate(rows) if row["error"]} == {
        3: "the embedding has NaN or infinite values",
        60: "the embedding is all zeros",
    }
    out, err = capsys.readouterr()
    assert "2 unreadable; " in out
    assert err.splitlines()[0] == (
        "tanl: warning: cannot read embedding 3: the embedding has NaN or infinite values"
    )


def test_a_table_of_embeddings(capsys):
    assert main([*BASE, "--method", "mcm"]) == 0
    header, *rows, summary = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["id", "verdict", "score", "label"]
    assert {row.index("-") for row in rows} == {header.index("verdict")}
    assert [row.split()[0] for row in rows] == [str(row) for row in range(61)]
    assert summary.startswith("61 embeddings: 61 judged without a verdict (--calibrate sets a threshold); ")
    assert "embeddings/s" in summary


def test_long_vectors_are_normalised_when_asked(capsys):
    assert main([*BASE, "--out", "r.csv", "--quiet"]) == 0
    expected = [float(row["ood_score"]) for row in rows_of("r.csv")]
    np.save("z.npy", 13 * images(61).numpy())
    assert main([*BASE, "--out", "n.csv"]) == 2
    assert "row 0 has norm 13, not 1; add --normalize" in capsys.readouterr().err
    assert main([*BASE, "--out", "n.csv", "--normalize", "--quiet"]) == 0
    assert [float(row["ood_score"]) for row in rows_of("n.csv")] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_need_no_normalising(dtype):
    np.save("z.npy", images(61).numpy().astype(dtype))
    assert main([*BASE, "--out", "r.csv", "--quiet"]) == 0


def test_a_bank_without_outliers_is_enough():
    tanl.save_bank(tanl.load_bank("bank.safetensors").bank, "bank.safetensors")
    assert main([*BASE, "--out", "r.csv", "--quiet"]) == 0
    assert len(rows_of("r.csv")) == 61


def test_a_backbone_in_place_of_a_bank(monkeypatch, tiny_backbone, tmp_path):
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, *, device, precision: tiny_backbone)
    Path("words.txt").write_text("\n".join(f"word {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(40)))
    np.save("z.npy", unit(30, 24).numpy())
    labels = ["--label", "red", "--label", "green"]
    assert main(["bank", *labels, "--corpus", "words.txt", "--out", "b.safetensors", "--quiet"]) == 0
    assert main(["judge", "z.npy", "--bank", "b.safetensors", "--out", "bank.csv", "--quiet"]) == 0
    direct = ["judge", "z.npy", *labels, "--corpus", "words.txt", "--backbone", "some/model"]
    assert main([*direct, "--out", "direct.csv", "--quiet"]) == 0
    assert rows_of("bank.csv") == rows_of("direct.csv")
    with Path("words.txt").open("a") as file:
        file.write("\nscarlet\nemerald")
    for removal, same in (("synonyms", False), ("kinds", True)):
        assert main([*direct, "--removal", removal, "--out", "removed.csv", "--quiet"]) == 0
        assert (rows_of("removed.csv") == rows_of("direct.csv")) is same


MISTAKES = {
    "labels and a bank": (
        [*BASE, "--label", "a"],
        "--label contradicts --bank, which has labels; leave it out",
    ),
    "labels file and a bank": ([*BASE, "--labels", "a.txt"], "--labels contradicts --bank"),
    "corpus and a bank": ([*BASE, "--corpus", "wordnet"], "--corpus contradicts --bank"),
    "removal and a bank": ([*BASE, "--removal", "kinds"], "--removal contradicts --bank"),
    "backbone and a bank": ([*BASE, "--backbone", "mini"], "--backbone contradicts --bank"),
    "shuffled": ([*BASE, "--shuffle"], "--shuffle is for images: rows are read once"),
    "neither bank nor model": (["judge", "z.npy", "--label", "a"], "give --bank FILE"),
    "images with them": (["judge", "z.npy", "a.png", *BASE[2:]], "a.png is no file of embeddings (.npy, "),
    "images and a bank of no model": (
        ["judge", "photos", *BASE[2:]],
        "bank.safetensors does not say which model made it",
    ),
    "precision without a model": (
        [*BASE, "--precision", "fp16"],
        "--precision is the model's, and none is loaded",
    ),
    "a column of images": (["judge", "a.png", "--label", "a", "--column", "x"], "--column is for files of"),
    "images normalised": (["judge", "a.png", "--label", "a", "--normalize"], "--normalize is for files of"),
    "no such file": (["judge", "no.npy", *BASE[2:]], "no file no.npy"),
    "no such bank": (["judge", "z.npy", "--bank", "no.safetensors"], "no label bank no.safetensors"),
    "no bank": (["judge", "z.npy", "--bank", "z.npy"], "z.npy cannot be used as a label bank"),
    "another D": (["judge", "narrow.npy", *BASE[2:]], "narrow.npy has D = 15, but the label bank has D = 16"),
    "known of another D": ([*BASE, "--calibrate", "narrow.npy"], "narrow.npy has D = 15"),
    "known are images": ([*BASE, "--calibrate", "photos"], "photos is a folder without numbered parts"),
    "known are too few": (
        [*BASE, "--calibrate", "three.npy"],
        "--tpr 0.95 needs 19 usable embeddings to calibrate with, and three.npy has 3; give more, or a lower --tpr",
    ),
    "no negatives": (["judge", "z.npy", "--bank", "plain.safetensors"], "needs negative labels"),
    "several columns": (["judge", "two.npz", *BASE[2:]], "'a', 'b'; choose one with --column"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(capsys, case):
    arguments, message = MISTAKES[case]
    np.save("narrow.npy", unit(19, D - 1).numpy())
    np.save("three.npy", unit(3, D).numpy())
    np.savez("two.npz", a=unit(3, D).numpy(), b=unit(3, D).numpy())
    tanl.save_bank(tanl.LabelBank(NAMES[:7], unit(7, D), num_id=7), "plain.safetensors")
    Path("photos").mkdir()
    assert main([*arguments, "--out", "r.csv"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not list(Path.cwd().glob("r.csv*"))


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl", "csv"])
def test_too_few_embeddings_to_calibrate_with_are_refused_before_a_model_is_loaded(kind, monkeypatch, capsys):
    """Of 20 rows, where 19 are needed, two cannot be used; and where one cannot, the model is loaded."""
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("the model is loaded"))
    command = ["judge", "z.npy", "--label", "a", "--label", "b", "--backbone", "mini", "--out", "r.csv"]
    z = images(20).tolist()
    for unusable in (1, 2):
        z[unusable] = [0.0] * D
        if kind == "npy":
            np.save("known.npy", np.array(z, dtype=np.float32))
        elif kind == "parquet":
            pq.write_table(pa.table({"z": z}), "known.parquet")
        elif kind == "jsonl":
            Path("known.jsonl").write_text("".join(json.dumps({"z": row}) + "\n" for row in z))
        else:
            Path("known.csv").write_text("z\n" + "".join(f'"{row}"\n' for row in z))
        if unusable == 1:
            with pytest.raises(pytest.fail.Exception, match="the model is loaded"):
                main([*command, "--calibrate", f"known.{kind}"])
        else:
            assert main([*command, "--calibrate", f"known.{kind}"]) == 2
    assert capsys.readouterr().err == (
        f"tanl: error: --tpr 0.95 needs 19 usable embeddings to calibrate with, and known.{kind} has 18; give more, or "
        "a lower --tpr\n"
    )
    assert not list(Path.cwd().glob("r.csv*"))


def test_a_file_that_breaks_off_keeps_what_was_scored(capsys):
    write_inputs("jsonl")
    with Path("in.jsonl").open("a") as file:
        file.write("\n" + file.name)
    assert main(["judge", "in.jsonl", *BASE[2:], "--batch-size", "5", "--out", "r.csv"]) == 2
    assert "in.jsonl, line 62: not JSON" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_file():
    """In a process of its own, after small files of every kind, large ones raise the peak by less than their size."""
    kinds = ("npy", "npz", "safetensors", "parquet", "jsonl")
    for size, rows in (("small", 1_500), ("large", 15_000)):  # 3 and 31 MB
        z = np.full((rows, 512), 512**-0.5, dtype=np.float32)
        np.save(f"{size}.npy", z)
        np.savez(f"{size}.npz", z=z)
        save_file({"z": torch.from_numpy(z)}, f"{size}.safetensors")
        table = pa.table({"z": pa.FixedSizeListArray.from_arrays(z.ravel(), 512)})
        pq.write_table(table, f"{size}.parquet", use_dictionary=False, compression="none")
        Path(f"{size}.jsonl").write_text((json.dumps({"z": z[0].tolist()}) + "\n") * (rows // 20))
    code = (
        "import json, re, tanl\n"
        "peaks = []\n"
        "for size in ('small', 'large'):\n"
        f"    for kind in {kinds}:\n"
        "        for ids, z in tanl.read_embeddings(f'{size}.{kind}', batch_size=256): pass\n"
        "        status = open('/proc/self/status').read()\n"
        "        peaks.append(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024)\n"
        "print(json.dumps(peaks))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout)
    for kind, before, after in zip(kinds, peaks[4:9], peaks[5:], strict=True):
        assert after - before < 12, kind
