"""Detectors inside pytorch-ood's own metrics and benchmark classes, on data sets in memory."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

from conftest import unit

pytorch_ood = pytest.importorskip("pytorch_ood", reason='needs pytorch-ood: pip install "tanl[pytorch-ood]"')

from pytorch_ood.api import FeaturesDetector, ModelNotSetException  # noqa: E402
from pytorch_ood.benchmark import Benchmark  # noqa: E402
from pytorch_ood.detector import MCM  # noqa: E402
from pytorch_ood.metrics import OODMetrics  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset  # noqa: E402

import tanl  # noqa: E402
from tanl.integrations import pytorch_ood as pytorch_ood_adapter  # noqa: E402
from tanl.integrations.pytorch_ood import as_pytorch_ood  # noqa: E402

MAKERS = {
    "MCM": tanl.MCM,
    "MaxLogit": tanl.MaxLogit,
    "Energy": tanl.Energy,
    "NegLabel": lambda bank: tanl.NegLabel(bank, num_negatives=None, groups=5),
    "CSP": lambda bank: tanl.CSP(bank, share=0.5, groups=3),
    "AdaNeg": tanl.AdaNeg,
    "TANL": lambda bank: tanl.TANL(bank, num_selected=20, capacity=20, initial_ood=unit(15, 16, seed=9)),
}


class Encoder:
    """Images to the embeddings that they hold, counting what it is given."""

    def __init__(self):
        self.images = 0

    def __call__(self, x):
        self.images += len(x)
        return normalize(x.flatten(1), dim=1)


class SyntheticBenchmark(Benchmark):
    """63 ID images near the ID labels and two OOD sets near negative labels, 4 x 4 pixels of one channel."""

    ood_names = ("near", "far")

    def __init__(self):
        labels = unit(110, 16, seed=1)  # those of the bank
        generator = torch.Generator().manual_seed(3)

        def near(rows, classes):
            z = labels[rows] + 0.2 * torch.randn(len(rows), 16, generator=generator)
            return TensorDataset(3 * normalize(z, dim=1).view(-1, 1, 4, 4), classes)

        rows = torch.arange(63) % 7
        self.id_set = near(rows, rows)
        self.ood_sets = [near(7 + torch.arange(n) % 103, torch.full((n,), -1)) for n in (65, 40)]

    def train_set(self):
        return self.id_set

    def test_sets(self, known=True, unknown=True):
        if known and unknown:
            return [ConcatDataset([self.id_set, ood]) for ood in self.ood_sets]
        return [self.id_set] if known else self.ood_sets


@pytest.fixture
def benchmark_set():
    return SyntheticBenchmark()


def whole(dataset):
    images, labels = next(iter(DataLoader(dataset, batch_size=1000)))
    return images, labels


def own_metrics(scores, labels):
    metrics = tanl.OODMetrics()
    metrics.update(scores, labels)
    return metrics.compute()


@pytest.mark.parametrize("method", MAKERS)
def test_benchmark_runs_every_detector_and_agrees_with_our_metrics(bank, benchmark_set, method):
    detector = MAKERS[method](bank)
    adapted = as_pytorch_ood(detector, Encoder(), whole_sets=True, batch_size=1000, seed=None)
    assert isinstance(adapted, FeaturesDetector)
    results = benchmark_set.evaluate(adapted, loader_kwargs={"batch_size": 20})
    assert [result["Dataset"] for result in results] == ["near", "far"]
    for result, dataset in zip(results, benchmark_set.test_sets(), strict=True):
        images, labels = whole(dataset)
        detector.reset()
        expected = own_metrics(detector(normalize(images.flatten(1), dim=1)), labels)
        assert result["AUROC"] == pytest.approx(expected["AUROC"], abs=1e-6)
        assert result["FPR95TPR"] == pytest.approx(expected["FPR95"], abs=1e-6)
        assert result["AUPR-OUT"] == pytest.approx(expected["AUPR_OUT"], abs=1e-2)
        # The sign is the same: with the other one, what separates well would be near 0.
        assert result["AUROC"] > 0.8


@pytest.mark.parametrize("method", MAKERS)
def test_metrics_take_scores_from_a_loop_over_batches(bank, benchmark_set, method):
    detector, reference = MAKERS[method](bank), MAKERS[method](bank)
    adapted = as_pytorch_ood(detector, Encoder(), whole_sets=False)
    metrics, ours = OODMetrics(), tanl.OODMetrics()
    for images, labels in DataLoader(benchmark_set.test_sets()[0], batch_size=17):
        scores = adapted(images)
        assert scores.shape == (len(images),)
        metrics.update(scores, labels)
        ours.update(reference(normalize(images.flatten(1), dim=1)), labels)
    found, expected = metrics.compute(), ours.compute()
    assert found["AUROC"] == pytest.approx(expected["AUROC"], abs=1e-6)
    assert found["FPR95TPR"] == pytest.approx(expected["FPR95"], abs=1e-6)
    assert found["AUROC"] > 0.8


def test_mcm_scores_as_pytorch_oods_own(bank, benchmark_set):
    images, _ = whole(benchmark_set.test_sets()[0])
    theirs = MCM(Encoder(), bank.id_embeddings, temperature=1.0)
    ours = as_pytorch_ood(tanl.MCM(bank), Encoder())
    # Ours is the mass of the other labels, theirs the negative of the best one's: one apart.
    torch.testing.assert_close(ours(images), 1 + theirs(images), atol=1e-6, rtol=0)


def test_whole_sets_are_streams_of_their_own_in_shuffled_batches(bank, benchmark_set):
    z = normalize(whole(benchmark_set.test_sets()[0])[0].flatten(1), dim=1)
    detector, reference = MAKERS["TANL"](bank), MAKERS["TANL"](bank)
    adapted = as_pytorch_ood(detector, whole_sets=True, batch_size=30, seed=5)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(5))
    expected = torch.empty(len(z))
    for rows in order.split(30):
        expected[rows] = reference(z[rows])
    first = adapted.predict_features(z)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(adapted.predict_features(z), first)


def test_calls_go_on_in_one_stream_where_sets_are_not_whole(bank, benchmark_set):
    z = normalize(whole(benchmark_set.test_sets()[0])[0].flatten(1), dim=1)
    detector, reference = MAKERS["TANL"](bank), MAKERS["TANL"](bank)
    adapted = as_pytorch_ood(detector, whole_sets=False, batch_size=16)
    parts = [(0, 40), (40, 41), (41, len(z))]
    for start, end in parts:
        expected = torch.cat([reference(part) for part in z[start:end].split(16)])
        scores = adapted.predict_features(z[start:end])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["AdaNeg", "TANL"])
def test_a_detector_with_a_stream_must_be_told_what_a_call_is(bank, method):
    with pytest.raises(ValueError, match=f"{method} learns from its stream: say whole_sets=True"):
        as_pytorch_ood(MAKERS[method](bank))


@pytest.mark.parametrize("method", ["MCM", "MaxLogit", "Energy", "NegLabel", "CSP"])
def test_a_detector_without_a_stream_need_not_be_told(bank, method):
    scores = as_pytorch_ood(MAKERS[method](bank)).predict_features(unit(5, 16))
    torch.testing.assert_close(scores, MAKERS[method](bank)(unit(5, 16)), atol=1e-5, rtol=1e-5)


def test_detectors_of_one_encoder_share_its_embeddings_and_keep_their_names(bank, benchmark_set):
    encoder = Encoder()
    detectors = [as_pytorch_ood(make(bank), encoder, whole_sets=True) for make in MAKERS.values()]
    results = benchmark_set.evaluate(detectors, loader_kwargs={"batch_size": 64})
    assert [result["Detector"] for result in results] == [*MAKERS, *MAKERS]
    assert encoder.images == 63 + 65 + 63 + 40


def test_features_of_any_norm_and_precision_are_taken(bank):
    adapted, z = as_pytorch_ood(tanl.MCM(bank)), unit(5, 16)
    expected = adapted.predict_features(z)
    torch.testing.assert_close(adapted.predict_features(7 * z), expected)
    torch.testing.assert_close(adapted.predict_features(z.half()), expected, atol=1e-3, rtol=0)


def test_nothing_is_fitted_and_no_graph_is_kept(bank, benchmark_set):
    adapted = as_pytorch_ood(tanl.MCM(bank), Encoder())
    assert adapted.requires_fit is False
    assert adapted.fit(DataLoader(benchmark_set.train_set())) is adapted
    assert adapted.fit_features(unit(5, 16), torch.zeros(5)) is adapted
    assert not adapted.predict_features(unit(5, 16).requires_grad_()).requires_grad
    assert adapted.to("cpu") is adapted


def test_images_need_an_encoder(bank):
    with pytest.raises(ModelNotSetException, match="needs the encoder"):
        as_pytorch_ood(tanl.MCM(bank)).predict(torch.zeros(1, 1, 4, 4))


def test_backbone_encodes_images_for_a_benchmark(tiny_backbone, tmp_path):
    bank = tanl.build_bank(tiny_backbone, ["cat", "dog"], corpus=["w", "v"], cache_dir=tmp_path)
    encoder = tiny_backbone.encode_images
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    adapted = as_pytorch_ood(tanl.NegLabel(bank, groups=1), encoder)
    torch.testing.assert_close(adapted(images), tanl.NegLabel(bank, groups=1)(encoder(images)))


def test_what_is_no_detector_of_embeddings_is_refused(bank):
    with pytest.raises(TypeError, match="scores embeddings alone, not GLMCM"):
        as_pytorch_ood(tanl.GLMCM(bank))
    with pytest.raises(TypeError, match="not LabelBank"):
        as_pytorch_ood(bank)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        as_pytorch_ood(tanl.MCM(bank), batch_size=0)


def test_missing_pytorch_ood_names_the_extra(bank, monkeypatch):
    pytorch_ood_adapter._adapter.cache_clear()
    monkeypatch.setitem(sys.modules, "pytorch_ood.api", None)
    with pytest.raises(ImportError, match=r'pip install "tanl\[pytorch-ood\]"'):
        as_pytorch_ood(tanl.MCM(bank))


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_goes_on_where_the_adapter_was_and_alone(bank, benchmark_set, how, name):
    adapter = as_pytorch_ood(MAKERS[name](bank), Encoder(), whole_sets=False, batch_size=16, seed=3)
    images, _ = whole(benchmark_set.id_set)
    adapter.predict(images)
    twin = COPIES[how](adapter)
    assert type(twin) is type(adapter)
    assert isinstance(twin, FeaturesDetector)
    assert twin.detector is not adapter.detector
    assert (twin.batch_size, twin.seed, twin.whole_sets, twin.encoder.images) == (16, 3, False, len(images))
    scores = twin.predict(images)
    assert adapter.encoder.images == len(images)
    assert torch.equal(adapter.predict(images), scores)


def test_adapters_of_one_method_have_one_class_with_its_name(bank):
    first, second = as_pytorch_ood(tanl.MCM(bank)), as_pytorch_ood(tanl.MCM(bank))
    assert type(first) is type(second)
    assert type(first).__name__ == "MCM"
    assert repr(first) == f"as_pytorch_ood({first.detector!r}, whole_sets=False)"


def test_an_unpickled_adapter_in_another_process_needs_no_adapter_there_first(bank, tmp_path):
    adapter = as_pytorch_ood(tanl.MCM(bank))
    torch.save(adapter, tmp_path / "adapter.pt")
    z = unit(9, 16, seed=4)
    torch.save(adapter.predict_features(z), tmp_path / "scores.pt")
    code = (
        "import sys, torch\n"
        "adapter, z, scores = (torch.load(path, weights_only=False) for path in sys.argv[1:])\n"
        "assert torch.equal(adapter.predict_features(z), scores)"
    )
    torch.save(z, tmp_path / "z.pt")
    files = [str(tmp_path / name) for name in ("adapter.pt", "z.pt", "scores.pt")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
