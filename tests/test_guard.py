"""Guard: images in, verdicts out; nothing changes when a batch is refused."""

import threading

import numpy as np
import open_clip
import pytest
import torch
from colour_backbone import ColourBackbone
from PIL import Image
from states import assert_same_state, state_of

import tanl
from tanl.detectors.registry import METHODS
from tanl.detectors.thresholds import threshold_from_stream

LABELS = ["red thing", "green thing", "blue thing"]
CORPUS = [f"word{i}" for i in range(30)]


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def guard(tiny_backbone, tmp_path):
    return tanl.Guard(tiny_backbone, LABELS, corpus=CORPUS, cache_dir=tmp_path, evidence=3)


def test_detection_is_what_the_detector_says(guard):
    images = pictures(9)
    z = guard.encode(images)
    expected = guard.detector.score(z)
    detection = guard(images)
    assert len(detection) == 9
    assert torch.equal(detection.ood_score, expected)
    assert torch.equal(detection.is_ood, expected > guard.detector.threshold)
    probabilities = (guard.bank.logit_scale * z @ guard.bank.id_embeddings.T).softmax(1)
    assert detection.label == [LABELS[i] for i in probabilities.argmax(1).tolist()]
    torch.testing.assert_close(detection.id_probability, probabilities.max(1).values)
    for i, verdict in enumerate(detection):
        assert verdict == detection[i]
        assert len(verdict.evidence) == (3 if verdict.is_ood else 0)
    assert list(detection.evidence[int(detection.is_ood.int().argmax())][0]._fields) == [
        "label",
        "probability",
    ]


def test_paths_images_and_pixels_are_the_same(guard, tmp_path):
    images = pictures(5)
    paths = []
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    mixed = [images[0], str(paths[1]), paths[2], images[3], paths[4]]
    pixels = torch.stack([guard.backbone.preprocess(image) for image in images])
    z = guard.encode(images)
    assert torch.equal(guard.encode(mixed), z)
    assert torch.equal(guard.encode(pixels), z)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 513])
