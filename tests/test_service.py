"""What a service does with its guard, without HTTP: answers, refusals that change nothing, threads, and keeping."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from serving import CORPUS, LABELS, colour_guard, picture
from states import assert_same_state, state_of

import tanl
from tanl.serve.page import health_html
from tanl.serve.service import Service, Upload, shown_name


def uploads(*colours, seed=0):
    return [Upload(f"{colour}.png", picture(colour, seed + number)) for number, colour in enumerate(colours)]


@pytest.fixture
def service(tmp_path):
    made = Service(colour_guard(tmp_path / "cache"))
    yield made
    made.close()


def test_answers_are_the_guards_verdicts(service, tmp_path):
    twin = colour_guard(tmp_path / "cache")
    images = uploads("red", "blue", "green", "yellow", "red")
    for each in images:
        (tmp_path / each.name).write_bytes(each.content)
    for number, each in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(each.content)
    said = service.judge(images)
    expected = twin.judge([tmp_path / f"{number}.png" for number in range(len(images))])
    assert said["threshold"] == twin.detector.threshold
    for result, upload, verdict in zip(said["results"], images, expected, strict=True):
        assert result == {
            "name": upload.name,
            **{name: value for name, value in verdict.to_dict().items() if name != "warnings"},
            "error": None,
        }
    json.dumps(said, allow_nan=False)
    assert_same_state(state_of(service.guard.detector), state_of(twin.detector))


def test_health_says_the_method_by_its_name_with_what_was_set_by_hand(service):
    service.guard.detector.gap = 0.5
    said = service.health()
    assert (said["method"], said["settings"]) == ("tanl", {"gap": 0.5})
    assert not {"method", "settings", "warnings"} & {*said["stream"]}
    json.dumps(said, allow_nan=False)


def test_scoring_learns_nothing_and_says_what_judging_would(service):
    service.judge(uploads("red", "blue", "green"))
    before, images = state_of(service.guard.detector), uploads("yellow", "red", seed=5)
    scored = service.judge(images, learn=False)
    assert_same_state(state_of(service.guard.detector), before)
    assert service.health()["stream"]["images"] == 3
    judged = service.judge(images)["results"]
    assert [each["ood_score"] for each in scored["results"]] == [each["ood_score"] for each in judged]


def test_one_image_that_cannot_be_read_costs_no_other(service):
    images = [*uploads("red"), Upload("notes.txt", b"hello"), *uploads("blue", seed=3)]
    said = service.judge(images)["results"]
    assert [each["error"] is None for each in said] == [True, False, True]
    assert said[1] == {
        "name": "notes.txt",
        "error": "it is not an image, or in a format that this Pillow does not know",
    }
    assert service.health()["stream"]["images"] == 2


@pytest.mark.parametrize(
    ("images", "options", "told"),
    [
        ([], {}, "no images: send one or more"),
        ([Upload("a.png", b"x")], {}, "no image can be used: a.png: it is not an image"),
        ([Upload("a.png", b"")], {}, "no image can be used: a.png: it is empty"),
        (
            [Upload("/etc/passwd", b"/etc/passwd")],
            {},
            "no image can be used: /etc/passwd: it is not an image",
        ),
        ([Upload("a.png", picture("red", size=41))], {}, "41 x 41 pixels are more than the limit of 1600"),
        (uploads(*["red"] * 9), {}, "9 images are more than the 8 of one request; send them in several"),
        (uploads("red"), {"source": ""}, "source"),
        (uploads("red"), {"source": "a", "learn": False}, "learn=False learns nothing"),
    ],
)
def test_what_cannot_be_judged_changes_nothing(tmp_path, images, options, told):
    service = Service(colour_guard(tmp_path / "cache"), max_images=8, max_pixels=1600)
    service.judge(uploads("red", "blue"))
    before = state_of(service.guard.detector)
    with pytest.raises((ValueError, TypeError), match=told):
        service.judge(images, **options)
    assert_same_state(state_of(service.guard.detector), before)
    assert service.health()["stream"]["images"] == 2


def test_a_name_is_text_in_one_bounded_line():
    assert shown_name("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert shown_name("") == "an image without a name"
    assert len(shown_name("x" * 9999)) == 200
    shown_name("half \ud83d").encode()


def test_a_threshold_is_calibrated_and_forgotten(tmp_path):
    service = Service(colour_guard(tmp_path / "cache", "mcm"))
    assert service.health()["threshold"] is None
    assert service.judge(uploads("red"))["results"][0]["is_ood"] is None
    known = uploads(*["red", "green"] * 12)
    said = service.calibrate([*known, Upload("broken.png", b"x")], 0.9)
    assert said["count"] == 24
    assert [each["name"] for each in said["unreadable"]] == ["broken.png"]
    assert service.health()["threshold"] == said["threshold"]
    assert service.health()["calibrated_tpr"] == 0.9
    with pytest.raises(ValueError, match="3 ID scores are too few"):
        service.calibrate(known[:3])
    assert service.health()["calibrated_tpr"] == 0.9
    assert service.uncalibrate() == {"threshold": None}


def test_labels_are_edited_in_one_step_or_not_at_all(service):
    assert service.labels() == {"labels": LABELS, "negatives": len(CORPUS), "corpus": "words"} | {
        "corpus": service.guard.corpus.name
    }
    assert service.edit_labels(["blue"], ["red"])["labels"] == ["green", "blue"]
    assert service.labels()["negatives"] == len(CORPUS) - 1
    assert service.set_labels(["red", "green"])["labels"] == ["green", "red"]
    for refused, told in (
        (lambda: service.edit_labels(["red"]), "'red' is among the labels already"),
        (lambda: service.edit_labels(remove=["dog"]), "'dog' is not among the labels: green, red"),
        (lambda: service.edit_labels(), "nothing to add and nothing to remove"),
        (lambda: service.edit_labels(["dog"], ["cat"]), "'cat' is not among"),
        (lambda: service.set_labels([]), "no ID labels"),
        (lambda: service.set_labels([f"label {number}" for number in range(10_001)]), "more than 10000"),
    ):
        with pytest.raises(ValueError, match=told):
            refused()
        assert service.labels()["labels"] == ["green", "red"]


def test_labels_edited_after_a_calibration_say_so(service):
    assert "note" not in service.edit_labels(["blue"])
    service.calibrate(uploads(*["red", "green"] * 10))
    assert "calibrate again" in service.edit_labels(["yellow"])["note"]


def test_many_threads_lose_no_batch_and_see_whole_states(tmp_path, monkeypatch):
    """The batches, in the order in which they were applied, give the same state one after the other."""
    service = Service(colour_guard(tmp_path / "cache"))
    applied, detect = [], service.guard.detect_embeddings

    def recorded(z, **options):
        if options["learn"]:
            applied.append(z.clone())
        return detect(z, **options)

    monkeypatch.setattr(service.guard, "detect_embeddings", recorded)
    colours = ["red", "blue", "green", "yellow"]

    def work(number):
        images = uploads(*colours[: 1 + number % 4], seed=10 * number)
        if number % 3 == 0:
            return len(service.judge(images, learn=False)["results"]) * 0
        assert service.health()["status"] == "ok"
        return len(service.judge(images)["results"])

    with ThreadPoolExecutor(8) as pool:
        judged = sum(pool.map(work, range(60)))
    assert judged == sum(map(len, applied)) == service.health()["stream"]["images"]
    twin = colour_guard(tmp_path / "cache")
    for z in applied:
        twin.detect_embeddings(z)
    assert_same_state(state_of(service.guard.detector), state_of(twin.detector))


def test_the_guard_is_kept_now_and_then_and_at_the_end(tmp_path):
    service = Service(colour_guard(tmp_path / "cache"), tmp_path / "guard", save_every=0.05)
    assert service.health()["kept"]
    assert service.health()["saved_seconds_ago"] is None
    service.judge(uploads("red", "blue"))
    deadline = time.monotonic() + 20
    while service.health()["saved_seconds_ago"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    service.judge(uploads("green"))
    service.set_labels(["red", "green", "blue"])
    service.close()
    service.close()
    again = tanl.Guard.load(tmp_path / "guard", backbone=service.guard.backbone, exact=False)
    assert again.bank.id_names == ("red", "green", "blue")
    z = again.encode(torch.rand(5, 3, 8, 8))
    torch.testing.assert_close(again.detector.score(z), service.guard.detector.score(z), atol=1e-5, rtol=0)


def test_a_guard_that_cannot_be_kept_is_told_of_and_the_end_fails(tmp_path):
    told, blocked = [], tmp_path / "guard"
    blocked.write_text("a file")
    service = Service(colour_guard(tmp_path / "cache"), blocked, save_every=0.05, told=told.append)
    service.judge(uploads("red"))
    deadline = time.monotonic() + 20
    while not told:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "the guard cannot be kept now" in told[0]
    assert service.health()["status"] == "warning"
    assert "save: " in service.health()["warnings"][0]
    with pytest.raises(OSError):
        service.close()
    blocked.unlink()
    service.close()
    assert (blocked / "guard.json").exists()


def test_health_is_told_as_text():
    service_health = {
        "status": "warning",
        "warnings": ["flood: <script>"],
        "backbone": "<b>",
        "method": "tanl-paper",
        "settings": {"gap": 0.5, "memory": "<i>"},
        "negatives": 5,
        "threshold": None,
        "calibrated_tpr": None,
        "kept": True,
        "saved_seconds_ago": 3.2,
        "stream": {"images": 0, "flagged": None, "window": 0},
    }
    html = health_html(service_health)
    assert "<script>" not in html
    assert "flood: &lt;script&gt;" in html
    assert "tanl-paper with gap=0.5, memory=&#x27;&lt;i&gt;&#x27;, &lt;b&gt;" in html
    assert "none yet" in html
    assert "3 s ago" in html
    assert "role='alert'" in html
