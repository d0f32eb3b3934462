import json
import multiprocessing
import random
import time
import warnings

import pytest
import torch
from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import read_image
from cffa_hf.search.gallery import Gallery, embed_sentence, find_images
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def rows():
    return person_rows(identities=3)


@pytest.fixture(scope="module")
def processor(rows):
    return tiny_processor(rows)


@pytest.fixture(scope="module")
def model():
    return tiny_model().base_model


@pytest.fixture
def folder(rows, tmp_path):
    for row in rows:
        path = tmp_path / "people" / f"camera {row['image_id'] % 2}" / row["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        read_image(row["image"]).save(path)
    (tmp_path / "people" / "notes.txt").write_text("not an image")
    return tmp_path / "people"


def test_a_sentence_ranks_a_folder_by_the_models_own_scores(rows, processor, model, folder):
    gallery = Gallery.from_folder(model, processor, folder, progress=False)
    results = gallery.search("A person in a RED shirt", k=4)
    assert len(gallery) == len(rows)
    assert len(results) == 4
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    best = results[0]
    pixels = processor(images=read_image(best.path), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.get_image_features(pixels)[0] @ embed_sentence(model, processor, "a person in a red shirt")
    assert best.score == pytest.approx(float(expected), abs=5e-3)  # the gallery may compute in bfloat16


def test_a_query_is_cleaned_like_a_caption(processor, model):
    clean = embed_sentence(model, processor, "red shirt & trousers")
    assert torch.equal(clean, embed_sentence(model, processor, "  Red   shirt &amp;amp; TROUSERS\n"))
    assert clean.norm() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(embed_sentence(model, processor, "red " * 500)).all()


def test_rows_make_a_gallery_too(rows, processor, model, folder):
    from_rows = Gallery.from_images(model, processor, rows["image"][:], rows["file_path"][:], progress=False)
    from_folder = Gallery.from_folder(model, processor, folder, progress=False)
    order = {path.rpartition("/")[2]: place for place, path in enumerate(from_folder.paths)}
    again = from_folder.embeddings[[order[path] for path in from_rows.paths]]
    torch.testing.assert_close(from_rows.embeddings, again, atol=1e-5, rtol=0)


def test_a_saved_gallery_answers_alike(processor, model, folder, tmp_path):
    gallery = Gallery.from_folder(model, processor, folder, progress=False)
    gallery.save(tmp_path / "saved")
    again = Gallery.load(tmp_path / "saved", model, processor)
    assert again.search("blue top", 3) == gallery.search("blue top", 3)
    assert not list(tmp_path.glob("saved/*.pkl"))


def save_for_ever(galleries, folder):
    for number in range(10**9):
        galleries[number % 2].save(folder)


def test_killed_while_it_is_saved_over_another_the_gallery_is_one_of_the_two(processor, model, folder, tmp_path):
    old = Gallery.from_folder(model, processor, folder, progress=False)
    new = Gallery(model, processor, old.embeddings.flip(0), [f"new/{path}" for path in reversed(old.paths)])
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    for seed in range(12):
        old.save(tmp_path / "saved")
        process = context.Process(target=save_for_ever, args=((new, old), tmp_path / "saved"))
        process.start()
        time.sleep(random.Random(seed).uniform(0, 0.1))
        process.kill()
        process.join()
        found = Gallery.load(tmp_path / "saved", model, processor)
        whole = old if found.paths == old.paths else new
        assert found.paths == whole.paths
        assert torch.equal(found.embeddings, whole.embeddings)
    old.save(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 1


def test_embeddings_and_index_belong_together(processor, model, folder, tmp_path):
    gallery = Gallery.from_folder(model, processor, folder, progress=False)
    gallery.save(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "gallery.json").read_text())
    changes = [{"vectors": "../x.safetensors"}, {"sha256": "0" * 64}, {"paths": [7] * len(gallery)}, {"vectors": 3}]
    for change in changes:
        (tmp_path / "saved" / "gallery.json").write_text(json.dumps(index | change))
        with pytest.raises(InputError, match="no gallery can be read"):
            Gallery.load(tmp_path / "saved", model, processor)
    for damage in (gallery.embeddings * float("nan"), gallery.embeddings.half(), gallery.embeddings.long()):
        Gallery(model, processor, damage, gallery.paths).save(tmp_path / "saved")
        with pytest.raises(InputError, match="not finite numbers"):
            Gallery.load(tmp_path / "saved", model, processor)


def test_a_gallery_of_an_earlier_version_still_opens(processor, model, folder, tmp_path):
    gallery = Gallery.from_folder(model, processor, folder, progress=False)
    gallery.save(tmp_path / "saved")
    (vectors,) = (tmp_path / "saved").glob("gallery-*.safetensors")
    vectors.rename(tmp_path / "saved" / "gallery.safetensors")
    (tmp_path / "saved" / "gallery.json").write_text(json.dumps({"format": 1, "paths": gallery.paths}))
    again = Gallery.load(tmp_path / "saved", model, processor)
    assert again.search("blue top", 3) == gallery.search("blue top", 3)
    again.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "gallery.safetensors").exists()
    assert len(Gallery.load(tmp_path / "saved", model, processor)) == len(gallery)


def test_another_models_gallery_is_refused(processor, model, folder, tmp_path):
    Gallery.from_folder(model, processor, folder, progress=False).save(tmp_path / "saved")
    with pytest.raises(InputError, match="another model"):
        Gallery.load(tmp_path / "saved", tiny_model(seed=1).base_model, processor)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 7, "paths": []}', '{"format": 1, "paths": ["a"]}'])
