"""The speed benchmark: the naive step is right, and the runner works from end to end. No test asserts a speed."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tanl
from conftest import golden
from tanl import kernels
from tanl.functional import otsu_threshold
from tools import __main__ as studies
from tools.speed import chart, command, measure, memory, report, run
from tools.speed.config import Config, Spec
from tools.speed.contenders import onednn_product
from tools.speed.data import Features
from tools.speed.measure import CaseResult, Measured
from tools.speed.naive import NaiveTANL, otsu_by_masks, prefixes, scoring_flop
from tools.speed.process import InProcess, OwnProcess, ask, open_worker
from tools.speed.roofline import Roofline, gpu_row
from tools.speed.targets import judge

TINY = Config(
    labels=(130, 300),
    selected=(20,),
    steps=(1,),
    capacities=(5, 40),
    capacity=17,
    batch=24,
    dim=32,
    num_id=11,
    repeats=2,
)
TINY_OPTIONS = ["--selected", "20", "--batch", "160", "--dim", "32", "--classes", "11", "--threads", "1"]


def silent(line: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def tiny() -> run.Result:
    """A whole run of tiny cases in this process."""
    return run.run(TINY, connect=InProcess, log=silent)


@pytest.fixture(autouse=True)
def own_thread_count():
    """Workers set the number of threads; in this process it is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("capacity", [9, 70])
def test_naive_step_gives_tanls_scores(monkeypatch, step, capacity):
    monkeypatch.setenv("TANL_KERNELS", "reference")
    features = Features(num_id=30, num_negatives=403, dim=48, batch=63, seed=3)
    labels = features.labels()
    bank = tanl.LabelBank([str(i) for i in range(len(labels))], labels, num_id=30)
    settings = {"num_selected": 50, "step": step, "gap": 0.2, "alpha": 0.95, "capacity": capacity, "seed": 0}
    ours = tanl.TANL(bank, **settings, initial_ood=features.known_ood)
    naive = NaiveTANL(labels, num_id=30, scale=100.0, **settings, initial_ood=features.known_ood)
    pushed = [min(capacity, 30), min(capacity, len(features.known_ood))]  # what the rings start with
    for index in range(6):
        z = features.batch(index)
        torch.testing.assert_close(naive(z), ours(z), atol=1e-5, rtol=0)
        pushed = [a + b for a, b in zip(pushed, naive.confident, strict=True)]
    assert min(pushed) > capacity  # both rings have evicted
    assert len(naive.positive) == len(ours.state.positive)
    assert len(naive.negative) == len(ours.state.negative)
    torch.testing.assert_close(
        naive.negative.mean(dim=0), ours.state.negative.mean.float(), atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["aware_score_batch", "aware_score_step7_batch", "plain_score_distribution"])
def test_naive_step_matches_published_stream(name):
    case = golden(name)
    naive = NaiveTANL(
        torch.cat([case["id_text"], case["negative_text"]]),
        num_id=len(case["id_text"]),
        scale=case["logit_scale"],
        num_selected=case["num_negatives"],
        step=case["step"],
        gap=case["gap"],
        alpha=case["alpha"],
        capacity=case["queue_length"],
        seed=None,
        initial_ood=case["noise_features"],
    )
    for batch, expected in enumerate(case["scores"]):
        torch.testing.assert_close(1 - naive(case["images"][batch]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 63, 1003])
def test_naive_otsu_is_the_histograms(count):
    generator = torch.Generator().manual_seed(count)
    for _ in range(5):
        scores = torch.rand(count, generator=generator) ** 3
        assert otsu_by_masks(scores) == otsu_threshold(scores)


def test_prefixes_end_with_all_selected():
    assert prefixes(5, 0) == [5]
    assert prefixes(5, 1) == [1, 2, 3, 4, 5]
    assert prefixes(5, 2) == [2, 4, 5]
    assert prefixes(4, 7) == [4]


def test_features_are_unit_rows_that_depend_on_the_seed_alone():
    first, again, other = (Features(11, 130, 32, 24, seed) for seed in (0, 0, 1))
    for make in (Features.labels, lambda features: features.batch(5), lambda features: features.known_ood):
        torch.testing.assert_close(make(first).norm(dim=1), torch.ones(len(make(first))))
        assert torch.equal(make(first), make(again))
        assert not torch.equal(make(first), make(other))
    assert not torch.equal(first.batch(0), first.batch(1))


