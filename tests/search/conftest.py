"""A tiny model, its embedder and a folder of images."""

import csv

import pytest

from cffa_hf.inference import Embedder
from cffa_hf.inputs.images import read_image
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def rows():
    return person_rows(identities=3)


@pytest.fixture(scope="module")
def processor(rows):
    return tiny_processor(rows)


@pytest.fixture(scope="module")
def embedder(processor):
    return Embedder(tiny_model().base_model, processor, precision="float32", batch_size=4)


@pytest.fixture
def folder(rows, tmp_path):
    """Six images in two folders, with a table of cameras and times beside them."""
    people = tmp_path / "people"
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "camera", "time", "floor"])
        for row in rows:
            camera = f"cam_{row['image_id'] % 2}"
            path = people / camera / row["file_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            read_image(row["image"]).save(path)
            table.writerow([f"{camera}/{path.name}", camera, f"2024-01-0{row['image_id'] + 1}T10:00", row["image_id"]])
    (people / "notes.txt").write_text("not an image")
    return people
