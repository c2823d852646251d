"""Nearest labels in shards, as a search finds them that gives 2048 a query at most and multiplies in half precision."""

import pytest
import torch

import tanl
from conftest import unit
from tanl.labels import index as label_index
from tanl.labels import on_gpu
from tanl.labels.index import LabelIndex
from tanl.labels.nearest import nearest
from tanl.labels.on_gpu import LIMIT, nearest_in_shards


class StandIn:
    """faiss's brute force on a GPU, as far as its limits, its order and its precision go."""

    def __init__(self, dtype=torch.float32):
        self.calls, self.dtype = [], dtype

    def __call__(self, z, labels, k):
        assert z.dtype == labels.dtype == torch.float32
        assert 1 <= k <= min(LIMIT, len(labels)), "faiss raises beyond 2048 and beyond its labels"
        self.calls.append((len(labels), k))
        cosines = (z.to(self.dtype) @ labels.to(self.dtype).T).float()
        return cosines.topk(k, dim=1)


def assert_same(found, z, labels, k):
    """As good as an exact search: labels that are nearer to each other than rounding tells may change places."""
    expected = nearest(z, labels, k)
    torch.testing.assert_close(found.cosines, expected.cosines, atol=1e-6, rtol=0)
    assert found.cosines.diff(dim=1).le(0).all()
    assert found.rows.sort(dim=1).values.diff(dim=1).gt(0).all()
    own = torch.einsum("bd,bkd->bk", z, labels.float()[found.rows])
    torch.testing.assert_close(own, found.cosines, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("count", "k"), [(1, 1), (63, 5), (63, 63), (5003, 1), (5003, 1984), (5003, 3000), (5003, 5003)]
)
def test_shards_find_what_an_exact_search_finds(count, k, dtype):
    z, labels, search = unit(7, 24, seed=1), unit(count, 24, seed=2).to(dtype), StandIn()
    assert_same(nearest_in_shards(z, labels, k, search), z, labels, k)
    assert sum(size for size, _ in search.calls) == count


def test_many_labels_are_searched_in_parts(monkeypatch):
    monkeypatch.setattr(on_gpu, "_SHARD", 700)
    z, labels, search = unit(5, 24, seed=1), unit(3001, 24, seed=2), StandIn()
    assert_same(nearest_in_shards(z, labels, 50, search), z, labels, 50)
    assert [size for size, _ in search.calls] == [601, 601, 601, 601, 597]


def test_a_shard_that_holds_more_of_the_nearest_than_faiss_gives_is_searched_again(monkeypatch):
    """All that is near to the first query lies in one shard; the other queries are spread."""
    labels = unit(9000, 24, seed=2)
    z = unit(3, 24, seed=1)
    order = (labels @ z[0]).argsort(descending=True)
    labels = labels[order].contiguous()
    again = []
    monkeypatch.setattr(on_gpu, "nearest", lambda z, labels, k: again.append(len(z)) or nearest(z, labels, k))
    assert_same(nearest_in_shards(z, labels, 2500, StandIn()), z, labels, 2500)
    assert again and again[0] < 3


def test_candidates_of_a_coarse_product_are_scored_exactly():
    z, labels = unit(9, 64, seed=1), unit(3001, 64, seed=2)
    found = nearest_in_shards(z, labels, 20, StandIn(torch.bfloat16))
    assert_same(found, z, labels, 20)


def test_equal_labels_keep_their_order():
    labels = unit(40, 8, seed=1).repeat(3, 1)
    found = nearest_in_shards(unit(4, 8, seed=2), labels, 9, StandIn())
    assert found.rows[:, :3].sort(dim=1).values.equal(found.rows[:, :3])
    assert found.rows[:, :3].diff(dim=1).eq(40).all()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    search = StandIn()
    monkeypatch.setattr(label_index, "best_search", lambda device: search)
    return search


def test_an_index_searches_with_it_and_says_the_same(as_on_a_gpu):
    names, labels, z = [f"word {i}" for i in range(503)], unit(503, 24, seed=3), unit(6, 24, seed=4)
    index = LabelIndex(names, labels, kind="flat")
    assert_same(index.search(z, 10), z, labels, 10)
    assert_same(index.candidates(z, 200), z, labels, 200)
    assert len(as_on_a_gpu.calls) == 2


