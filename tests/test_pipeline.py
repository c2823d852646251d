"""guard_pipeline around transformers' own pipeline, on tiny random models."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "tanl[hf]"')

from states import assert_same_state, same_state, state_of  # noqa: E402
from tiny_hugging_face import KINDS, tiny_image_processor, tiny_model, tiny_tokenizer  # noqa: E402

import tanl  # noqa: E402
from tanl.integrations.transformers import GuardedPipeline, guard_pipeline  # noqa: E402

LABELS = ["cat", "dog", "bird"]
CORPUS = [f"w{i}" for i in range(30)]


def pipeline(kind="clip", **options):
    return transformers.pipeline(
        "zero-shot-image-classification",
        model=tiny_model(kind),
        image_processor=tiny_image_processor(kind),
        tokenizer=tiny_tokenizer(64 if kind.startswith("siglip") else 40),
        device="cpu",
        **options,
    )


@pytest.fixture
def pipe():
    return pipeline()


@pytest.fixture
def guarded(pipe, tmp_path):
    return guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)) for i in range(count)]


def without_verdict(results):
    return [[{key: entry[key] for key in ("score", "label")} for entry in result] for result in results]


def verdicts(results):
    """The one verdict of each image, in all of its entries."""
    for result in results:
        assert len({(entry["ood_score"], entry["is_ood"]) for entry in result}) == 1
    return [(result[0]["ood_score"], result[0]["is_ood"]) for result in results]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5])
def test_results_are_the_pipelines_with_the_guards_verdict(tmp_path, kind, size):
    pipe = pipeline(kind)
    guarded = guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(size)
    plain = pipe(images, candidate_labels=LABELS)
    guard = guarded.guard_for(LABELS)
    expected = guard.detector.score(guard.encode(images))
    before = state_of(guard.detector.state)
    results = guarded(images, candidate_labels=LABELS)
    assert without_verdict(results) == plain
    scores, is_ood = zip(*verdicts(results), strict=True)
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-5, rtol=1e-4)
    assert all(isinstance(value, bool) for value in is_ood)
    assert not same_state(guard.detector.state.state_dict(), before)
    # The caller's own pipeline is as it was.
    assert pipe(images, candidate_labels=LABELS) == plain


def test_one_image_a_path_and_a_list_have_the_pipelines_shapes(guarded, tmp_path):
    image = pictures(1)[0]
    image.save(tmp_path / "image.png")
    path = str(tmp_path / "image.png")
    guard = guarded.guard_for(LABELS)
    answers = []
    for given in (image, path, [image], [path]):
        guard.reset()
        result = guarded(given, candidate_labels=LABELS)
        assert isinstance(result[0], list if isinstance(given, list) else dict)
        answers.append(result[0] if isinstance(given, list) else result)
    assert all(answer == answers[0] for answer in answers)
    assert [set(entry) for entry in answers[0]] == [{"score", "label", "ood_score", "is_ood"}] * 3
    guard.reset()
    assert guarded(images=[image], candidate_labels=LABELS)[0] == answers[0]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_list_is_one_batch_of_the_stream_whatever_the_forward_batches(guarded, batch_size):
    images = pictures(8)
    whole = verdicts(guarded(images, candidate_labels=LABELS))
    guarded.guard_for(LABELS).reset()
    again = verdicts(guarded(images, candidate_labels=LABELS, batch_size=batch_size))
    assert [score for score, _ in again] == pytest.approx([score for score, _ in whole], abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_generator_is_answered_lazily_batch_by_batch(guarded, batch_size):
    images, read = pictures(8), []
    options = {} if batch_size is None else {"batch_size": batch_size}

    def stream():
        for i, image in enumerate(images):
            read.append(i)
            yield image

    answers = guarded(stream(), candidate_labels=LABELS, **options)
    first = next(answers)
    assert len(read) < 8
    lazily = verdicts([first, *answers])
    guarded.guard_for(LABELS).reset()
    size = batch_size or 1
    batches = [images[i : i + size] for i in range(0, 8, size)]
    expected = [each for batch in batches for each in verdicts(guarded(batch, candidate_labels=LABELS))]
    assert [score for score, _ in lazily] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_a_pipelines_own_batch_size_is_the_streams(tmp_path):
    guarded = guard_pipeline(pipeline(batch_size=4), corpus=CORPUS, cache_dir=tmp_path)
    images = pictures(6)
    lazily = verdicts(list(guarded((image for image in images), candidate_labels=LABELS)))
    guarded.guard_for(LABELS).reset()
    expected = [
        each
        for batch in (images[:4], images[4:])
        for each in verdicts(guarded(batch, candidate_labels=LABELS))
    ]
    assert [score for score, _ in lazily] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_each_label_set_has_a_stream_of_its_own(guarded):
    first, other = guarded.guard_for(LABELS), guarded.guard_for(["house", "tree"])
    assert first is not other
    assert guarded.guard_for(LABELS[::-1]) is first
    before = state_of(other.detector.state)
    own = state_of(first.detector.state)
    guarded(pictures(6), candidate_labels=LABELS[::-1])
    assert_same_state(other.detector.state.state_dict(), before)
    assert not same_state(first.detector.state.state_dict(), own)


def test_the_label_set_used_longest_ago_is_forgotten(pipe, tmp_path):
    guarded = guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path, label_sets=2)
    first, second = guarded.guard_for(["a"]), guarded.guard_for(["b"])
    assert guarded.guard_for(["a"]) is first
    guarded.guard_for(["c"])
    assert guarded.guard_for(["a"]) is first
    assert guarded.guard_for(["b"]) is not second


def test_fixed_labels_need_not_be_named_again(pipe, tmp_path):
    guarded = guard_pipeline(pipe, corpus=iter(CORPUS), labels=LABELS, cache_dir=tmp_path)
    image = pictures(1)[0]
    assert {entry["label"] for entry in guarded(image)} == set(LABELS)
    assert {entry["label"] for entry in guarded(image, ["tree", "house"])} == {"tree", "house"}
    assert guarded.guard_for(["tree", "house"]).bank.num_negatives == 30


def test_hypothesis_template_is_the_pipelines_and_templates_are_the_guards(pipe, tmp_path):
    images = pictures(3)
    guarded = guard_pipeline(pipe, corpus=CORPUS, method="mcm", cache_dir=tmp_path, templates={"noun": "{}"})
    other = {"candidate_labels": LABELS, "hypothesis_template": "zzz {} zzz"}
    assert without_verdict(guarded(images, **other)) == pipe(images, **other)
    assert verdicts(guarded(images, **other)) == verdicts(guarded(images, candidate_labels=LABELS))
    expected = guarded.backbone.encode_texts(LABELS)
    torch.testing.assert_close(guarded.guard_for(LABELS).bank.id_embeddings, expected)


def test_method_without_threshold_decides_once_calibrated(pipe, tmp_path):
    guarded = guard_pipeline(pipe, method="mcm", labels=LABELS, cache_dir=tmp_path)
    assert guarded(pictures(1)[0])[0]["is_ood"] is None
    threshold = guarded.guard_for().calibrate(pictures(25), tpr=0.9)
    for score, is_ood in verdicts(guarded(pictures(5, seed=1))):
        assert is_ood == (score > threshold)


def test_attributes_of_the_pipeline_remain(pipe, guarded):
    assert guarded.model is pipe.model
    assert guarded.tokenizer is pipe.tokenizer
    assert guarded.image_processor is pipe.image_processor
    assert guarded.task == "zero-shot-image-classification"
    assert guarded.device == torch.device("cpu")
    with pytest.raises(AttributeError, match="no_such_name"):
        guarded.no_such_name  # noqa: B018


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_compiled_model_gives_the_same(pipe, tmp_path, way):
    images = pictures(3)
    expected = verdicts(
        guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path)(images, candidate_labels=LABELS)
    )
    if way == "wrapped":
        pipe.model = torch.compile(pipe.model, backend="eager")
    else:
        pipe.model.compile(backend="eager")
    guarded = guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path)
    found = verdicts(guarded(images, candidate_labels=LABELS))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_half_precision_pipeline_is_judged_too(tmp_path):
    pipe = pipeline()
    pipe.model.to(torch.bfloat16)
    guarded = guard_pipeline(pipe, corpus=CORPUS, cache_dir=tmp_path)
    results = guarded(pictures(4), candidate_labels=LABELS)
    assert all(0 <= score <= 1 for score, _ in verdicts(results))


def test_threads_get_the_verdicts_of_their_own_images(pipe, tmp_path):
    guarded = guard_pipeline(pipe, method="mcm", labels=LABELS, cache_dir=tmp_path)
    images = pictures(12)
    expected = [guarded(image) for image in images]
    found = [None] * 12

    def judge(start):
        for i in range(start, 12, 3):
            found[i] = guarded(images[i])

    threads = [threading.Thread(target=judge, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_guard_that_is_being_made_keeps_no_other_label_set_waiting(pipe, tmp_path):
    making, others_are_done, made = threading.Event(), threading.Event(), []

    def method(bank):
        made.append(bank.id_names)
        if "slow" in bank.id_names:
            making.set()
            assert others_are_done.wait(20)
        return tanl.MCM(bank)

    guarded = guard_pipeline(pipe, corpus=CORPUS, method=method, labels=LABELS, cache_dir=tmp_path)
    found = []
    slow = [threading.Thread(target=lambda: found.append(guarded.guard_for(["slow", "b"]))) for _ in range(3)]
    for thread in slow:
        thread.start()
    assert making.wait(20)
    known = threading.Thread(target=lambda: (guarded(pictures(2)), others_are_done.set()))
    known.start()
    for thread in [*slow, known]:
        thread.join()
    assert others_are_done.is_set()
    assert made.count(("slow", "b")) == 1
    assert len(found) == 3 and found[0] is found[1] is found[2] is guarded.guard_for(["b", "slow"])


def test_a_guard_that_cannot_be_made_is_made_by_the_next_call(pipe, tmp_path):
    answers = iter([ValueError("not now"), None])

    def method(bank):
        if (error := next(answers)) is not None:
            raise error
        return tanl.MCM(bank)

    guarded = guard_pipeline(pipe, corpus=CORPUS, method=method, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="not now"):
        guarded.guard_for(LABELS)
    assert guarded.guard_for(LABELS).bank.id_names == tuple(LABELS)


@pytest.mark.parametrize(
    ("given", "labels", "kind", "message"),
    [
        ("image", None, ValueError, "give candidate_labels, or give guard_pipeline the labels"),
        ("image", "cat, dog", TypeError, "must be a list of strings, not the one string 'cat, dog'"),
        ("image", [], ValueError, "candidate label"),
        ("image", ["cat", "cat"], ValueError, "'cat'"),
        (None, LABELS, ValueError, "give an image"),
        ("missing.png", LABELS, ValueError, "missing.png"),
    ],
)
def test_what_cannot_be_judged_leaves_the_stream_alone(guarded, given, labels, kind, message):
    before = state_of(guarded.guard_for(LABELS).detector.state)
    image = pictures(1)[0] if given == "image" else given
    with pytest.raises(kind, match=message):
        guarded(image, candidate_labels=labels)
    assert_same_state(guarded.guard_for(LABELS).detector.state.state_dict(), before)


def test_an_unreadable_image_in_a_list_leaves_the_stream_alone(guarded):
    before = state_of(guarded.guard_for(LABELS).detector.state)
    with pytest.raises(ValueError, match=r"missing\.png"):
        guarded([*pictures(4), "missing.png"], candidate_labels=LABELS)
    assert_same_state(guarded.guard_for(LABELS).detector.state.state_dict(), before)


@pytest.mark.parametrize(
    ("value", "told"), [(0.0, "of zeros"), (float("nan"), "with NaN or infinite values")]
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_embedding_that_is_none_is_told_by_its_images_place(
    pipe, guarded, monkeypatch, place, value, told
):
    guarded(pictures(5), candidate_labels=LABELS)
    before = state_of(guarded.guard_for(LABELS).detector.state)
    forward, calls = pipe.model.forward, iter(range(5))

    def spoilt(**inputs):
        output = forward(**inputs)
        if next(calls) == place:
            output.image_embeds = torch.full_like(output.image_embeds, value)
        return output

    monkeypatch.setattr(pipe.model, "forward", spoilt)
    with pytest.raises(ValueError, match=f"image {place} of the batch: the model gives an embedding {told}"):
        guarded(pictures(5), candidate_labels=LABELS)
    assert_same_state(guarded.guard_for(LABELS).detector.state.state_dict(), before)


def test_an_empty_list_gives_what_the_pipeline_gives(pipe, guarded):
    try:
        expected = pipe([], candidate_labels=LABELS)
    except IndexError:
        with pytest.raises(IndexError):
            guarded([], candidate_labels=LABELS)
    else:
        assert guarded([], candidate_labels=LABELS) == expected


def test_a_model_without_image_embeddings_is_refused(pipe, guarded, monkeypatch):
    forward = pipe.model.forward

    def bare(**inputs):
        output = forward(**inputs)
        output.image_embeds = None
        return output

    monkeypatch.setattr(pipe.model, "forward", bare)
    with pytest.raises(TypeError, match="CLIPModel gives no image_embeds"):
        guarded(pictures(1)[0], candidate_labels=LABELS)


def test_other_pipelines_are_refused(pipe):
    class Other:
        task = "text-classification"

    with pytest.raises(TypeError, match=r"zero-shot-image-classification pipeline .*'text-classification'"):
        guard_pipeline(Other())
    with pytest.raises(TypeError, match="not 'Linear'"):
        guard_pipeline(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="label_sets must be at least 1"):
        guard_pipeline(pipe, label_sets=0)
    with pytest.raises(ValueError, match="no method 'tnal'"):
        guard_pipeline(pipe, method="tnal")
    assert isinstance(guard_pipeline(pipe), GuardedPipeline)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_where_the_pipeline_was_and_alone(tmp_path, how, kind):
    guarded = guard_pipeline(pipeline(kind), corpus=CORPUS, cache_dir=tmp_path, labels=LABELS)
    guarded(pictures(4))
    twin = COPIES[how](guarded)
    assert twin.guard_for() is not guarded.guard_for()
    assert twin.backbone.model is twin.pipeline.model is not guarded.pipeline.model
    before = state_of(guarded.guard_for().detector.state)
    assert_same_state(state_of(twin.guard_for().detector.state), before)
    batch = pictures(5, seed=1)
    answers = twin(batch)
    assert same_state(state_of(guarded.guard_for().detector.state), before)
    assert guarded(batch) == answers
    assert_same_state(state_of(guarded.guard_for().detector.state), state_of(twin.guard_for().detector.state))


def test_a_shallow_copy_shares_the_stream(guarded):
    guarded(pictures(4), candidate_labels=LABELS)
    twin = copy.copy(guarded)
    assert twin.guard_for(LABELS) is guarded.guard_for(LABELS)
    assert twin.pipeline is guarded.pipeline


def test_a_pipeline_is_copied_while_another_thread_calls_it(guarded):
    batches = [pictures(3, seed) for seed in range(12)]
    guarded(batches[0], candidate_labels=LABELS)
    caller = threading.Thread(
        target=lambda: [guarded(batch, candidate_labels=LABELS) for batch in batches[1:]]
    )
    caller.start()
    twins = [copy.deepcopy(guarded) for _ in range(5)]
    caller.join()
    for twin in twins:
        assert len(twin(batches[0], candidate_labels=LABELS)) == 3


def test_a_pipeline_that_is_not_there_yet_has_no_attributes():
    blank = GuardedPipeline.__new__(GuardedPipeline)
    with pytest.raises(AttributeError, match="GuardedPipeline has no attribute 'model'"):
        _ = blank.model


def test_repr_names_the_model_and_counts_the_label_sets(guarded):
    guarded(pictures(1), candidate_labels=LABELS)
    assert repr(guarded) == "GuardedPipeline('wrapped', label sets: 1)"


def test_16_bit_greys_are_not_clipped_to_white(guarded, tmp_path):
    values = np.linspace(0, 4095, 40 * 40).reshape(40, 40).astype(np.uint16)
    film, shown = Image.fromarray(values), Image.fromarray((values >> 4).astype(np.uint8)).convert("RGB")
    film.save(tmp_path / "film.png")
    guard = guarded.guard_for(LABELS)
    expected = guarded(shown, candidate_labels=LABELS)
    for given in (film, str(tmp_path / "film.png"), Image.fromarray(values.astype(np.float32))):
        guard.reset()
        assert guarded(given, candidate_labels=LABELS) == expected
        guard.reset()
        assert guarded([given], candidate_labels=LABELS) == [expected]
        guard.reset()
        assert list(guarded((each for each in [given]), candidate_labels=LABELS)) == [expected]