def test_a_broken_gallery_is_refused(processor, model, folder, tmp_path, content):
    Gallery.from_folder(model, processor, folder, progress=False).save(tmp_path / "saved")
    (tmp_path / "saved" / "gallery.json").write_text(content)
    with pytest.raises(InputError):
        Gallery.load(tmp_path / "saved", model, processor)


def test_unreadable_images_are_left_out_by_name(processor, model, folder):
    (folder / "broken.jpg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 of 7 images left out.*broken\.jpg"):
        gallery = Gallery.from_folder(model, processor, folder, progress=False)
    assert len(gallery) == 6
    with warnings.catch_warnings(), pytest.raises(InputError, match="None of the 1 images"):
        Gallery.from_images(model, processor, [folder / "broken.jpg"], ["broken.jpg"], progress=False)


def test_links_that_lead_out_are_left_out(folder, tmp_path):
    before = find_images(folder)
    Image.new("RGB", (20, 50), "red").save(tmp_path / "private.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (20, 50), "red").save(tmp_path / "elsewhere" / "x.png")
    (folder / "a.png").symlink_to(tmp_path / "private.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "inside.png").symlink_to(before[0])
    with pytest.warns(UserWarning, match=r"2 links lead out of the folder and are left out, the first is .*a\.png"):
        found = find_images(folder)
    assert found == sorted([*before, str(folder / "inside.png")])
    (tmp_path / "link").symlink_to(folder)
    (folder / "a.png").unlink()
    (folder / "b").unlink()
    assert len(find_images(tmp_path / "link")) == len(found)


def test_mistakes_are_one_sentence(processor, model, folder, tmp_path):
    gallery = Gallery.from_folder(model, processor, folder, progress=False)
    for sentence, k in (("  ", 1), ("red", 0)):
        with pytest.raises(InputError):
            gallery.search(sentence, k)
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image below"):
        find_images(tmp_path / "empty")
    with pytest.raises(InputError, match="one for each"):
        Gallery(model, processor, gallery.embeddings[:, :4], gallery.paths)


def test_more_results_than_images(processor, model, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 50), "red").save(tmp_path / "one" / "A.JPG")
    gallery = Gallery.from_folder(model, processor, tmp_path / "one", progress=False)
    assert len(gallery.search("red", 10)) == 1
    gallery.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "gallery.json").read_text())["paths"] == [str(tmp_path / "one" / "A.JPG")]