def test_approximate_activations_are_those_of_the_exact_search(as_on_a_gpu):
    bank = tanl.LabelBank(
        [f"label {i}" for i in range(900)], unit(900, 24, seed=3), num_id=20, logit_scale=30.0
    )
    z, segments = unit(40, 24, seed=4), [(0, 40), (3, 9)]
    index = LabelIndex.of(bank, kind="flat")
    activation = tanl.ApproximateActivation(bank, index, candidates=100, sample=60)
    found, lse = activation(z, segments)
    calls = len(as_on_a_gpu.calls)
    assert calls == 1
    exact, sure = tanl.functional.activation_sums(z, bank.embeddings, 20, 30.0, segments)
    kept = found > 0
    torch.testing.assert_close(found[kept], exact[kept], atol=1e-4, rtol=0.3)
    torch.testing.assert_close(lse, sure, atol=0.3, rtol=0)


def test_a_saved_index_comes_back_on_the_cpu_and_can_be_moved(tmp_path):
    index = LabelIndex([f"word {i}" for i in range(63)], unit(63, 24, seed=3), kind="flat")
    index.save(tmp_path / "index.safetensors")
    again = LabelIndex.load(tmp_path / "index.safetensors")
    assert again.device.type == "cpu"
    assert torch.equal(again.to("cpu").embeddings, index.embeddings)
    with pytest.raises(ValueError, match="cannot be moved to cuda:77"):
        index.to("cuda:77")


def test_lists_cannot_be_moved():
    pytest.importorskip("faiss")
    index = LabelIndex([f"word {i}" for i in range(700)], unit(700, 24, seed=3), kind="ivf")
    with pytest.raises(
        ValueError, match=r"is for the CPU: on cuda there is LabelIndex\(\.\.\., kind='flat'\)"
    ):
        index.to("cuda")


def test_without_a_faiss_for_gpus_torch_searches_and_asking_for_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(on_gpu, "gpu_faiss", lambda: None)
    assert on_gpu.best_search(torch.device("cuda")) is None
    with pytest.raises(ImportError, match=r"pip install 'tanl\[faiss-gpu\]'"):
        on_gpu.faiss_search(torch.device("cuda", 0))


class FakeFaiss:
    """As much of a faiss for GPUs as a search touches; writes down what it is asked for."""

    METRIC_INNER_PRODUCT = 0

    def __init__(self):
        self.made, self.searched = 0, []
        self.cast_integer_to_float_ptr = self.cast_integer_to_idx_t_ptr = (
            self.cast_integer_to_cudastream_t
        ) = int

    class GpuDistanceParams:
        pass

    def StandardGpuResources(self):  # noqa: N802
        self.made += 1
        return self

    def setDefaultStream(self, device, stream):  # noqa: N802
        self.stream = (device, stream)

    def bfKnn(self, resources, parameters):  # noqa: N802
        assert on_gpu.lock_of(parameters.device).locked()
        self.searched.append(vars(parameters))


def test_faiss_gets_addresses_shapes_and_the_stream_of_the_caller_under_a_lock(monkeypatch):
    class Stream:
        cuda_stream = 1234

        def synchronize(self):
            pass

    faiss = FakeFaiss()
    monkeypatch.setattr(on_gpu, "gpu_faiss", lambda: faiss)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    on_gpu.resources_of.cache_clear()
    search = on_gpu.faiss_search(torch.device("cuda", 3))
    z, labels = unit(5, 24), unit(63, 24)
    cosines, rows = search(z, labels, 7)
    search(z, labels, 7)
    on_gpu.resources_of.cache_clear()
    assert faiss.made == 1
    assert faiss.stream == (3, 1234)
    asked = faiss.searched[0]
    assert (asked["k"], asked["dims"], asked["numVectors"], asked["numQueries"], asked["device"]) == (
        7,
        24,
        63,
        5,
        3,
    )
    assert (asked["vectors"], asked["queries"]) == (labels.data_ptr(), z.data_ptr())
    assert (asked["outDistances"], asked["outIndices"]) == (cosines.data_ptr(), rows.data_ptr())
    assert cosines.shape == rows.shape == (5, 7)
    assert (cosines.dtype, rows.dtype) == (torch.float32, torch.int64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_faiss_on_the_card_finds_what_torch_finds():
    if on_gpu.gpu_faiss() is None:
        pytest.skip("no faiss for GPUs")
    z, labels = unit(63, 64, seed=1).cuda(), unit(20_001, 64, seed=2).cuda()
    search = on_gpu.faiss_search(z.device)
    for k in (1, 100, 3000):
        assert_same(nearest_in_shards(z, labels, k, search), z, labels, k)
