"""Text embeddings in the cache, text by text: what is embedded, what is kept, what goes on where it stopped."""

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_labels import CountingBackbone
from torch.nn.functional import normalize

import tanl
from conftest import unit
from tanl.io.tensors import read_tensors, write_tensors
from tanl.labels import embedding
from tanl.labels.embedding import embed_texts


def texts(count, first=0):
    return [f"text {i}" for i in range(first, first + count)]


def embed(backbone, asked, folder, **options):
    return embed_texts(backbone, asked, cache_dir=folder, **options)


def files(folder):
    return sorted((folder / "text").rglob("*.safetensors"))


@pytest.fixture
def small(monkeypatch):
    """Pieces and files of few texts."""
    monkeypatch.setattr(embedding, "_AT_ONCE", 10)
    monkeypatch.setattr(embedding, "_KEPT_ROWS", 30)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 30, 31, 101])
def test_texts_are_embedded_once_and_come_back_bit_for_bit(tmp_path, small, count):
    backbone = CountingBackbone()
    first = embed(backbone, texts(count), tmp_path)
    assert backbone.encoded == texts(count)
    assert len(files(tmp_path)) == -(-count // 30)
    again = embed(backbone, texts(count), tmp_path)
    assert torch.equal(again, first)
    assert torch.equal(first, CountingBackbone().encode_texts(texts(count)))
    assert backbone.encoded == texts(count)


def test_another_selection_costs_only_what_is_new(tmp_path):
    backbone = CountingBackbone()
    whole = embed(backbone, texts(50), tmp_path)
    assert torch.equal(embed(backbone, texts(50)[::-3], tmp_path), whole.flip(0)[::3])
    assert len(backbone.encoded) == 50
    more = embed(backbone, texts(20, first=40), tmp_path)
    assert backbone.encoded[50:] == texts(10, first=50)
    assert torch.equal(more[:10], whole[40:])


def test_a_text_that_is_asked_for_twice_is_embedded_once(tmp_path):
    backbone = CountingBackbone()
    rows = embed(backbone, ["b", "a", "b", "b", "c", "a"], tmp_path)
    assert backbone.encoded == ["b", "a", "c"]
    assert torch.equal(rows, CountingBackbone().encode_texts(["b", "a", "b", "b", "c", "a"]))


@pytest.mark.parametrize("odd", ["", "a\0b", "a\nb", "\udcff", "日本 café", '"', "\\", "x" * 10_000])
def test_any_text_is_found_again(tmp_path, odd):
    backbone = CountingBackbone()
    rows = (
        embed(backbone, [odd, "other text"], tmp_path) if odd else embed(backbone, ["a", odd + "b"], tmp_path)
    )
    again = embed(backbone, ["other text", odd] if odd else ["b", "a"], tmp_path)
    assert torch.equal(again, rows.flip(0))
    assert len(backbone.encoded) == 2


class Half:
    """Bits that depend on what is beside a text, as a model's do."""

    name, device, fingerprint = "batches", torch.device("cpu"), "h"

    def __init__(self):
        self.calls = 0

    def encode_texts(self, asked, *, batch_size=256):
        self.calls += 1
        rows = CountingBackbone().encode_texts(asked)
        return normalize(rows + 1e-7 * self.calls, dim=1)


def test_bits_of_a_text_are_those_of_its_first_embedding(tmp_path, small):
    backbone = Half()
    whole = embed(backbone, texts(40), tmp_path)
    assert not torch.equal(whole, Half().encode_texts(texts(40)))
    assert torch.equal(embed(backbone, texts(45), tmp_path)[:40], whole)


class Stopped(CountingBackbone):
    """Ends as it is told to, at the call that it is told."""

    def __init__(self, calls, error):
        super().__init__()
        self.left, self.error = calls, error

    def encode_texts(self, asked, *, batch_size=256):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().encode_texts(asked)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
@pytest.mark.parametrize("calls", [0, 1, 4, 7])
def test_a_run_goes_on_where_it_was_stopped(tmp_path, small, caplog, calls, error):
    with pytest.raises(type(error)):
        embed(Stopped(calls, error), texts(95), tmp_path)
    told = [record.getMessage() for record in caplog.records]
    assert told == ([f"{10 * calls} of 95 texts are kept; the next run goes on from there"] if calls else [])
    backbone = CountingBackbone()
    rows = embed(backbone, texts(95), tmp_path)
    assert backbone.encoded == texts(95)[10 * calls :]
    assert torch.equal(rows, CountingBackbone().encode_texts(texts(95)))


KILLED = """
import sys, time
from tanl.labels import embedding
from test_embed_texts import CountingBackbone, texts
embedding._AT_ONCE, embedding._KEPT_ROWS = 10, 30
class Slow(CountingBackbone):
    def encode_texts(self, asked, *, batch_size=256):
        time.sleep(0.03)
        print(len(self.encoded), flush=True)
        return super().encode_texts(asked)
embedding.embed_texts(Slow(), texts(100_000), cache_dir=sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_loses_what_was_not_written_alone(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while int(process.stdout.readline()) < 150:
        pass
    process.send_signal(number)
    said = [int(line) for line in process.communicate(timeout=60)[0].split()]
    done = (said or [150])[-1]
    backbone = CountingBackbone()
    rows = embed(backbone, texts(300), tmp_path)
    assert 300 - len(backbone.encoded) >= 120
    # A file holds three pieces; an interrupt keeps the pieces that were ready too.
    assert 300 - len(backbone.encoded) >= min(300, done) - (40 if number == signal.SIGKILL else 10)
    assert torch.equal(rows, CountingBackbone().encode_texts(texts(300)))


def work(folder, start, count, results):
    embedding._AT_ONCE, embedding._KEPT_ROWS = 7, 21
    backbone = Half()
    backbone.calls = start
    rows = embed_texts(backbone, texts(count, first=start), cache_dir=folder)
    results.put((start, rows.numpy()))  # a tensor would need its process


def test_processes_that_embed_at_once_agree_and_damage_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    jobs = [context.Process(target=work, args=(tmp_path, 50 * i, 150, results)) for i in range(2)]
    for job in jobs:
        job.start()
    found = dict(results.get(timeout=500) for _ in jobs)
    for job in jobs:
        job.join()
    nothing_new = CountingBackbone("h")
    kept = embed(nothing_new, texts(200), tmp_path)
    assert nothing_new.encoded == []
    for start, rows in found.items():
        torch.testing.assert_close(torch.from_numpy(rows), kept[start : start + 150], atol=1e-3, rtol=0)
    torch.testing.assert_close(kept, CountingBackbone().encode_texts(texts(200)), atol=1e-3, rtol=0)


def test_what_another_process_keeps_meanwhile_is_not_embedded_again(tmp_path, small):
    other = CountingBackbone()

    class Beside(CountingBackbone):
        def encode_texts(self, asked, *, batch_size=256):
            if not self.encoded:
                embed(other, texts(60, first=30), tmp_path)
            return super().encode_texts(asked)

    backbone = Beside()
    rows = embed(backbone, texts(100), tmp_path)
    assert backbone.encoded == texts(30) + texts(10, first=90)
    assert torch.equal(rows, CountingBackbone().encode_texts(texts(100)))


def test_the_embedding_that_was_kept_first_counts_for_everyone(tmp_path, small):
    class Beside(Half):
        def encode_texts(self, asked, *, batch_size=256):
            rows = super().encode_texts(asked)
            if self.calls == 1:
                other = Half()
                other.calls = 50
                embed(other, asked, tmp_path)
            return rows

    rows = embed(Beside(), texts(10), tmp_path)
    assert torch.equal(rows, embed(Half(), texts(10), tmp_path))
    other = Half()
    other.calls = 50
    assert torch.equal(rows, other.encode_texts(texts(10)))


# What another program, or a tanl with a fault, may have written with a checksum that fits.
MISFITS = {
    "too few rows": (lambda z: z[:-1], r"it holds embeddings \[29, 40\], not 30 rows"),
    "another rank": (lambda z: z.flatten(), "not 30 rows"),
    "long rows": (lambda z: 2 * z, "row 0 has norm 2, not 1"),
    "NaN": (lambda z: z.index_fill(0, torch.tensor(5), float("nan")), "row 5 has norm nan, not 1"),
    "whole numbers": (lambda z: z.long(), "it holds torch.int64"),
    "half precision": (lambda z: z.half(), "it holds torch.float16, not float32"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_is_named_and_made_again(tmp_path, case):
    change, message = MISFITS[case]
    backbone = CountingBackbone()
    whole = embed(backbone, texts(30), tmp_path)
    (path,) = files(tmp_path)
    tensors, about = read_tensors(path)
    write_tensors(path, {"embeddings": change(tensors["embeddings"])}, about)
    with pytest.warns(
        UserWarning, match=f"^{re.escape(str(path))} cannot be used: .*{message}.*embedded again"
    ):
        assert torch.equal(embed(backbone, texts(30), tmp_path), whole)
    assert len(backbone.encoded) == 60
    assert torch.equal(embed(backbone, texts(30), tmp_path), whole)
    assert len(backbone.encoded) == 60


@pytest.mark.parametrize("note", ["texts", "key"])
def test_notes_that_are_missing_or_of_another_model_are_found_out(tmp_path, note):
    backbone = CountingBackbone()
    whole = embed(backbone, texts(5), tmp_path)
    (path,) = files(tmp_path)
    tensors, about = read_tensors(path)
    write_tensors(
        path, tensors, {k: v for k, v in about.items() if k != note} | ({"key": "0"} if note == "key" else {})
    )
    with pytest.warns(UserWarning, match="cannot be used: .*(lack|something else)"):
        assert torch.equal(embed(backbone, texts(5), tmp_path), whole)


def test_files_that_hold_nothing_wanted_are_not_read_whole(tmp_path, monkeypatch):
    backbone = CountingBackbone()
    embed(backbone, texts(50), tmp_path)
    embed(backbone, ["another"], tmp_path)
    read = []
    monkeypatch.setattr(
        "tanl.io.text_store.read_tensors", lambda path: read.append(path) or read_tensors(path)
    )
    embed(backbone, ["another"], tmp_path)
    assert read == [files(tmp_path)[1]]


def test_models_of_one_fingerprint_and_other_widths_are_refused(tmp_path):
    embed(CountingBackbone(), ["a"], tmp_path)

    class Narrow(CountingBackbone):
        def encode_texts(self, asked, *, batch_size=256):
            return unit(len(asked), 8)

    with pytest.raises(ValueError, match="letters gives D = 8, but the cache has D = 40"):
        embed(Narrow(), ["a", "b"], tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), 0.0, 2.0])
def test_embeddings_that_are_no_unit_rows_are_not_kept(tmp_path, bad):
    class Bad(CountingBackbone):
        def encode_texts(self, asked, *, batch_size=256):
            return super().encode_texts(asked) * bad

    with pytest.raises(ValueError, match="label embeddings: row 0"):
        embed(Bad(), ["a", "b"], tmp_path)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, small):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="could not be kept in") as told:
        rows = embed(CountingBackbone(), texts(100), tmp_path / "file")
    assert len(told) == 1
    assert torch.equal(rows, CountingBackbone().encode_texts(texts(100)))


def test_long_work_is_told_from_its_first_texts_on(tmp_path, small, monkeypatch, caplog, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(CountingBackbone):
        def encode_texts(self, asked, *, batch_size=256):
            now[0] += 1.2 * len(asked)
            return super().encode_texts(asked)

    def cheaper():
        return "corpus 'small'", 50

    embed(Slow(), texts(500), tmp_path, cheaper=cheaper)
    (estimate,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert estimate == (
        "490 texts to embed with letters: about 10 min on this processor, once; they are kept in "
        f"{tmp_path}; corpus 'small' takes 60 s"
    )
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert lines == []
    caplog.set_level(logging.INFO, logger="tanl")
    embed(Slow(), texts(500, first=500), tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert re.fullmatch(r"embedding texts: \d+ of 500 texts in \d+ s, about \d+ min to go", lines[0])
    assert len(lines) == 10
    caplog.clear()
    embed(Slow(), texts(500, first=1000), tmp_path, progress=False)
    assert (caplog.records, capsys.readouterr()) == ([], ("", ""))
    embed(Slow(), texts(500, first=1500), tmp_path, progress=True)
    assert caplog.records == []
    assert capsys.readouterr().err.startswith("tanl: 490 texts to embed with letters: about 10 min")


def test_quick_work_is_silent(tmp_path, caplog, capsys):
    embed(CountingBackbone(), texts(2000), tmp_path, progress=True)
    assert (caplog.records, capsys.readouterr()) == ([], ("", ""))


def test_a_smaller_corpus_and_an_edited_one_cost_nothing(tmp_path):
    backbone = CountingBackbone()
    words = [*texts(90), "puppy", "kitten"]
    tanl.build_bank(backbone, ["dog"], corpus=words, cache_dir=tmp_path)
    backbone.encoded.clear()
    bank = tanl.build_bank(backbone, ["cat"], corpus=words[::-2], cache_dir=tmp_path)
    assert backbone.encoded == ["The nice cat."]
    guard = tanl.Guard(backbone, ["cat"], corpus=words, method=tanl.MaxLogit, cache_dir=tmp_path)
    guard.remove_negatives([bank.negative_names[0]])
    guard.add_labels(["dog"])
    backbone.encoded.clear()
    tanl.build_bank(backbone, guard.bank.id_names, corpus=guard.corpus, cache_dir=tmp_path)
    assert backbone.encoded == ["The nice cat.", "The nice dog."]


def test_a_file_is_what_it_says(tmp_path):
    backbone = CountingBackbone()
    whole = embed(backbone, texts(5), tmp_path)
    (path,) = files(tmp_path)
    tensors, about = read_tensors(path)
    assert torch.equal(tensors["embeddings"], whole)
    assert json.loads(about["texts"]) == texts(5)
    assert about["backbone"] == "letters"