def test_about_240_of_256_rows_are_confident():
    """At M = 2000 in place of the table's M, to be quick: the share of unsure images hardly depends on it."""
    config = Config(labels=(2000,), selected=(400,), steps=(1,), curves=False, repeats=4)
    (case,) = config.table
    result = measure.measure(case, [Spec("tanl", "reference")], repeats=4, connect=InProcess, profiled=1)
    (ours,) = result.contenders
    assert ours.rings_full
    for id_rows, ood_rows in ours.confident:
        assert 220 < id_rows + ood_rows < 252
        assert min(id_rows, ood_rows) > 60


def test_run_measures_every_case_and_curve(tiny):
    assert [(r.case.labels, r.case.selected, r.case.step) for r in tiny.table] == [(130, 20, 1), (300, 20, 1)]
    assert [r.case.labels for r in tiny.labels_curve] == [43, 150, 600, 1200]
    assert [r.case.capacity for r in tiny.capacity_curve] == [5, 40]
    assert tiny.backends == kernels.available("cpu")
    for result in tiny.table:
        assert [one.spec.kind for one in result.contenders] == [
            "bare",
            "naive",
            *["tanl"] * len(tiny.backends),
        ]
    for result in (*tiny.table, *tiny.labels_curve, *tiny.capacity_curve):
        for one in result.contenders:
            assert one.note is None
            assert all(len(values) == TINY.repeats for values in one.seconds.values())
            assert one.rings_full is (None if one.spec.kind == "bare" else True)
            assert one.peak_bytes is None or one.peak_bytes >= 0
    assert tiny.failed == []


def test_contenders_see_the_same_batches(tiny):
    for result in tiny.table:
        counts = [one.confident for one in result.contenders if one.spec.kind != "bare"]
        assert all(count == counts[0] for count in counts)
        assert all(0 < a + b <= TINY.batch for a, b in counts[0])


def test_breakdown_adds_up_to_the_step(tiny):
    for result in tiny.table:
        for one in result.contenders:
            if one.spec.kind == "tanl":
                parts = {name: seconds for name, seconds in one.breakdown.items() if name != "step"}
                assert sum(parts.values()) == pytest.approx(one.breakdown["step"])
                assert sum(parts.values()) - parts["rest"] <= one.breakdown["step"]
                assert parts["exp_store"] + parts["segment_colsum"] > 0
                assert parts["prefix_share"] > 0 and parts["products"] > 0 and parts["gathers"] > 0
                assert one.moved_bytes >= 4 * TINY.dim * (TINY.num_id + result.case.labels)


def test_report_names_everybody_and_says_what_was_not_measured(tiny, monkeypatch):
    text = report.format_report(tiny)
    for name in (
        "rows x labels",
        "labels x rows",
        "labels x rows, oneDNN",
        "x mm",
        "naive step",
        "tanl reference",
        "exp_store",
        "against L",
    ):
        assert name in text
    assert "M = 300, K = 20, q = 1, L = 17" in text
    main = next(line for line in text.splitlines() if "reference / bare product" in line)
    assert "not measured" in main and main.endswith("-")


def test_without_cuda_gpu_rows_say_not_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = Config(
        labels=(65,), selected=(5,), steps=(1,), capacity=3, batch=5, dim=8, num_id=3, repeats=1, curves=False
    )
    result = run.run(config, connect=InProcess, log=silent)
    assert result.gpu is None
    assert "GPU: not measured (no CUDA device)" in report.format_report(result)
    assert result.as_json()["gpu"] == "not measured"


def test_gpu_rows_have_bandwidth_and_share_of_the_roofline():
    """The code of the GPU's rows, on contenders of the CPU."""
    case = TINY.case(300, 20, 1)
    result = measure.measure(
        case,
        [Spec("bare"), Spec("naive"), Spec("tanl", "reference")],
        repeats=2,
        connect=InProcess,
    )
    roofline = Roofline("a device", 1e12, 1e9, "a test")
    lines = report.gpu_lines([result], roofline)
    assert "GB/s" in lines[7] and lines[7].endswith("of roofline")
    assert lines[6].startswith("  at best, float16 labels: 20 us for the roofline")
    ours = result.find("tanl", "reference")
    row = gpu_row(case, ours, roofline)
    assert row.share == pytest.approx(311 * 32 * 4 / 1e9 / row.seconds)
    assert row.bytes_per_second == pytest.approx(ours.moved_bytes / row.seconds)


