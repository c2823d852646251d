"""Files that the benchmarks' commands are told to write: refused before anything is measured."""

from pathlib import Path

import pytest

from tanl import backbones
from tanl.benchmarks.output.targets import check_targets
from tanl.cli.main import main
from tools import __main__ as studies

COMMANDS = {
    "trust": (main, ["bench", "trust"]),
    **{name: (studies.main, [name]) for name in studies.STUDIES},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", ["there", "missing/figures.json"])
def test_commands_refuse_before_they_load_a_model(command, target, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("too early")

    monkeypatch.setattr(backbones, "load_backbone", refuse)
    monkeypatch.setattr("open_clip.create_model_and_transforms", refuse)
    (tmp_path / "there").mkdir()
    run, words = COMMANDS[command]
    assert run([*words, "--json", str(tmp_path / target)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / target} can't be written: it is a folder, or its folder doesn't exist" in error
    assert error.count("\n") == 1


def test_a_new_file_an_old_one_and_none_are_taken(tmp_path: Path):
    old = tmp_path / "old.json"
    old.write_text("{}")
    check_targets(old, tmp_path / "new.json", None)
    assert old.read_text() == "{}"
