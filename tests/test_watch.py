"""``tanl watch`` as a process: files that arrive in pieces, stops, kills, and what the next run makes of them."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

import tanl
from conftest import with_signals
from tanl.cli.main import main
from tanl.io.image_files import find_images
from tanl.streams.result_files import continue_results

PICTURES = find_images(files("tanl.benchmarks") / "pictograms" / "images")[::40][:40]
WORDS = ("car", "house", "tree", "boat", "train", "flag", "apple", "bread", "hammer", "cup", "ball", "hat")
PATIENCE = 120.0  # seconds, on a machine that does other things too


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    Path("incoming").mkdir()
    Path("labels.txt").write_text("mammal\nbird\nreptile\nbug\n")
    Path("corpus.txt").write_text(
        "\n".join(
            [
                "car",
                "house",
                "tree",
                "boat",
                "train",
                "flag",
                "apple",
                "bread",
                "hammer",
                "cup",
                "ball",
                "hat",
            ]
        )
    )
    return tmp_path


class Watching:
    """A process that watches ``incoming`` and writes results.csv."""

    def __init__(self, *options, before=""):
        self.err = Path(f"err-{time.monotonic_ns()}.txt")
        command = [
            "watch",
            "incoming",
            "--labels",
            "labels.txt",
            "--corpus",
            "corpus.txt",
            "--out",
            "results.csv",
        ]
        command += ["--guard", "guard", "--interval", "0.1", "--settle", "0.3", "--max-wait", "0.2", *options]
        with self.err.open("w") as err, Path("out.txt").open("w") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"{before}\nfrom tanl.cli.main import main\nraise SystemExit(main())",
                    *command,
                ],
                stdout=out,
                stderr=err,
                preexec_fn=with_signals,
            )
        self.wait_for(lambda: "watching incoming" in self.told())

    def told(self):
        return self.err.read_text()

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def watch():
    """Starts processes, and leaves none behind."""
    started = []

    def start(*options, **others):
        started.append(Watching(*options, **others))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def journal():
    """What is written so far: how often each file is there, by its name."""
    found = Counter()
    path = Path("results.csv.watch.partial")
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if line.startswith(b"[") and line.endswith(b"\n"):
            found[Path(json.loads(line.rpartition(b"\t")[0])[0]).name] += 1
    return found


def rows():
    with Path("results.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def arrive(picture):
    """As a careful writer does it: under another name first."""
    part = Path("incoming", f"{picture.name}.part")
    part.write_bytes(picture.read_bytes())
    part.rename(part.with_suffix(""))


def test_files_that_arrive_in_pieces_are_judged_once_and_whole(watch):
    first, slow, last = PICTURES[:3]
    arrive(first)
    watching = watch("--settle", "3")
    content = slow.read_bytes()
    with Path("incoming", slow.name).open("wb", buffering=0) as file:
        for place in range(0, len(content), len(content) // 8):
            file.write(content[place : place + len(content) // 8])
            time.sleep(0.25)  # far longer than the interval, far shorter than it has to stay as it is
    arrive(last)
    watching.wait_for(lambda: len(journal()) == 3)
    assert watching.end() == 0
    assert journal() == {picture.name: 1 for picture in (first, slow, last)}
    assert {name: row["error"] for name, row in rows().items()} == dict.fromkeys(journal(), "")
    assert "3 images: " in watching.told()
    assert Path("out.txt").read_text().count("\n") == 4


def test_the_next_run_goes_on_after_an_end_and_after_a_kill(watch):
    batches = [PICTURES[:10], PICTURES[10:20], PICTURES[20:30]]
    for number, (batch, end) in enumerate(
        zip(batches, (signal.SIGINT, signal.SIGKILL, signal.SIGTERM), strict=True)
    ):
        watching = watch()
        assert ("were judged before" in watching.told()) is (number > 0)
        for picture in batch:
            arrive(picture)
        watching.wait_for(lambda: len(journal()) == 10 * (number + 1))  # noqa: B023, it is waited for here
        assert watching.end(end) == (-signal.SIGKILL if end == signal.SIGKILL else 0)
    assert journal() == {picture.name: 1 for picture in PICTURES[:30]}
    assert len(rows()) == 30
    # What the killed run learnt after it last kept its guard is lost, what the others learnt is not.
    seen = tanl.Guard.load("guard", exact=False).detector.memory_report().images
    assert seen in (20, 30)


def test_results_and_guard_are_kept_while_it_runs(watch):
    watching = watch("--save-every", "0.1")
    arrive(PICTURES[0])
    watching.wait_for(lambda: Path("guard", "guard.json").exists())
    assert list(rows()) == [PICTURES[0].name]
    watching.end(signal.SIGKILL)
    assert tanl.Guard.load("guard", exact=False).detector.memory_report().images == 1


def test_a_broken_file_keeps_a_row_and_is_judged_again_when_it_is_mended(watch):
    picture = PICTURES[0]
    Path("incoming", picture.name).write_bytes(picture.read_bytes()[:100])
    watching = watch()
    watching.wait_for(lambda: journal()[picture.name] == 1)
    arrive(picture)
    watching.wait_for(lambda: journal()[picture.name] == 2)
    assert watching.end() == 1
    assert rows()[picture.name]["error"] == ""  # the later row
    assert f"tanl: warning: cannot read incoming/{picture.name}: " in watching.told()


def test_a_flood_of_one_picture_is_warned_of(watch):
    """With a monitor that looks at fewer images: after 16 that differ come 12 that hardly do."""
    code = "from tanl.guard import monitor; monitor.WINDOW, monitor.REFERENCE, monitor.EVERY = 8, 16, 4"
    watching = watch("--batch-size", "4", "--quiet", before=code)
    for picture in PICTURES[:16]:
        arrive(picture)
    watching.wait_for(lambda: len(journal()) == 16)
    for number in range(12):
        Path("incoming", f"same-{number}.webp").write_bytes(PICTURES[0].read_bytes())
    watching.wait_for(lambda: len(journal()) == 28)
    assert watching.end() == 0
    assert "tanl: warning: flood: the latest 8 images resemble each other" in watching.told()


BASE = ["watch", "incoming", "--labels", "labels.txt", "--corpus", "corpus.txt", "--out", "results.csv"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["watch", "nowhere", *BASE[2:]], "there is no folder nowhere to watch; make it first"),
        ([*BASE[:2], "--out", "results.csv"], "no labels: give --labels FILE"),
        ([*BASE[:-1], "results.txt"], "results are written as .csv"),
        ([*BASE, "--tpr", "0.9"], "give --calibrate too"),
        ([*BASE, "--calibrate", "nothing"], "there is no file or directory nothing"),
        ([*BASE, "--guard", "s3://bucket/guard"], "is an address"),
        ([*BASE, "--settle", "-1"], "'-1' is not a number of at least 0"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_before_anything_is_loaded(
    arguments, told, monkeypatch, capsys
):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    try:
        assert main(arguments) == 2
    except SystemExit as stop:  # of the parser
        assert stop.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert not Path("results.csv.watch.partial").exists()


def test_results_that_another_run_writes_are_refused(capsys):
    with continue_results("results.csv"):
        assert main(BASE) == 2
    assert "is being written by another run" in capsys.readouterr().err


def test_a_kept_guard_goes_on_with_its_own_labels_and_says_so(watch):
    for name in ("mammal", "house"):
        Path("labels.txt").write_text(name)
        watching = watch("--removal", {"mammal": "kinds", "house": "names"}[name])
        arrive(PICTURES[0] if name == "mammal" else PICTURES[1])
        watching.wait_for(lambda: len(journal()) == (1 if name == "mammal" else 2))  # noqa: B023
        watching.end()
    assert "tanl: warning: the guard's labels: 'mammal', not 'house'; leave --labels out" in watching.told()
    assert "tanl: warning: the guard's removal: kinds, not names; leave --removal out" in watching.told()
    kept = tanl.Guard.load("guard", exact=False)
    assert kept.bank.id_names == ("mammal",)
    assert kept.removal == "kinds"


def test_settings_are_kept_with_the_guard_and_told_with_the_results(watch):
    chosen = ["--method", "tanl-paper", "--set", "gap=0.5"]
    for number, options in enumerate((chosen, [])):
        watching = watch(*options)
        arrive(PICTURES[number])
        watching.wait_for(lambda: len(journal()) == number + 1)  # noqa: B023, it is waited for here
        assert watching.end() == 0
        assert "Guard(tanl-paper with gap=0.5, 4 ID labels, " in watching.told()
        about = json.loads(Path("results.csv.json").read_text())
        assert (about["method"], about["settings"]["gap"]) == ("tanl-paper", 0.5)
    assert tanl.Guard.load("guard", exact=False).method == ("tanl-paper", {"gap": 0.5})


def test_a_threshold_is_set_from_a_folder(watch):
    for number in range(20):
        Path("known").mkdir(exist_ok=True)
        Path("known", f"{number}.webp").write_bytes(PICTURES[number].read_bytes())
    watching = watch("--calibrate", "known", "--tpr", "0.9")
    arrive(PICTURES[30])
    watching.wait_for(lambda: len(journal()) == 1)
    watching.end()
    assert "from 20 images of known, so that 90% of such pass" in watching.told()
    assert tanl.Guard.load("guard", exact=False).detector.tpr == 0.9
