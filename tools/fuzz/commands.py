"""Area: command lines."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from PIL import Image

from tanl.cli.main import main
from tanl.labels.files import save_bank

from .detectors import bank
from .files import folder
from .values import unit
from .watch import Watch


@cache
def _place() -> Path:
    """A folder with one of all that a command may be given."""
    place = folder() / "commands"
    (place / "empty").mkdir(parents=True)
    save_bank(bank(), place / "bank.safetensors")
    np.save(place / "z.npy", unit(9).numpy())
    np.save(place / "other.npy", unit(9, 5).numpy())
    (place / "labels.txt").write_text("cat\ndog\n")
    (place / "labels.json").write_text(json.dumps(["cat", "dog"]))
    (place / "labels.csv").write_text("id,name\n0,cat\n1,dog\n")
    (place / "labels.yaml").write_text("names:\n  0: cat\n  1: dog\n")
    (place / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (place / "words.txt").write_text("blue\nchair\n")
    (place / "nothing.txt").write_text("")
    (place / "cut.parquet").write_bytes(b"PAR1\x00\x00")
    Image.new("RGB", (9, 9)).save(place / "a.png")
    (place / "b.png").write_bytes(b"\x89PNG")
    return place


_COMMANDS = [
    *(
        ["judge"],
        ["bank"],
        ["recover"],
        ["bench", "nothing"],
        ["bench", "table"],
        ["bench", "report"],
        ["bench", "list"],
    ),
    *(["bench", "run", "--id", "nowhere"], [], ["nothing"], ["--version"], ["--traceback", "judge"]),
]
_OPTIONS = [
    *("--labels", "--label", "--corpus", "--bank", "--column", "--id-column", "--normalize", "--backbone"),
    *("--method", "--batch-size", "--calibrate", "--tpr", "--device", "--recursive", "--no-recursive"),
    *("--shuffle", "--seed", "--out", "--evidence", "--quiet", "--traceback", "--help", "--id-embeddings"),
    *("--format", "--order", "--label-column", "--nothing", "--", "-", "-x"),
]
_WORDS = [
    *(
        "cat",
        "dog",
        "",
        " ",
        "3",
        "-1",
        "0",
        "nan",
        "inf",
        "0.5",
        "1e400",
        "99999999999999999999",
        "\x00",
        "~",
    ),
    *("~nobody/x", "s3://bucket/key", "cpu", "cuda:9", "meta", "nope", "neglabel", "mcm", "tanl", "wordnet"),
    *("hf:", "hf:../x", "a/b", "/", "/proc/self/mem", "/dev/null", "\u200b", "\ud800", "x" * 5000, "@file"),
    *("none", "csv", "brief", "../../x", "*", "id", "vector", "%s", "{}", "\u202e", "caf\xe9"),
]
_FILES = [
    *("z.npy", "other.npy", "bank.safetensors", "labels.txt", "labels.json", "labels.csv", "labels.yaml"),
    *(
        "latin.txt",
        "words.txt",
        "nothing.txt",
        "cut.parquet",
        "a.png",
        "b.png",
        "empty",
        "out.csv",
        "out.txt",
    ),
    *("out.parquet", "nowhere/out.csv", "missing"),
]


def command_lines(data: DataObject, watch: Watch) -> None:
    """Commands with options and values of any kind; no model is loaded."""
    place = _place()
    values = st.one_of(
        st.sampled_from(_WORDS), st.sampled_from([str(place / name) for name in _FILES]), st.text(max_size=5)
    )
    argv = list(data.draw(st.sampled_from(_COMMANDS)))
    if data.draw(st.booleans()) and argv == ["judge"]:
        argv += [str(place / "z.npy"), "--bank", str(place / "bank.safetensors")]
    for _ in range(data.draw(st.integers(0, 5))):
        option = data.draw(st.sampled_from(_OPTIONS))
        argv += data.draw(
            st.one_of(
                st.just([option]),
                st.builds(lambda v, o=option: [o, v], values),
                st.builds(lambda v: [v], values),
            )
        )
    if _would_load_a_model(argv):
        argv = ["judge", *argv[1:], "--backbone", "nope"]
    said, code = io.StringIO(), None
    what = f"tanl {argv!r}"

    def run() -> int:
        away = {"TANL_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
        with patch.dict(os.environ, away), redirect_stdout(said), redirect_stderr(said):
            try:
                return main(argv)
            except SystemExit as end:
                return int(end.code or 0)

    code = watch.call(what, run)
    if code is not None:
        watch.works(what, lambda: _is_told(code, said.getvalue(), argv))


def _would_load_a_model(argv: list[str]) -> bool:
    """Whether the command may get as far as a model, which would take most of the time."""
    return argv[:1] in (["judge"], ["bank"], ["--traceback"]) and "--bank" not in argv


def _is_told(code: Any, said: str, argv: list[str]) -> None:
    assert code in (0, 1, 2), f"exit code {code}"
    if code == 2:
        lines = [line for line in said.splitlines() if "error: " in line]
        assert len(lines) == 1, f"a mistake is told in {len(lines)} lines"
    if "--traceback" not in argv:
        assert "Traceback" not in said, "a traceback"


AREAS = {"command lines": command_lines}
