"""What a gallery must never do: lose files, answer from stale or foreign vectors, or read outside its folder."""

import numpy as np
import pytest
import torch

from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import read_image
from cffa_hf.search.gallery import Gallery
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(identities=3)


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model().base_model, tiny_processor(ROWS), batch_size=4, precision="float32")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "people").mkdir()
    for row in ROWS:
        read_image(row["image"]).save(tmp_path / "people" / row["file_path"])
    return tmp_path / "people"


def index(embedder, folder, out, **options):
    return Gallery.from_folder(embedder, folder, out, progress=False, **options)


def test_saving_removes_nothing_that_is_not_a_gallerys(embedder, folder, tmp_path):
    own = tmp_path / "project" / "data-2024"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("mine")
    (tmp_path / "project" / "gallery-of-friends.safetensors").write_bytes(b"mine")
    Gallery.from_folder(embedder, folder, progress=False).save(tmp_path / "project")
    assert (own / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "project" / "gallery-of-friends.safetensors").is_file()


def test_what_is_added_after_a_gallery_was_saved_in_its_place_stays(embedder, folder, tmp_path):
    index(embedder, folder, tmp_path / "out").close()
    gallery = Gallery.open(tmp_path / "out", embedder)
    gallery.save(tmp_path / "out")
    gallery.add([ROWS[0]["image"]], ["late.png"])
    gallery.close()
    assert "late.png" in Gallery.open(tmp_path / "out", embedder).paths


def test_a_changed_image_that_cannot_be_read_is_found_no_more(embedder, folder, tmp_path):
    index(embedder, folder, tmp_path / "out").close()
    (folder / "0.png").write_bytes(b"no image any more")
    with pytest.warns(UserWarning, match=r"0\.png"):
        gallery = index(embedder, folder, tmp_path / "out")
    assert "0.png" not in gallery.paths


def test_another_dataset_is_not_answered_from_the_first_ones_vectors(embedder, tmp_path):
    Gallery.from_dataset(embedder, ROWS, tmp_path / "out", progress=False).close()
    others = person_rows(identities=3, first_id=90)
    expected = Gallery.from_dataset(embedder, others, progress=False)
    found = Gallery.from_dataset(embedder, others.select(range(5)), tmp_path / "out", progress=False)
    assert len(found) == 5
    for result, wanted in zip(found.search("red top", 5), expected.search("red top", 5), strict=False):
        assert result.path.endswith(".png")
        assert result.metadata["person_id"] >= 90
        assert wanted.score >= result.score - 1e-4
    same = Gallery.from_dataset(embedder, others.select(range(5)), tmp_path / "out", progress=False)
    assert same.items.rows == found.items.rows  # nothing was embedded again


def test_vectors_of_another_gallery_are_noticed(embedder, folder, tmp_path):
    index(embedder, folder, tmp_path / "out").close()
    (vectors,) = (tmp_path / "out").glob("data-*/vectors*")
    content = np.fromfile(vectors, dtype=np.float16).reshape(len(ROWS), -1)
    content[::-1].tofile(vectors)
    with pytest.raises(InputError):
        Gallery.open(tmp_path / "out", embedder).search("red", 3)


def test_a_column_that_begins_empty_is_of_the_kind_of_its_values(embedder, folder, tmp_path):
    names = sorted(path.name for path in folder.iterdir())
    columns = {name: {"age": None if place < 4 else (9, 30)[place - 4]} for place, name in enumerate(names)}
    gallery = index(embedder, folder, tmp_path / "out", metadata=columns)
    found = {result.path for result in gallery.search("red", 10, where={"age": {"min": 21}})}
    assert found == {names[5]}


def test_large_whole_numbers_are_not_confused(embedder, folder, tmp_path):
    names = sorted(path.name for path in folder.iterdir())
    columns = {name: {"track": 2**53 + place} for place, name in enumerate(names)}
    gallery = index(embedder, folder, tmp_path / "out", metadata=columns)
    for name in names[:2]:
        found = gallery.search("red", 10, where={"track": columns[name]["track"]})
        assert [result.path for result in found] == [name]
        assert found[0].metadata == columns[name]


def test_weights_that_differ_are_another_model(embedder, folder, tmp_path):
    mine = Embedder(embedder.model, embedder.processor, precision="float32")
    mine.weights_sha256 = "a" * 64
    index(mine, folder, tmp_path / "out").close()
    mine.weights_sha256 = "b" * 64
    with pytest.raises(InputError, match="another model"):
        Gallery.open(tmp_path / "out", mine)


def test_the_kind_of_index_of_an_unchanged_folder_can_be_changed(embedder, folder, tmp_path):
    index(embedder, folder, tmp_path / "out", index="exact").close()
    assert index(embedder, folder, tmp_path / "out", index="faiss").describe()["index"] == "faiss"


@pytest.mark.parametrize("k", [0, -1])
def test_images_like_one_are_at_least_one(embedder, folder, k):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    with pytest.raises(InputError, match=rf"results is {k};"):
        gallery.search_like(0, k)
    assert len(gallery.search_like(0, 10_000)) == len(ROWS) - 1


@pytest.mark.parametrize("shape", [(4,), (2, 5)])
def test_vectors_of_another_width_are_refused(embedder, folder, shape):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    with pytest.raises(InputError):
        gallery.search_vectors(torch.ones(shape), 3)


def test_not_a_number_is_no_lowest_score(embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    with pytest.raises(InputError):
        gallery.search("red", 3, minimum_score=float("nan"))


def test_a_beginning_that_was_killed_before_its_header_goes_on(embedder, folder, tmp_path):
    (tmp_path / "out" / "data-0123456789abcdef").mkdir(parents=True)
    assert len(index(embedder, folder, tmp_path / "out")) == len(ROWS)


def test_a_day_means_all_of_it(embedder, folder, tmp_path):
    names = sorted(path.name for path in folder.iterdir())
    columns = {name: {"time": f"2024-01-0{1 + place}T10:30"} for place, name in enumerate(names)}
    gallery = index(embedder, folder, tmp_path / "out", metadata=columns)
    assert [result.path for result in gallery.search("red", 10, where={"time": "2024-01-02"})] == [names[1]]
