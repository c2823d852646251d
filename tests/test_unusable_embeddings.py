"""A model that gives no usable embedding for an image: told by the image's name in its place, and the others judged."""

import asyncio
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_backbone import ColourBackbone
from PIL import Image
from states import assert_same_state, state_of
from test_guard_stream import pictures
from test_wrap import OpenAIClip, to_pixels, tokenize

import tanl
from tanl.benchmarks.data.image_sets import ImageSet, encode_image_set
from tanl.cli.main import main

CORPUS = ["blue", "yellow", *(f"word {i}" for i in range(40))]
BLACK = Image.new("RGB", (9, 11), (0, 0, 0))


def embedding_of(kind):
    """What a model gives for a black image in place of its embedding."""
    return {
        "NaN": lambda row: torch.full_like(row, float("nan")),
        "one NaN": lambda row: torch.cat([row[:-1], torch.tensor([float("nan")])]),
        "infinite": lambda row: torch.cat([torch.tensor([float("-inf")]), row[1:]]),
        "zeros": torch.zeros_like,
        "long": lambda row: 3 * row,
        "short": lambda row: row / 2,
    }[kind]


REASONS = {
    "NaN": "an embedding with NaN or infinite values",
    "one NaN": "an embedding with NaN or infinite values",
    "infinite": "an embedding with NaN or infinite values",
    "zeros": "an embedding of zeros",
    "long": "an embedding of norm 3 for it, not 1",
    "short": "an embedding of norm 0.5 for it, not 1",
}
kinds = pytest.mark.parametrize("kind", REASONS)


class Blind(ColourBackbone):
    """Sees everything but black images."""

    def __init__(self, kind):
        self.kind = kind

    def encode_images(self, pixels):
        z = super().encode_images(pixels)
        change = embedding_of(self.kind)
        return torch.stack(
            [change(row) if not image.any() else row for row, image in zip(z, pixels, strict=True)]
        )


def guard_of(tmp_path, kind="NaN"):
    return tanl.Guard(Blind(kind), ["red", "green"], corpus=CORPUS, cache_dir=tmp_path / "cache")


def with_black(images, where):
    images = list(images)
    for place in sorted(where):
        images.insert(place, BLACK)
    return images


def by_calls(guard, images, size):
    guard.reset()
    return [v for i in range(0, len(images), size) for v in guard(images[i : i + size])]


async def gathered(stream):
    return [each async for each in stream]


def outcomes(guard, way, images, **options):
    if way == "astream":
        return asyncio.run(gathered(guard.astream(images, **options)))
    return list(guard.stream(images, **options, **({"max_wait": 60.0} if way == "in a thread" else {})))


ways = pytest.mark.parametrize("way", ["in place", "in a thread", "astream"])


@kinds
@ways
@pytest.mark.parametrize("where", [{0}, {3}, {4}, {13}, {0, 1, 2, 3, 4, 5}, {2, 3, 9, 13}], ids=str)
def test_it_takes_its_verdicts_place_and_the_others_are_judged_as_if_it_were_not_there(
    tmp_path, kind, way, where
):
    guard, good = guard_of(tmp_path, kind), pictures(13)
    found = outcomes(guard, way, with_black(good, where), batch_size=5, errors="yield")
    state = state_of(guard.detector)
    assert {i for i, each in enumerate(found) if isinstance(each, tanl.UnreadableImage)} == where
    for place in where:
        assert found[place].path == Path(f"number {place} of the stream")
        assert REASONS[kind] in found[place].reason
    assert [each for each in found if isinstance(each, tanl.Verdict)] == by_calls(guard, good, 5)
    assert_same_state(guard.detector.state_dict(), state)