def test_roofline_is_the_larger_of_product_and_stream():
    case = Config().case(70_000, 1000, 1)
    h100 = Roofline("H100", 989e12, 3.35e12, "data sheet")
    assert h100.least_seconds(case, 2) == pytest.approx(71_000 * 512 * 2 / 3.35e12)
    assert Roofline("slow", 1e12, 3.35e12, "").least_seconds(case, 2) == pytest.approx(
        2 * 256 * 71_000 * 512 / 1e12
    )


def test_the_exact_step_needs_two_products_or_stored_exponentials():
    h100 = Roofline("H100", 989e12, 3.35e12, "data sheet")
    one, twice, stored = h100.floors(70_000, 1000, 256, 512, 2)
    stream, exponentials = 71_000 * 512 * 2 / 3.35e12, 71_000 * 256 * 4 / 3.35e12
    sums = 71_000 * 13 * 4 / 3.35e12
    assert one == pytest.approx(stream)
    assert twice == pytest.approx(2 * stream + sums)
    assert stored == pytest.approx(stream + 2 * exponentials + sums)
    assert (round(1e6 * twice), round(1e6 * stored)) == (45, 66)


def test_the_gpu_alone_is_measured_or_told_to_be_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = tmp_path / "speed.json"
    assert studies.main(["speed", "--gpu-only", "--json", str(target)]) == 2
    assert "--gpu-only: there is no GPU here that torch can use" in capsys.readouterr().err
    assert not target.exists()
    config = Config(labels=(65,), selected=(5,), steps=(1,), capacity=3, batch=5, dim=8, num_id=3, repeats=1)
    result = run.run(config, connect=InProcess, log=silent, gpu_only=True)
    assert result.table == result.labels_curve == result.capacity_curve == result.targets == []
    assert "Targets" not in report.format_report(result)


def test_naive_step_that_would_take_too_long_says_why():
    config = Config()
    naive = Spec("naive")
    assert measure.why_not(config.case(70_000, 1000, 1), naive, 0, None) is None
    assert measure.why_not(config.case(70_000, 60_000, 0), naive, 0, None) is None
    reason = measure.why_not(config.case(70_000, 60_000, 1), naive, 0, None)
    assert reason.startswith("not run: a softmax for each of 60 000 prefixes")
    assert f"{scoring_flop(256, 1000, 60_000, 1):.1e}" in reason
    assert measure.why_not(config.case(70_000, 60_000, 1), Spec("tanl", "reference"), 0, None) is None


def test_naive_step_is_left_out_of_a_case_and_the_others_run(monkeypatch):
    monkeypatch.setattr(measure, "NAIVE_FLOP_LIMIT", 10)
    result = measure.measure(
        TINY.case(130, 20, 1),
        [Spec("bare"), Spec("naive"), Spec("tanl", "reference")],
        repeats=1,
        connect=InProcess,
    )
    assert [bool(one.seconds) for one in result.contenders] == [True, False, True]
    assert not result.contenders[1].failed
    assert result.contenders[1].note.startswith("not run: ")


def test_too_little_memory_leaves_out_the_naive_step_first(monkeypatch):
    case, bare, naive, ours = TINY.case(130, 20, 1), Spec("bare"), Spec("naive"), Spec("tanl", "reference")
    enough_for_two = measure.needed_bytes(case, bare) + measure.needed_bytes(case, ours)
    monkeypatch.setattr(memory, "available", lambda: enough_for_two)
    result = measure.measure(case, [bare, naive, ours], repeats=1, connect=InProcess)
    assert [bool(one.seconds) for one in result.contenders] == [True, False, True]
    assert "GB of memory" in result.contenders[1].note


