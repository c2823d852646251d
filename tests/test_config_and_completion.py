"""``--config``, ``tanl completion`` and ``tanl doctor``."""

import re
import shutil
import subprocess

import pytest
from colour_backbone import ColourBackbone, paint

from tanl.cli.main import command_names, command_parser, main

CONFIG = """
[judge]
label = ["red", "green"]
corpus = "words.txt"
backbone = "some/model"
method = "neglabel"
batch-size = 7
evidence = 3
shuffle = true
recursive = false
tpr = 0.9
calibrate = "known"

[bench.run]
seeds = [4, 5]
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tanl.toml").write_text(CONFIG)
    return tmp_path


def parsed(*argv):
    return command_parser(argv).parse_args(argv)


# --- config ----------------------------------------------------------------------------------------------------------


def test_options_come_from_the_file_as_from_the_command_line(workplace):
    typed = parsed(
        *("judge", "photos", "--label", "red", "--label", "green", "--corpus", "words.txt", "--backbone"),
        *("some/model", "--method", "neglabel", "--batch-size", "7", "--evidence", "3", "--shuffle"),
        *("--no-recursive", "--tpr", "0.9", "--calibrate", "known"),
    )
    read = parsed("judge", "photos", "--config", "tanl.toml")
    assert {**vars(read), "config": None} == vars(typed)


def test_the_command_line_counts_more(workplace):
    read = parsed(
        *("judge", "photos", "--config=tanl.toml", "--batch-size", "9", "--method", "tanl", "--recursive"),
        *("--label", "blue"),
    )
    assert (read.batch_size, read.method, read.recursive) == (9, "tanl", True)
    assert read.label == ["blue"]
    for options, same in (([], ["--seeds", "4", "5"]), (["--seeds", "1"], ["--seeds", "1"])):
        read = parsed("bench", "run", "--config", "tanl.toml", *options)
        assert {**vars(read), "config": None} == vars(parsed("bench", "run", *same))


def test_what_the_command_needs_may_be_in_the_file(workplace):
    (workplace / "tanl.toml").write_text('[bank]\nout = "b.safetensors"\n')
    assert str(parsed("bank", "--config", "tanl.toml", "--label", "a").out) == "b.safetensors"


def test_a_run_with_a_file(workplace, monkeypatch):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, **_: ColourBackbone())
    for index in range(30):
        paint(workplace / "photos" / f"{index}.png", ("red", "blue", "green")[index % 3])
        paint(workplace / "known" / f"{index}.png", ("red", "green")[index % 2])
    (workplace / "words.txt").write_text("blue\nyellow\n" + "".join(f"word {i}\n" for i in range(40)))
    assert main(["judge", "photos", "--config", "tanl.toml", "--out", "r.csv", "--quiet"]) == 0
    assert '"batch_size": 7' in next(workplace.glob("r*.json")).read_text()


MISTAKES = {
    "no file": (None, "nowhere.toml: No such file"),
    "no TOML": ("[judge", "tanl.toml is no TOML file"),
    "no table": ("[bank]\n", "tanl.toml has no table [judge]"),
    "no option": ('[judge]\nlables = "a"\n', "tanl.toml: no option 'lables' here; did you mean 'labels'?"),
    "no number": (
        '[judge]\nbatch-size = "many"\n',
        "tanl.toml: batch-size = 'many': 'many' is not a whole number",
    ),
    "no choice": ('[judge]\nmethod = "neglable"\n', "tanl.toml: method = 'neglable': choose from tanl, "),
    "no list": ('[judge]\nmethod = ["tanl"]\n', "this option has one value, not a list"),
    "no flag": ('[judge]\nshuffle = "yes"\n', "shuffle = 'yes': this option is true or false"),
    "a flag for a text": ("[judge]\nout = true\n", "out = True: this option is a text or a number"),
    "an address": ('[judge]\nlabels = "s3://a/b"\n', "s3://a/b is an address"),
    "a file in a file": ('[judge]\nconfig = "a"\n', "no option 'config' here"),
    "a value for a table": ("judge = 3\n", "judge must be a table, [judge]"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_the_file_are_one_line(workplace, capsys, case):
    content, message = MISTAKES[case]
    name = "nowhere.toml" if content is None else "tanl.toml"
    if content is not None:
        (workplace / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["judge", "photos", "--config", name])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err


# --- completion ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts():
    import contextlib
    import io

    found = {}
    for shell in ("bash", "zsh", "fish"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["completion", shell]) == 0
        found[shell] = out.getvalue()
    return found


ASKED = {
    "jud": {"judge"},
    "": {name for name, *_ in command_names()},
    "bench ": {name for first, *rest in command_names() if first == "bench" for name in rest},
    "bench r": {"run", "report"},
    "judge --cali": {"--calibrate"},
    "judge photos --method ad": {"adaneg"},
    "judge --method ": {"tanl", "neglabel", "csp", "mcm", "energy"},
    "cache --b": {"--backbone"},
    "judge pho": {"photos"},
    "bench run --seeds": {"--seeds"},
    "--ver": {"--version"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("line", ASKED)
def test_bash_completes(workplace, scripts, line):
    (workplace / "photos").mkdir()
    words = ["tanl", *line.split(" ")]
    script = (
        f"{scripts['bash']}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f'COMP_CWORD={len(words) - 1}\n_tanl\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-u", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert ASKED[line] <= set(done.stdout.split())
    if line in (
        "jud",
        "bench r",
        "judge --cali",
        "judge photos --method ad",
        "judge pho",
        "bench run --seeds",
    ):
        assert set(done.stdout.split()) == ASKED[line]


def test_every_command_and_option_is_in_every_script(scripts):
    for command in command_names():
        options = command_parser(command).below(command).options()
        assert "--help" in options
        for option in (each for each in options if each.startswith("--")):
            assert re.search(rf"{option}\b", scripts["bash"])
            assert f"-l {option[2:]}" in scripts["fish"]
    assert scripts["zsh"].splitlines()[1:] == scripts["bash"].splitlines()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(scripts, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    path = tmp_path / "script"
    path.write_text(scripts[shell])
    subprocess.run([shell, "-n", str(path)], check=True)


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_tells_what_is_here(workplace, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for pattern in (
        r"^tanl +\d+\.\d+\.\d+, Python 3\.",
        r"^packages +torch \d+\.\d+.*, open_clip_torch \d",
        r"^cpu +\d+ cores, of which torch uses \d+$",
        r"^ +native, for the cpu: (yes, with the instructions \w+|no: the native extension was not compiled)",
        r"^ +triton, for the cuda: ",
        r"^extra +faiss: (yes|no, pip install 'tanl\[faiss\]')$",
    ):
        assert re.search(pattern, out, re.MULTILINE), pattern
    assert f"cache     {workplace / 'cache'}, 0 MB\n" in out


def test_doctor_measures_a_backbone(workplace, capsys, monkeypatch):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, **_: ColourBackbone())
    assert main(["doctor", "--backbone", "some/model"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ +\d+ texts/s, \d+ images/s prepared and encoded", out, re.MULTILINE)
    assert re.search(r"^ +corpus wordnet: 136139 texts, 0 of them kept; \d+ \w+ to embed$", out, re.MULTILINE)


def test_doctor_counts_what_is_kept(workplace, capsys, monkeypatch):
    from tanl.labels.build import label_prompts
    from tanl.labels.corpus import Corpus
    from tanl.labels.embedding import embed_texts

    backbone = ColourBackbone()
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, **_: backbone)
    embed_texts(backbone, label_prompts((), Corpus.load("wordnet"), None)[:300])
    assert main(["doctor", "--backbone", "some/model"]) == 0
    assert "136139 texts, 300 of them kept;" in capsys.readouterr().out


def test_doctor_refuses_a_device_that_is_not_here(workplace, capsys):
    assert main(["doctor", "--backbone", "mini", "--device", "cuda:97"]) == 2
    out_err = capsys.readouterr().err
    assert "no device 'cuda:97' here: " in out_err
    assert "need no network" not in out_err