@ways
@pytest.mark.parametrize("where", [0, 3, 4, 5, 12])
def test_it_ends_a_stream_after_what_came_before(tmp_path, way, where):
    guard, good = guard_of(tmp_path), pictures(13)
    found = []

    async def asynchronously():
        async for verdict in guard.astream(with_black(good, {where}), batch_size=5):
            found.append(verdict)

    with pytest.raises(tanl.UnreadableImage, match=rf"number {where} of the stream: .* NaN or infinite"):
        if way == "astream":
            asyncio.run(asynchronously())
        else:
            options = {"max_wait": 60.0} if way == "in a thread" else {}
            for verdict in guard.stream(with_black(good, {where}), batch_size=5, **options):
                found.append(verdict)
    state = state_of(guard.detector)
    assert found == by_calls(guard, good[:where], 5)
    assert_same_state(guard.detector.state_dict(), state)


@kinds
@pytest.mark.parametrize("verb", ["judge", "score", "predict", "explain", "encode", "calibrate", "__call__"])
def test_a_batch_with_it_is_refused_by_its_path_and_changes_nothing(tmp_path, kind, verb):
    guard = guard_of(tmp_path, kind)
    BLACK.save(tmp_path / "black.png")
    good = pictures(25)
    before = state_of(guard.detector)
    with pytest.raises(tanl.UnreadableImage, match=r"black\.png: the model gives") as caught:
        getattr(guard, verb)([*good[:7], tmp_path / "black.png", *good[7:]])
    assert caught.value.path == tmp_path / "black.png"
    assert REASONS[kind] in caught.value.reason
    with pytest.raises(tanl.UnreadableImage, match="number 7 of the list"):
        getattr(guard, verb)([*good[:7], BLACK, *good[7:]])
    assert_same_state(guard.detector.state_dict(), before)


@kinds
def test_pixels_of_it_are_refused_by_their_row(tmp_path, kind):
    guard = guard_of(tmp_path, kind)
    pixels = torch.stack([guard.backbone.preprocess(image) for image in with_black(pictures(5), {3})])
    before = state_of(guard.detector)
    for verb in (guard, guard.score, guard.predict, guard.explain):
        with pytest.raises(ValueError, match="image 3 of the pixels: the model gives an embedding "):
            verb(pixels)
    assert_same_state(guard.detector.state_dict(), before)


@pytest.mark.parametrize("kind", ["NaN", "zeros"])
def test_wrapped_models_and_functions_that_give_it(tmp_path, kind):
    model = OpenAIClip().eval()
    change = embedding_of(kind)

    def encode_image(pixels):
        z = model.encode_image(pixels)
        return torch.stack(
            [change(row) if not image.any() else row for row, image in zip(z, pixels, strict=True)]
        )

    guarded = tanl.wrap(
        (encode_image, lambda texts: model.encode_text(tokenize(texts))),
        to_pixels,
        None,
        ["red thing", "green thing"],
        corpus=CORPUS,
        cache_dir=tmp_path,
    )
    found = list(guarded.stream(with_black(pictures(6), {2}), batch_size=3, errors="yield"))
    assert [isinstance(each, tanl.UnreadableImage) for each in found] == [i == 2 for i in range(7)]
    with pytest.raises(tanl.UnreadableImage, match="number 1 of the list"):
        guarded([pictures(1)[0], BLACK])


@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_a_model_that_gives_another_dimension_is_no_fault_of_an_image(tmp_path, errors):
    class Wide(ColourBackbone):
        def encode_images(self, pixels):
            z = super().encode_images(pixels)
            return torch.cat([z, torch.zeros(len(z), 2)], dim=1)

    class Flat(ColourBackbone):
        def encode_images(self, pixels):
            return super().encode_images(pixels).flatten()

    for backbone, message in (
        (Wide(), r"image embeddings has D = 9, but the label bank has D = 7"),
        (Flat(), r"gives embeddings of shape \[28\] for 4 images, not \[4, D\]"),
    ):
        guard = tanl.Guard(ColourBackbone(), ["red", "green"], corpus=CORPUS, cache_dir=tmp_path)
        guard.backbone = backbone
        before = state_of(guard.detector)
        with pytest.raises(ValueError, match=message):
            list(guard.stream(pictures(9), batch_size=4, errors=errors))
        with pytest.raises(ValueError, match=message):
            guard(pictures(4))
        assert_same_state(guard.detector.state_dict(), before)


