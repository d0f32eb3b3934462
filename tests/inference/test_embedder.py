"""One loop encodes: alone or in batches, padded or not, in one thread or two, the vectors are the same."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from cffa_hf import CFFAModel, Embedder
from cffa_hf.errors import InputError
from cffa_hf.evaluation import RetrievalEvaluator
from cffa_hf.inference import embedder as embedder_module
from cffa_hf.inference.embedder import token_batches
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.precision import computes_bfloat16, resolve_precision
from cffa_hf.search import Gallery
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(3)
TEXTS = [text for texts in ROWS["captions"] for text in texts]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model().base_model, tiny_processor(ROWS), batch_size=4, precision="float32")


def test_the_evaluation_the_gallery_and_the_embedder_agree(embedder):
    evaluated = RetrievalEvaluator(ROWS, embedder.processor, batch_size=5, progress=False).embed(embedder.model)
    texts = [text for texts in ROWS["captions"] for text in texts]
    torch.testing.assert_close(embedder.images(ROWS["image"][:]), evaluated.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedder.captions(texts), evaluated.text, atol=1e-5, rtol=0)
    gallery = Gallery.from_images(embedder, ROWS["image"][:], ROWS["file_path"][:], progress=False)
    kept = torch.from_numpy(gallery.items.vectors).float()
    torch.testing.assert_close(kept, embedder.images(ROWS["image"][:]), atol=1e-3, rtol=0)  # in float16


def test_each_caption_keeps_its_place_and_its_vector(embedder):
    texts = ["red", "a man in a very long blue coat with a hat", "", "yellow top and red trousers", "red"]
    together = embedder.captions(texts)
    assert torch.equal(together[0], together[4])
    for text, vector in zip(texts, together, strict=True):
        torch.testing.assert_close(embedder.captions([text])[0], vector, atol=1e-5, rtol=0)
    assert together.norm(dim=1) == pytest.approx(1, abs=1e-5)


def test_nothing_gives_nothing_and_the_mode_is_restored(embedder):
    assert embedder.captions([]).shape == embedder.images([]).shape == (0, embedder.width)
    model = CFFAModel(embedder.model.config).train()
    Embedder(model, embedder.processor).captions(["red"])
    assert model.training


def test_an_image_that_cannot_be_read_is_named(embedder, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.png"):
        embedder.images([tmp_path / "nothing.png"])


def test_the_precision_is_resolved_and_refused_where_it_cannot_be(embedder):
    model, processor = embedder.model, embedder.processor
    assert embedder.precision == "float32"
    assert Embedder(model, processor).precision == ("bfloat16" if computes_bfloat16("cpu") else "float32")
    assert Embedder(model, processor, precision="bfloat16").precision == "bfloat16"
    half = tiny_model().base_model.half()
    assert Embedder(half, processor).precision == Embedder(half, processor, precision="float32").precision == "float16"
    with pytest.raises(InputError, match="float16 weights"):
        Embedder(half, processor, precision="bfloat16")
    with pytest.raises(InputError, match="not 'int8'"):
        Embedder(model, processor, precision="int8")
    with pytest.raises(InputError, match="no bfloat16"):
        resolve_precision("bfloat16", torch.float32, "meta")
    with pytest.raises(InputError, match="at least 1"):
        Embedder(model, processor, batch_size=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_saved_in_half_precision_are_computed_in_their_own(embedder, dtype):
    half = Embedder(tiny_model().base_model.to(dtype), embedder.processor)
    for found, expected in (
        (half.images(ROWS["image"][:]), embedder.images(ROWS["image"][:])),
        (half.captions(TEXTS), embedder.captions(TEXTS)),
    ):
        assert found.dtype == torch.float32
        assert F.cosine_similarity(found, expected).min() > 0.98


def test_bfloat16_is_near_float32_and_gives_unit_rows(embedder):
    fast = Embedder(embedder.model, embedder.processor, precision="bfloat16")
    for found, expected in (
        (fast.images(ROWS["image"][:]), embedder.images(ROWS["image"][:])),
        (fast.captions(TEXTS), embedder.captions(TEXTS)),
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert F.cosine_similarity(found, expected).min() > 0.98
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)), atol=1e-6, rtol=0)
    assert fast.width == embedder.images(ROWS["image"][:1]).shape[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_layers_and_mode_are_left_as_they_were(embedder, precision):
    model = CFFAModel(embedder.model.config).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    busy = Embedder(model, embedder.processor, precision=precision)
    stream = busy.image_batches(ROWS["image"][:])
    next(stream)
    busy.captions(TEXTS)
    assert model.training  # between two batches too
    assert [type(module) for module in model.modules()] == classes
    stream.close()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_first_thread_switches_and_the_last_one_switches_back():
    model = tiny_model().train()
    classes = [type(module) for module in model.modules()]
    entered, leave = threading.Event(), threading.Event()

    def visit():
        with evaluation_mode(model):
            entered.set()
            leave.wait(30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(visit)
        entered.wait(30)
        with evaluation_mode(model):
            leave.set()
            first.result()
            assert not model.training
            assert [type(module) for module in model.modules()] != classes
    assert model.training
    assert [type(module) for module in model.modules()] == classes


def test_two_threads_at_once(embedder):
    model = CFFAModel(embedder.model.config).train()
    torch.manual_seed(0)
    busy = Embedder(model, embedder.processor, batch_size=2, precision="bfloat16")
    images, captions = busy.images(ROWS["image"][:]), busy.captions(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        results = [(pool.submit(busy.images, ROWS["image"][:]), pool.submit(busy.captions, TEXTS)) for _ in range(8)]
        for found, texts in results:
            torch.testing.assert_close(found.result(), images, atol=1e-6, rtol=0)
            torch.testing.assert_close(texts.result(), captions, atol=1e-6, rtol=0)
    assert model.training


def test_finished_batches_come_one_by_one_with_what_could_not_be_read(embedder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    sources = [image["bytes"] for image in ROWS["image"][:]][:5]
    expected = embedder.images(sources)
    sources[1:1] = [tmp_path / "broken.jpg"]
    sources += [b"", b"", b""]
    taken = []
    stream = embedder.image_batches(taken.append(index) or source for index, source in enumerate(sources))
    batches = [next(stream)]
    assert batches[0][0] == [0, 2, 3]
    batches += stream
    assert taken == list(range(9))
    assert [indices for indices, _, _ in batches] == [[0, 2, 3], [4, 5], []]
    torch.testing.assert_close(torch.cat([vectors for _, vectors, _ in batches]), expected, atol=1e-5, rtol=0)
    failures = [failure for _, _, failed in batches for failure in failed]
    assert [index for index, _ in failures] == [1, 6, 7, 8]
    assert "broken.jpg" in failures[0][1]
    assert batches[2][1].shape == (0, embedder.width)


@pytest.mark.parametrize(
    ("lengths", "most"), [([], 8), ([3], 2), ([2, 2, 2, 4, 4, 9, 20], 8), (list(range(1, 60)), 100)]
)
def test_batches_of_captions_hold_a_number_of_tokens_at_most(lengths, most):
    parts = [lengths[part] for part in token_batches(lengths, most)]
    assert [length for part in parts for length in part] == lengths
    for part in filter(None, parts):
        assert len(part) * part[-1] <= most or len(part) == 1
    for part, following in pairwise(parts):
        assert (len(part) + 1) * following[0] > most


def test_what_a_cpu_computes_at_once_does_not_matter(embedder, monkeypatch):
    images, captions = embedder.images(ROWS["image"][:]), embedder.captions(TEXTS)
    monkeypatch.setattr(embedder_module, "CPU_PIXELS", 1)
    monkeypatch.setattr(embedder_module, "CPU_TOKENS", 30)
    torch.testing.assert_close(embedder.images(ROWS["image"][:]), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedder.captions(TEXTS), captions, atol=1e-5, rtol=0)
