"""Longer streams by augmentation: originals first, then seeded variants that do not depend on who asks."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tanl.benchmarks.data.augment import Augmented, augmented, fingerprint, variant


def photo(size=(37, 23), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def drawing(colour=(200, 30, 30), paper="white"):
    """A disc with an eye of the paper's colour in it, which is no background."""
    image = Image.new("RGB", (80, 60), paper)
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 10, 60, 50), fill=colour)
    draw.ellipse((36, 26, 44, 34), fill=paper)
    return image


def pixels(image):
    return np.asarray(image, dtype=np.int64)


ORIGINALS = [photo(seed=1), drawing(), photo((5, 64), seed=2), drawing((20, 90, 200))]


def test_originals_come_first_then_variants_of_each_in_turn():
    longer = augmented(ORIGINALS, 11, seed=0)
    assert len(longer) == 11
    for index, original in enumerate(ORIGINALS):
        assert longer[index] is original
    for index in range(4, 11):
        assert longer[index].size == ORIGINALS[index % 4].size
        assert longer[index].mode == "RGB"
        assert longer[index].tobytes() != ORIGINALS[index % 4].tobytes()
    assert len({longer[index].tobytes() for index in range(11)}) == 11


def test_a_variant_depends_on_seed_and_number_alone():
    short, long = augmented(ORIGINALS, 9, seed=3), augmented(ORIGINALS, 40, seed=3)
    forwards = [short[index].tobytes() for index in range(9)]
    backwards = [long[index].tobytes() for index in reversed(range(9))]
    assert forwards == backwards[::-1]
    other = augmented(ORIGINALS, 9, seed=4)
    assert [other[index].tobytes() for index in range(4)] == forwards[:4]
    for index in range(4, 9):
        assert other[index].tobytes() != forwards[index]


def test_only_images_that_are_asked_for_are_opened():
    opened = []

    def open_image(index):
        opened.append(index)
        return ORIGINALS[index]

    longer = Augmented(open_image, 4, 400, seed=0)
    longer[399]
    assert opened == [3]
    with pytest.raises(IndexError, match="image 400 of 400"):
        longer[400]


def test_a_plain_background_changes_and_a_drawing_stays_one():
    colours = []
    for seed in range(12):
        after = pixels(variant(drawing(), np.random.default_rng(seed)))
        border = np.concatenate([after[0], after[-1], after[:, 0], after[:, -1]])
        plain = np.median(border, axis=0)
        assert (np.abs(border - plain).max(axis=1) <= 2).mean() > 0.9
        colours.append(tuple(plain))
        # The eye in the middle keeps its white, or what recolouring makes of it, in place of the background.
        assert np.abs(after - plain).max(axis=2).min() <= 2
        assert (np.abs(after - plain).max(axis=2) > 40).mean() > 0.05
    assert len(set(colours)) == 12


def test_enclosed_paper_is_no_background():
    changed = 0
    for seed in range(12):
        after = pixels(variant(drawing((10, 10, 10)), np.random.default_rng(seed)))
        eye, paper = after[27:33, 37:43].reshape(-1, 3).max(axis=0), np.median(after[0], axis=0)
        changed += int(np.abs(eye - paper).max() > 12)
    assert changed >= 10


def test_photographs_keep_their_background():
    image = Image.linear_gradient("L").resize((90, 70)).convert("RGB")
    after = pixels(variant(image, np.random.default_rng(0)))
    assert after[-1].mean() > after[0].mean() + 100


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (63, 65)])
def test_odd_shapes_are_kept(size):
    assert variant(photo(size), np.random.default_rng(0)).size == size


def test_large_images_are_made_smaller():
    assert variant(photo((1300, 1040)), np.random.default_rng(0)).size == (640, 512)


@pytest.mark.parametrize(("images", "count"), [([], 3), (ORIGINALS, 3)])
def test_counts_refused(images, count):
    with pytest.raises(ValueError, match=f"{len(images)} images cannot be made {count}"):
        augmented(images, count, seed=0)


def test_fingerprint_tells_originals_and_seeds_apart():
    assert len({fingerprint("a", 0), fingerprint("b", 0), fingerprint("a", 1)}) == 3
    assert fingerprint("a", 0) == fingerprint("a", 0)