def test_failure_of_one_contender_is_told_and_ends_nothing_else():
    result = measure.measure(
        TINY.case(130, 20, 1),
        [Spec("bare"), Spec("tanl", "no such backend"), Spec("tanl", "reference")],
        repeats=1,
        connect=InProcess,
    )
    failed = result.contenders[1]
    assert failed.failed and "no such backend" in failed.note and not failed.seconds
    assert result.contenders[2].seconds["step"]


def test_slow_contender_is_timed_in_fewer_rounds(monkeypatch):
    monkeypatch.setattr(measure, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(measure, "SLOW_ROUNDS", 2)
    result = measure.measure(TINY.case(130, 20, 0), [Spec("naive")], repeats=4, connect=InProcess)
    first, second, *others = result.contenders[0].seconds["step"]
    assert first > 0 and second > 0 and others == [None, None]


def test_ratios_are_taken_round_by_round():
    assert measure.ratio([2.0, 9.0, None, 8.0], [1.0, 3.0, 1.0, 2.0]) == (3.0, 2.0, 4.0)


def test_targets_compare_with_the_faster_product():
    def measured(kind: str, backend: str = "", **seconds: list[float]) -> Measured:
        names = {"wide": "rows x labels", "tall": "labels x rows", "step": "step"}
        named = {names[key]: values for key, values in seconds.items()}
        return Measured(Spec(kind, backend), seconds=named, peak_bytes=299_000_000)

    config = Config()
    result = CaseResult(
        config.case(70_000, 1000, 1),
        3,
        [
            measured("bare", wide=[9.0, 9.0, 9.0], tall=[1.0, 2.0, 1.0]),
            measured("naive", step=[5.0, 6.0, 7.0]),
            measured("tanl", "reference", step=[1.7, 3.4, 1.7]),
            measured("tanl", "native", step=[0.9, 1.8, 1.0]),
        ],
    )
    found = {target.what: target for target in judge([result], [], [], config, ("reference", "native"))}
    native, reference, naive, *_ = found.values()
    assert native.measured.startswith("0.90 ") and native.met
    assert reference.measured.startswith("1.70 ") and reference.met is False
    assert naive.measured.startswith("5.6 ") and naive.met
    assert [target.met for target in found.values()] == [True, False, True, None, True, None, None, None]


def test_every_k_above_m_becomes_one_case_with_k_equal_to_m():
    config = Config(labels=(10_000, 70_000), selected=(1000, 10_000, 60_000), steps=(1,))
    assert [(case.labels, case.selected) for case in config.table] == [
        (10_000, 1000),
        (10_000, 10_000),
        (70_000, 1000),
        (70_000, 10_000),
        (70_000, 60_000),
    ]
    assert [(c.labels, c.selected) for c in Config(labels=(65,), steps=(1,)).table] == [(65, 65)]
    assert [case.labels for case in Config().labels_curve] == [35_000, 140_000, 280_000]


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"labels": ()}, ValueError),
        ({"labels": (0,)}, ValueError),
        ({"steps": (-1,)}, ValueError),
        ({"repeats": 0}, ValueError),
        ({"capacity": 2.5}, TypeError),
    ],
)
def test_unusable_setting_is_named(setting, error):
    with pytest.raises(error, match=next(iter(setting))):
        Config(**setting)


def test_peak_memory_sees_a_large_tensor():
    seen = memory.PeakMemory(torch.device("cpu"))
    if seen.how in ("not measured", "ru_maxrss"):
        pytest.skip(f"memory here: {seen.how}")
    before = seen.above()
    block: Tensor | None = torch.ones(50 << 18)  # 50 MiB
    assert seen.above() - before >= 45 << 20
    del block
    assert seen.above() - before >= 45 << 20


def test_worker_in_its_own_process_answers_and_its_death_is_told():
    connection = open_worker(OwnProcess, TINY.case(65, 20, 1), Spec("tanl", "reference"))
    try:
        assert connection.receive() == {}
        result = ask(connection, ask="step")
        assert result["seconds"]["step"] > 0
        assert ask(connection, ask="memory")["how"]
        assert "failed" in ask(connection, ask="breakdown", steps=0)
        connection._process.kill()
        assert "exit code -9" in ask(connection, ask="step")["failed"]
    finally:
        connection.close()


