"""A gallery of tiny pictures with cameras and numbers, and the model that made it."""

from pathlib import Path

import pytest

from cffa_hf.inference.embedder import Embedder
from cffa_hf.search import Gallery
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a model with random weights."""
    folder = tmp_path_factory.mktemp("service") / "model"
    tiny_model().base_model.save_pretrained(folder)
    tiny_processor(person_rows()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gallery_folder(tmp_path_factory) -> Path:
    """Twelve images of it in a gallery on the disk, beside the images."""
    folder = tmp_path_factory.mktemp("service")
    rows = person_rows()
    (folder / "people").mkdir()
    metadata = {}
    for row in rows:
        (folder / "people" / row["file_path"]).write_bytes(row["image"]["bytes"])
        metadata[row["file_path"]] = {"camera": f"cam_{'abc'[row['image_id'] % 3]}", "number": row["image_id"]}
    embedder = Embedder(tiny_model().base_model, tiny_processor(rows), precision="float32")
    Gallery.from_folder(embedder, folder / "people", folder / "gallery", metadata=metadata, progress=False).close()
    return folder / "gallery"


@pytest.fixture(scope="module")
def gallery(gallery_folder):
    """The gallery, open."""
    embedder = Embedder(tiny_model().base_model, tiny_processor(person_rows()), precision="float32")
    gallery = Gallery.open(gallery_folder, embedder)
    yield gallery
    gallery.close()
