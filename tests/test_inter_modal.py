"""InterModal keeps the negatives that its equations keep, in their order, and detectors and guards take it."""

import pytest
import torch
from colour_backbone import ColourBackbone
from torch.nn.functional import normalize

import tanl
from conftest import unit


def near(embeddings, noise, seed):
    return normalize(embeddings + noise * unit(*embeddings.shape, seed=seed), dim=1)


@pytest.fixture
def images(bank):
    """Three images of each ID label, and their labels."""
    rows = bank.id_embeddings.repeat(3, 1)
    return near(rows, 3.0, seed=8), list(bank.id_names) * 3


def expected(bank, z, labels, count=None):
    """Kept negatives by the equations, in float64, the largest mean margin first."""
    prototypes = {}
    for name in dict.fromkeys(labels):
        rows = torch.stack([row for row, label in zip(z, labels, strict=True) if label == name]).double()
        prototypes[name] = rows.mean(0) / rows.mean(0).norm()
    kept = []
    for name, n in zip(bank.negative_names, bank.negative_embeddings.double(), strict=True):
        margins = [
            float(bank.id_embeddings[bank.id_names.index(c)].double() @ p - n @ p)
            for c, p in prototypes.items()
        ]
        if min(margins) > 0:
            kept.append((-sum(margins) / len(margins), name))
    return [name for _, name in sorted(kept)][:count]


@pytest.mark.parametrize("count", [None, 1, 10, 10_000])
@pytest.mark.parametrize("told", [True, False])
def test_it_keeps_what_lies_farther_from_every_class_than_its_name(bank, images, count, told):
    z, labels = images
    chosen = tanl.InterModal(z, labels if told else None, count=count)(bank)
    if not told:
        labels = [bank.id_names[i] for i in (z @ bank.id_embeddings.T).argmax(1).tolist()]
    names = expected(bank, z, labels, count)
    assert 0 < len(names) < bank.num_negatives
    assert list(chosen.negative_names) == names
    assert chosen.id_names == bank.id_names and chosen.logit_scale == bank.logit_scale
    rows = [bank.names.index(name) for name in names]
    assert torch.equal(chosen.negative_embeddings, bank.embeddings[rows])


def test_classes_without_images_take_no_part(bank, images):
    z, labels = images
    some = [i for i, label in enumerate(labels) if label in bank.id_names[:2]]
    chosen = tanl.InterModal(z[some], [labels[i] for i in some])(bank)
    assert list(chosen.negative_names) == expected(bank, z[some], [labels[i] for i in some])
    other = tanl.InterModal(z[some], ["no label"] * len(some))
    with pytest.raises(ValueError, match="no ID image is of an ID label of the bank"):
        other(bank)


def test_detectors_take_it_in_place_of_a_number(bank, images, stream):
    choice = tanl.InterModal(*images)
    names = set(choice(bank).negative_names)
    neglabel = tanl.NegLabel(bank, num_negatives=choice, groups=3)
    assert set(neglabel.negatives()[0]) == names
    assert set(tanl.AdaNeg(bank, num_negatives=choice, groups=3).negatives()[0]) == names
    detector = tanl.TANL(bank, candidates=choice, num_selected=10, initial_ood=unit(15, 16, seed=9))
    for z in stream:
        detector(z)
        assert set(detector.selected) <= names
    for made in (neglabel, detector):
        told = made.state_dict()["settings"]
        assert repr(choice) in told.values()
        assert repr(choice).startswith("InterModal(21 images of 7 labels, ")
        again = made.relabelled(made.bank)
        assert set(again.negatives()[0]) <= names
    other = tanl.InterModal(near(images[0], 0.1, seed=3), images[1])
    with pytest.raises(ValueError, match="saved with another settings"):
        tanl.NegLabel(bank, num_negatives=other, groups=3).load_state_dict(neglabel.state_dict())


def test_images_that_a_stream_was_sure_of_choose_too(bank, stream):
    detector = tanl.TANL(bank, num_selected=10, gap=0.0, capacity=40, initial_ood=unit(15, 16, seed=9))
    for z in [*stream, near(bank.id_embeddings, 1.0, seed=4)]:
        detector(z)
    assert detector.state.admitted_id > 0
    ring = detector.state.positive.embeddings
    names = [bank.id_names[i] for i in (ring @ bank.id_embeddings.T).argmax(1).tolist()]
    assert list(tanl.InterModal(ring)(bank).negative_names) == expected(bank, ring, names)


def test_a_function_that_loses_labels_is_refused(bank):
    def lossy(bank):
        return tanl.LabelBank(bank.names[1:], bank.embeddings[1:], num_id=bank.num_id - 1)

    with pytest.raises(ValueError, match="must keep the ID labels and at least one negative"):
        tanl.NegLabel(bank, num_negatives=lossy)


def test_unusable_images_are_refused(bank, images):
    z, labels = images
    for make, kind, message in (
        (lambda: tanl.InterModal(z, labels[:-1]), ValueError, "21 ID images, but 20 labels"),
        (lambda: tanl.InterModal(z, "cat"), TypeError, "labels must be a list of strings"),
        (lambda: tanl.InterModal(2 * z), ValueError, "ID image embeddings: row 0 has norm 2"),
        (lambda: tanl.InterModal(z, count=0), ValueError, "count must be"),
        (lambda: tanl.InterModal(unit(3, 15))(bank), ValueError, "D = 15"),
        (
            lambda: tanl.InterModal(-bank.id_embeddings, bank.id_names)(bank),
            ValueError,
            "none of the 103 negatives",
        ),
    ):
        with pytest.raises(kind, match=message):
            make()


def test_a_guard_chooses_by_id_images_and_says_so(tmp_path):
    words = ["yellow", *(f"word {letter}{number}" for letter in "abcd" for number in range(10))]
    options = {"corpus": words, "cache_dir": tmp_path}
    backbone = ColourBackbone()
    orange, blue = torch.tensor([235, 150, 15]) / 255, torch.tensor([20, 30, 230]) / 255
    pixels = torch.stack([orange, orange, orange, blue, blue, blue])[:, :, None, None].expand(6, 3, 4, 4)
    pixels = pixels + 0.05 * torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    z = backbone.encode_images(pixels)
    for method in ("neglabel", "tanl", "adaneg"):
        guard = tanl.Guard(backbone, ["red", "blue"], method=method, id_images=pixels, **options)
        kept = set(tanl.InterModal(z)(guard.bank).negative_names)
        assert set(guard.detector.negatives()[0]) <= kept == set(guard.bank.negative_names) - {"yellow"}
        assert guard.id_images == 6 and "negatives chosen by 6 ID images" in repr(guard)
    guard.judge(pixels)
    guard.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="give that function as method"):
        tanl.Guard.load(tmp_path / "saved", backbone=backbone, cache_dir=tmp_path)
    again = tanl.Guard.load(
        tmp_path / "saved", backbone=backbone, method="adaneg", id_images=pixels, cache_dir=tmp_path
    )
    assert torch.equal(again.score(pixels), guard.score(pixels))
    with pytest.raises(ValueError, match="saved with num_negatives='InterModal"):
        tanl.Guard.load(tmp_path / "saved", backbone=backbone, method="adaneg", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="'mcm' chooses nothing by ID images; tanl, tanl-paper"):
        tanl.Guard(backbone, ["red", "blue"], method="mcm", id_images=pixels, **options)
    with pytest.raises(ValueError, match="let the function take them"):
        tanl.Guard(backbone, ["red", "blue"], method=tanl.NegLabel, id_images=pixels, **options)
