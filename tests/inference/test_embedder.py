"""One loop encodes: alone or in batches, padded or not, the vectors are the same."""

import pytest
import torch

from cffa_hf import CFFAModel, Embedder
from cffa_hf.errors import InputError
from cffa_hf.evaluation import RetrievalEvaluator
from cffa_hf.search import Gallery
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(3)


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
    assert len(embedder.captions([])) == len(embedder.images([])) == 0
    model = CFFAModel(embedder.model.config).train()
    Embedder(model, embedder.processor).captions(["red"])
    assert model.training


def test_an_image_that_cannot_be_read_is_named(embedder, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.png"):
        embedder.images([tmp_path / "nothing.png"])