def test_many_images_are_read_and_encoded_in_parts(tmp_path, monkeypatch, count):
    guard = tanl.Guard(ColourBackbone(), LABELS, corpus=CORPUS, cache_dir=tmp_path)
    sizes, waiting, most = [], 0, 0
    preprocess, encode = guard.backbone.preprocess, guard.backbone.encode_images

    def preprocessed(image):
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return preprocess(image)

    def encoded(pixels):
        nonlocal waiting
        waiting -= len(pixels)
        sizes.append(len(pixels))
        return encode(pixels)

    lock = threading.Lock()
    images = pictures(9) * (count // 9 + 1)
    whole = guard.encode(torch.stack([guard.backbone.preprocess(image) for image in images[:count]]))
    monkeypatch.setattr(guard.backbone, "preprocess", preprocessed, raising=False)
    monkeypatch.setattr(guard.backbone, "encode_images", encoded, raising=False)
    assert torch.equal(guard.encode(images[:count]), whole)
    assert sum(sizes) == count
    assert sizes == [*[256] * (count // 256), *([count % 256] if count % 256 else [])]
    assert most <= 256


def test_single_images_are_a_stream_too(guard):
    for image in pictures(4):
        assert len(guard([image])) == 1


@pytest.mark.parametrize("method", ["neglabel", "mcm", "max_logit", "energy"])
def test_methods_by_name_score_first_and_decide_once_calibrated(tiny_backbone, tmp_path, method):
    guard = tanl.Guard(tiny_backbone, LABELS, corpus=CORPUS, method=method, cache_dir=tmp_path)
    assert guard.bank.num_negatives == (30 if method == "neglabel" else 0)
    detection = guard(pictures(6))
    assert detection.is_ood is None
    assert detection[0].is_ood is None
    assert detection.evidence == [()] * 6
    threshold = guard.calibrate(pictures(25), tpr=0.9)
    detection = guard(pictures(6))
    assert torch.equal(detection.is_ood, detection.ood_score > threshold)


def test_calibrate_leaves_the_stream_alone(guard):
    before = state_of(guard.detector.state)
    guard.calibrate(pictures(25), tpr=0.9)
    assert_same_state(guard.detector.state.state_dict(), before)


def test_uncalibrate_returns_to_the_streams_own_threshold(guard):
    images = pictures(12)
    guard(images)
    own = guard.detector.threshold
    guard.calibrate(pictures(25), tpr=0.9)
    assert guard.detector.threshold != own
    guard.uncalibrate()
    assert guard.detector.threshold == own
    detection = guard(pictures(9, seed=2))
    assert torch.equal(detection.is_ood, detection.ood_score > guard.detector.threshold)


def test_calibrate_unlabelled_parts_the_scores_of_images_of_both_kinds(tiny_backbone, tmp_path):
    guard = tanl.Guard(tiny_backbone, LABELS, corpus=CORPUS, method="neglabel", cache_dir=tmp_path)
    images = pictures(20)
    threshold = guard.calibrate_unlabelled(images)
    detection = guard(images)
    assert threshold == threshold_from_stream(detection.ood_score)
    assert 0 < int(detection.is_ood.sum()) < 20
    guard.uncalibrate()
    assert guard(images).is_ood is None
    with pytest.raises(ValueError, match="1 scores without any difference"):
        guard.calibrate_unlabelled(images[:1])


def test_repr_says_what_it_is_of_and_is_short(guard, tiny_backbone, tmp_path):
    assert repr(guard) == f"Guard(tanl, 3 ID labels, 30 negatives, backbone {tiny_backbone.name!r})"
    many = [f"label {i}" for i in range(1000)]
    mcm = tanl.Guard(ColourBackbone(), many, method="mcm")
    assert repr(mcm) == "Guard(mcm, 1000 ID labels, 0 negatives, backbone 'colours')"


def small(method, tmp_path, **options):
    options = {"corpus": CORPUS, "cache_dir": tmp_path, **options}
    return tanl.Guard(ColourBackbone(), LABELS, method=method, **options)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "csp"])
def test_a_guard_says_its_method_by_its_name_and_what_was_set_by_hand(method, tmp_path):
    guard = small(method, tmp_path)
    assert guard.method == (method, {})
    assert (guard.health().method, guard.health().settings) == (method, {})
    assert repr(guard).startswith(f"Guard({method}, 3 ID labels, ")


def test_settings_that_were_set_by_hand_are_told_wherever_that_was(tmp_path):
    by_hand = {"gap": 0.5, "memory": tanl.GuardedMemory(prior=20)}
    guard = small("TANL (paper)", tmp_path, settings={**by_hand, "step": 1})  # 1 is the preset's own
    told = {"gap": 0.5, "memory": repr(by_hand["memory"])}
    assert guard.method == ("tanl-paper", told)
    guard.detector.alpha = 0.25
    assert guard.health().settings == {**told, "alpha": 0.25}
    assert repr(guard).startswith(
        f"Guard(tanl-paper with gap=0.5, alpha=0.25, memory={told['memory']!r}, 3 ID "
    )
    function = small(lambda bank: tanl.TANL(bank, gap=0.5, seed=7), tmp_path)
    assert function.method == ("TANL", {"gap": 0.5})
    guard.detector = tanl.NegLabel(guard.bank)  # no TANL any more
    assert guard.method == ("NegLabel", {})


def test_negatives_that_id_images_chose_are_no_setting_by_hand(tmp_path):
    shown = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
    options = {"corpus": [*CORPUS, "blue"], "cache_dir": tmp_path, "settings": {"groups": 2}}
    guard = tanl.Guard(ColourBackbone(), ["red", "green"], method="neglabel", id_images=shown, **options)
    assert guard.method == ("neglabel", {"groups": 2})
    assert repr(guard).endswith("negatives chosen by 2 ID images)")


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("tanl", {"gapp": 0.5}, "the method 'tanl' has no setting 'gapp'; .*did you mean 'gap'"),
        ("neglabel", {"groups": "many"}, "groups must be a whole number"),
        (tanl.TANL, {"gap": 0.5}, "settings are of a method by name; let the function set gap"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_embedded(method, settings, told, tmp_path):
    with pytest.raises((TypeError, ValueError), match=told):
        small(method, tmp_path / "cache", settings=settings)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("backbone", ["mini", torch.nn.Linear(1, 1), None], ids=["name", "model", "None"])
def test_what_is_no_backbone_is_refused(backbone):
    with pytest.raises(
        TypeError, match=r"not a (str|Linear|NoneType); tanl\.load_backbone .* tanl\.wrap takes"
    ):
        tanl.Guard(backbone, LABELS, corpus=CORPUS)


def test_method_may_be_a_function_of_the_bank(tiny_backbone, tmp_path):
    guard = tanl.Guard(
        tiny_backbone,
        LABELS,
        corpus=CORPUS,
        cache_dir=tmp_path,
        method=lambda bank: tanl.TANL(bank, **{**tanl.TANL.preset("official-script"), "num_selected": 7}),
    )
    assert len(guard.detector.selected) == 7
    assert len(guard(pictures(3))) == 3


def test_tanl_starts_from_noise_images(guard, tiny_backbone):
    assert torch.equal(guard.detector.state.negative.embeddings, tanl.noise_embeddings(tiny_backbone))


def test_wrap_takes_a_loaded_model(tiny_clip, tmp_path, guard):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    wrapped = tanl.wrap(model, preprocess, tokenizer, LABELS, corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(6)
    torch.testing.assert_close(wrapped(images).ood_score, guard(images).ood_score, atol=1e-5, rtol=1e-4)


def test_reset_forgets_the_stream(guard):
    images = pictures(8)
    first = guard(images).ood_score
    guard(pictures(20, seed=1))
    guard.reset()
    assert torch.equal(guard(images).ood_score, first)


def test_refused_batches_leave_the_state_alone(guard, tmp_path):
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(b"\x89PNG and then nothing")
    empty.write_bytes(b"")
    good = pictures(1)[0]
    before = state_of(guard.detector)
    for images, kind, message in (
        ([good, broken], tanl.UnreadableImage, r"broken\.png"),
        ([good, str(empty)], tanl.UnreadableImage, r"empty\.png.*empty"),
        ([tmp_path / "missing.png"], tanl.UnreadableImage, r"missing\.png"),
        ([], ValueError, "no images"),
        (good, TypeError, "give a list of images"),
        ("photo.jpg", TypeError, "give a list of images, not the one image 'photo.jpg'"),
        ([good, 5], TypeError, "expected a PIL image, got int"),
        ([torch.zeros(3, 32, 32)] * 2, TypeError, r"torch\.stack\(\[\.\.\.\]\), or .* guard\.stream"),
        (
            torch.full((2, 3, 32, 32), float("nan")),
            ValueError,
            "image 0 of the pixels: it has a NaN or infinite value",
        ),
    ):
        with pytest.raises(kind, match=message):
            guard(images)
    assert_same_state(guard.detector.state_dict(), before)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"method": "tanel"}, ValueError, "no method 'tanel'; there are tanl, tanl-paper, "),
        ({"evidence": -1}, ValueError, "evidence must be at least 0"),
        ({"corpus": None}, ValueError, "needs negative labels"),
        ({"labels": []}, ValueError, "no ID labels"),
        ({"labels": ["a", "a"]}, ValueError, "more than once"),
    ],
)
def test_unusable_settings_are_refused(tiny_backbone, tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        tanl.Guard(tiny_backbone, **{"labels": LABELS, "corpus": CORPUS, "cache_dir": tmp_path, **options})


def test_without_learning_the_verdicts_are_those_of_judging_and_nothing_changes(guard):
    guard(pictures(12))
    before, health = state_of(guard.detector), guard.health()
    z = guard.encode(pictures(9, seed=1))
    only_scored = guard.detect_embeddings(z, learn=False)
    assert_same_state(state_of(guard.detector), before)
    assert guard.health() == health
    judged = guard.detect_embeddings(z)
    assert torch.equal(only_scored.ood_score, judged.ood_score)
    assert only_scored.label == judged.label
    with pytest.raises(ValueError, match="source='me' says who teaches"):
        guard.detect_embeddings(z, learn=False, source="me")


def test_calibration_on_embeddings_is_that_on_images(guard, tiny_backbone, tmp_path):
    other = tanl.Guard(tiny_backbone, LABELS, corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(30)
    assert guard.calibrate(images, 0.9) == other.calibrate_embeddings(other.encode(images), 0.9)