def test_a_preprocessing_that_brings_images_to_several_sizes_is_told(tmp_path):
    guard = guard_of(tmp_path)
    guard.backbone.preprocess = lambda image: torch.ones(3, image.height, image.width)
    images = [Image.new("RGB", size) for size in ((8, 8), (8, 9))]
    with pytest.raises(ValueError, match=r"several shapes, \(3, 8, 8\) and \(3, 9, 8\): it must bring every"):
        guard(images)
    with pytest.raises(ValueError, match="several shapes"):
        list(guard.stream(images, errors="yield"))


@kinds
def test_the_command_keeps_its_row(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda name, *, device, precision: Blind(kind))
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "words.txt").write_text("\n".join(CORPUS))
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(with_black(pictures(20), {4})):
        image.save(photos / f"{number:02d}.png")
    options = ["--label", "red", "--label", "green", "--corpus", str(tmp_path / "words.txt")]
    out = tmp_path / "r.csv"
    for calibration in ([], ["--calibrate", str(photos), "--tpr", "0.9"]):
        assert main(["judge", str(photos), *options, *calibration, "--out", str(out), "--quiet"]) == 1
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [bool(row["error"]) for row in rows] == [number == 4 for number in range(21)]
        assert REASONS[kind] in rows[4]["error"]
        assert "04.png" in capsys.readouterr().err


@kinds
def test_a_benchmarks_set_leaves_it_out_by_its_name(tmp_path, kind):
    good = pictures(9)
    for number, image in enumerate(with_black(good, {4})):
        image.save(tmp_path / f"{number}.png")
    images = ImageSet("toy", tmp_path, tuple(f"{number}.png" for number in range(10)), tuple(range(10)))
    for _ in range(2):  # made, and from the cache
        encoded = encode_image_set(Blind(kind), images, cache_dir=tmp_path / "cache")
        assert encoded.unreadable == ("4.png",)
        assert encoded.labels.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    pixels = torch.stack([ColourBackbone().preprocess(image) for image in good])
    assert torch.equal(encoded.embeddings, ColourBackbone().encode_images(pixels))


class Source:
    """Gives the same image for ever, and counts how often it was read."""

    def __init__(self, image, first=()):
        self.images, self.image, self.read = list(first), image, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.read += 1
        return self.images.pop(0) if self.images else self.image


@pytest.mark.parametrize("options", [{}, {"max_wait": 60.0}], ids=["in place", "in a thread"])
@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("fault", ["file", "embedding"])
@pytest.mark.parametrize("read_ahead", [0, 5, None])
def test_a_stream_of_nothing_usable_is_read_no_further_than_promised(
    tmp_path, options, good, fault, read_ahead
):
    guard = guard_of(tmp_path)
    bad = BLACK if fault == "embedding" else tmp_path / "missing.png"
    source, first = Source(bad, pictures(good)), pictures(good)
    stream = guard.stream(source, batch_size=4, read_ahead=read_ahead, errors="yield", **options)
    for taken in range(60):
        outcome = next(stream)
        assert isinstance(outcome, tanl.UnreadableImage) == (taken >= good)
        assert taken < source.read <= taken + 4 + (64 if read_ahead is None else read_ahead)
    stream.close()
    assert guard.detector.state.images == len(first)


def test_outcomes_do_not_depend_on_how_many_cores_there_are(tmp_path, monkeypatch):
    found = []
    for cores in (1, 3, 64):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        guard = guard_of(tmp_path)
        images = [image for good in pictures(30) for image in (good, *[BLACK] * 9)]
        found.append([str(each) for each in guard.stream(images, batch_size=6, errors="yield")])
    assert found[0] == found[1] == found[2]
    assert sum("NaN or infinite" in each for each in found[0]) == 270


def test_arrays_are_no_images(tmp_path):
    with pytest.raises(TypeError, match="expected a PIL image, got ndarray"):
        guard_of(tmp_path)([np.zeros((8, 8, 3), dtype=np.uint8)])