def test_command_writes_json_and_chart(tmp_path):
    target, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    options = ["--labels", "500", "--steps", "1", "--repeats", "2", "--no-curves", *TINY_OPTIONS]
    files = ["--json", str(target), "--chart", str(picture)]
    done = subprocess.run(
        [sys.executable, "-m", "tools", "speed", *options, *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "M = 500, K = 20, q = 1, L = 300" in done.stdout
    assert "Targets" in done.stdout
    record = json.loads(target.read_text(encoding="utf-8"))
    (case,) = record["table"]
    assert case["case"]["labels"] == 500
    for one in case["contenders"]:
        assert all(len(values) == 2 for values in one["seconds"].values())
        assert set(one["ratio_to_bare"]) == set(one["seconds"])
        assert one["memory_how"]
    assert record["environment"]["torch"] == torch.__version__
    assert record["config"]["seed"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_chart_of_a_whole_run_is_drawn(tiny, tmp_path):
    pytest.importorskip("matplotlib")
    chart.draw(tiny, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 20_000


def test_json_holds_every_round(tiny):
    record = json.loads(json.dumps(tiny.as_json()))
    assert record["config"] == json.loads(json.dumps(asdict(TINY)))
    assert len(record["targets"]) == 8
    for name, key in (("table", 2), ("labels_curve", 4), ("capacity_curve", 2)):
        assert len(record[name]) == key


def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def imported(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", imported)


def test_missing_matplotlib_is_told_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    no_matplotlib(monkeypatch)
    monkeypatch.setattr(command, "run", lambda *args, **kwargs: pytest.fail("it measured"))
    assert studies.main(["speed", "--quick", "--json", str(tmp_path / "a.json")]) == 2
    assert "tanl[bench]" in capsys.readouterr().err


def test_without_chart_no_matplotlib_is_needed(monkeypatch, tiny, tmp_path, capsys):
    no_matplotlib(monkeypatch)
    monkeypatch.setattr(command, "run", lambda *args, **kwargs: tiny)
    target = tmp_path / "a.json"
    assert studies.main(["speed", "--quick", "--no-chart", "--json", str(target)]) == 0
    assert target.exists()
    assert "tanl reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "no/such/folder/a.json"], "no/such/folder/a.json can't be written"),
        (["--chart", "."], "can't be written"),
        (["--labels", "0"], "'0' is not a whole number of at least 1"),
        (["--labels", "ten"], "'ten' is not a whole number"),
        (["--threads", "0"], "'0' is not a whole number"),
    ],
)
def test_bad_option_is_told_in_a_line(options: list[str], message: str, capsys, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run", lambda *args, **kwargs: pytest.fail("it measured"))
    try:
        code = studies.main(["speed", *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_quick_gives_way_to_what_is_named():
    def configuration(*options: str) -> Config:
        return command.configuration(studies.parsed(["speed", *options]))

    assert configuration("--quick").labels == (10_000,)
    assert configuration("--quick", "--labels", "65,63,65").labels == (63, 65)
    assert configuration("--quick", "--selected", "9", "5").selected == (5, 9)
    assert configuration("--half").half and not configuration("--no-curves").curves
    assert configuration().labels == (10_000, 70_000, 1_000_000)


@pytest.mark.parametrize(("labels", "rows", "dim"), [(1, 1, 1), (63, 5, 40), (1001, 64, 33)])
def test_the_product_by_onednn_is_the_product(labels, rows, dim):
    matrix, z = torch.randn(labels, dim), torch.randn(rows, dim)
    torch.testing.assert_close(onednn_product(matrix, z), matrix @ z.T, atol=1e-4, rtol=1e-4)


def test_the_fastest_way_to_the_bare_product_is_what_steps_are_compared_with():
    bare = Measured(
        Spec("bare"), seconds={"rows x labels": [3.0], "labels x rows": [2.0], "labels x rows, oneDNN": [1.0]}
    )
    result = CaseResult(TINY.case(130, 20, 1), 0, [bare])
    assert result.bare_for(Spec("tanl", "native")) == ("labels x rows, oneDNN", [1.0])
    assert result.bare_for(Spec("tanl", "native"), but="labels x rows, oneDNN") == ("labels x rows", [2.0])
