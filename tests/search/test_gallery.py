import json
import multiprocessing
import os
import random
import shutil
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cffa_hf.errors import InputError
from cffa_hf.files import file_digest
from cffa_hf.inference import Embedder
from cffa_hf.inputs.images import read_image
from cffa_hf.search.building import read_metadata
from cffa_hf.search.folders import find_images
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.old_formats import _probe
from tests.tiny import tiny_model


def ids_and_scores(results):
    return [(result.id, result.score) for result in results]


# Searching


def test_a_sentence_ranks_a_folder_by_the_models_own_scores(rows, processor, embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    results = gallery.search("A person in a RED shirt", k=4)
    assert len(gallery) == len(rows)
    assert len(results) == 4
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    best = results[0]
    pixels = processor(images=read_image(gallery.image_path(best.id)), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = embedder.model.get_image_features(pixels)[0] @ embedder.captions(["a person in a red shirt"])[0]
    assert best.score == pytest.approx(float(expected), abs=1e-3)  # vectors are kept in float16
    assert len(gallery.search("red", 100)) == len(rows)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_metadata_may_have_other_separators(tmp_path, separator):
    (tmp_path / "m.csv").write_text(f"file_name{separator}camera{separator}note\na.jpg{separator}7{separator}\n")
    assert read_metadata(tmp_path / "m.csv") == {"a.jpg": {"camera": 7}}


def test_several_sentences_are_answered_like_each_alone(embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    sentences = ["a red shirt", "blue trousers", "green top"]
    together = gallery.search(sentences, 3)
    for sentence, results in zip(sentences, together, strict=True):
        alone = gallery.search(sentence, 3)
        assert [result.path for result in results] == [result.path for result in alone]
        assert [result.score for result in results] == pytest.approx([result.score for result in alone], abs=1e-5)


def test_filters_and_thresholds(embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, metadata=folder.parent / "metadata.csv", progress=False)
    everything = gallery.search("red", 10)
    camera = gallery.search("red", 10, where={"camera": "cam_1"})
    assert camera == [result for result in everything if result.metadata["camera"] == "cam_1"]
    late = gallery.search(
        "red", 10, where={"time": {"min": "2024-01-03", "max": "2024-01-04"}, "camera": ["cam_0", "cam_1"]}
    )
    assert {result.metadata["floor"] for result in late} == {2, 3}
    assert gallery.search("red", 10, where={"camera": "elsewhere"}) == []
    bound = everything[2].score
    assert gallery.search("red", 10, minimum_score=bound) == everything[:3]
    columns = gallery.columns
    assert columns["camera"].values == ("cam_0", "cam_1")
    assert (columns["floor"].kind, columns["floor"].lowest, columns["floor"].highest) == ("number", 0, 5)
    assert columns["time"].kind == "time"


def test_an_image_finds_itself_and_a_sentence_joins_it(embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    path = gallery.image_path(3)
    assert gallery.search_image(path, 1)[0].id == 3
    assert gallery.search_image(path, 6, text="red shirt", text_weight=1)[0].id == gallery.search("red shirt", 1)[0].id
    both = gallery.search_image(path, 6, text="red shirt", text_weight=0.5)
    vector = torch.nn.functional.normalize(embedder.images([path]) + embedder.captions(["red shirt"]), dim=-1)
    assert ids_and_scores(both) == ids_and_scores(gallery.search_vectors(vector, 6)[0])
    like = gallery.search_like(3, 3)
    assert len(like) == 3
    assert 3 not in [result.id for result in like]
    with pytest.raises(InputError, match="between 0 and 1"):
        gallery.search_image(path, text="red", text_weight=2)


def test_mistakes_are_one_sentence(embedder, folder, tmp_path):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    for sentence, k in (("  ", 1), ("red", 0), ("red", 10**6), ([], 1), (["red", ""], 1), ("x" * 30_000, 1)):
        with pytest.raises(InputError):
            gallery.search(sentence, k)
    with pytest.raises(InputError, match="no column 'camera' to filter by; there is none at all"):
        gallery.search("red", where={"camera": "a"})
    for image in (77, "77.png", -1):
        with pytest.raises(InputError, match="holds no image"):
            gallery.remove([0, image])
    assert len(gallery) == 6
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image below"):
        find_images(tmp_path / "empty")
    with pytest.raises(InputError, match="each image needs one"):
        gallery.add([Image.new("RGB", (4, 8))], ["a", "b"])
    with pytest.raises(InputError, match="need paths"):
        gallery.add([Image.new("RGB", (4, 8))])


def test_what_a_long_sentence_loses_is_said(embedder, folder):
    gallery = Gallery.from_folder(embedder, folder, progress=False)
    with pytest.warns(UserWarning, match=r"does not read its end.*white"):
        gallery.search("red " * 100 + "white")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.search("a person in a red shirt")


# Growing


def test_images_come_and_go(embedder, folder, tmp_path):
    gallery = Gallery.from_folder(embedder, folder, tmp_path / "out", progress=False)
    picture = read_image(gallery.image_path(2))
    (added,) = gallery.add([picture], ["new.png"], [{"camera": "cam_9"}])
    assert gallery.search_like(2, 1)[0].id == added
    assert gallery.search("red", 10, where={"camera": "cam_9"})[0].path == "new.png"
    gallery.remove(["new.png", 2])
    assert {2, added} & {result.id for result in gallery.search("red", 10)} == set()
    (again,) = gallery.add([picture], ["new.png"])
    assert again > added  # an id is never given twice
    reopened = Gallery.open(tmp_path / "out", embedder)
    assert ids_and_scores(reopened.search("red", 10)) == ids_and_scores(gallery.search("red", 10))
    reopened.remove([again])
    reopened.close()
    assert Gallery.open(tmp_path / "out", embedder).add([picture], ["newer.png"]) == [again + 1]


class CountingEmbedder(Embedder):
    """Notes the files and rows that are embedded, and may stop after some; the probe of a header does not count."""

    def __init__(self, embedder, limit=10**9):
        super().__init__(embedder.model, embedder.processor, precision="float32", batch_size=2)
        self.embedded, self.limit = [], limit

    def image_batches(self, sources):
        sources = list(sources)
        for indices, vectors, failures in super().image_batches(sources):
            if len(self.embedded) >= self.limit:
                raise KeyboardInterrupt
            self.embedded += [sources[index] for index in indices if not isinstance(sources[index], Image.Image)]
            yield indices, vectors, failures


def test_only_what_changed_is_embedded_again(embedder, folder, tmp_path):
    first = CountingEmbedder(embedder)
    (folder / "broken.jpg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 of 7 images left out.*broken\.jpg"):
        before = Gallery.from_folder(
            first, folder, tmp_path / "out", metadata=folder.parent / "metadata.csv", progress=False
        )
    paths = before.paths
    before.close()
    first.embedded.clear()
    with pytest.warns(UserWarning, match="1 of 7 images left out"):
        Gallery.from_folder(first, folder, tmp_path / "out", progress=False).close()
    assert first.embedded == []

    changed, touched, gone = (folder / path for path in paths[:3])
    Image.new("RGB", (32, 64), "orange").save(changed)
    content = touched.read_bytes()
    touched.write_bytes(content)
    gone.unlink()
    Image.new("RGB", (32, 64), "cyan").save(folder / "new.png")
    (folder / "broken.jpg").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = Gallery.from_folder(first, folder, tmp_path / "out", progress=False)
    assert sorted(first.embedded) == sorted([changed, folder / "new.png"])
    assert set(after.paths) == {*paths, "new.png"} - {paths[2]}
    fresh = Gallery.from_folder(embedder, folder, progress=False)
    assert [(each.path, each.score) for each in after.search("red", 9)] == [
        (each.path, each.score) for each in fresh.search("red", 9)
    ]
    assert after.search("red", 9, where={"camera": "cam_1"})


def test_an_interrupted_gallery_goes_on(embedder, folder, tmp_path):
    interrupted = CountingEmbedder(embedder, limit=2)
    with pytest.raises(KeyboardInterrupt):
        Gallery.from_folder(interrupted, folder, tmp_path / "out", progress=False)
    with pytest.warns(UserWarning, match="interrupted at 2 images"):
        assert len(Gallery.open(tmp_path / "out", embedder)) == 2
    second = CountingEmbedder(embedder)
    gallery = Gallery.from_folder(second, folder, tmp_path / "out", progress=False)
    assert len(second.embedded) == 4
    whole = Gallery.from_folder(CountingEmbedder(embedder), folder, progress=False)
    assert ids_and_scores(gallery.search("red", 9)) == ids_and_scores(whole.search("red", 9))


def index_for_ever(embedder, folder, out):
    torch.set_num_threads(1)
    for _ in range(1000):
        Gallery.from_folder(embedder, folder, out, progress=False).close()
        out.rename(out.with_name("finished"))
        shutil.rmtree(out.with_name("finished"))


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(embedder, folder, tmp_path):
    context = multiprocessing.get_context("fork")
    expected = ids_and_scores(Gallery.from_folder(embedder, folder, progress=False).search("red", 9))
    for seed in range(8):
        out = tmp_path / f"out{seed}"
        process = context.Process(target=index_for_ever, args=(embedder, folder, out))
        process.start()
        time.sleep(random.Random(seed).uniform(0, 0.4))
        process.kill()
        process.join()
        shutil.rmtree(tmp_path / "finished", ignore_errors=True)
        gallery = Gallery.from_folder(embedder, folder, out, progress=False)
        assert ids_and_scores(gallery.search("red", 9)) == expected


def test_two_programs_do_not_change_one_gallery_at_once(embedder, folder, tmp_path):
    out = tmp_path / "out"
    Gallery.from_folder(embedder, folder, out, progress=False).close()
    from cffa_hf.search.building import locked

    with (
        locked(out),
        pytest.raises(InputError, match=rf"is being changed by another program \(process {os.getpid()} on "),
    ):
        Gallery.from_folder(embedder, folder, out, progress=False)
    Gallery.from_folder(embedder, folder, out, progress=False)


def test_a_gallery_of_another_folder_is_not_changed(embedder, folder, tmp_path):
    Gallery.from_folder(embedder, folder, tmp_path / "out", progress=False)
    shutil.copytree(folder, tmp_path / "others")
    with pytest.raises(InputError, match="holds a gallery of"):
        Gallery.from_folder(embedder, tmp_path / "others", tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="is no gallery"):
        Gallery.from_folder(embedder, folder, tmp_path / "others", progress=False)


def test_a_split_makes_a_gallery_with_its_images(rows, embedder, tmp_path):
    gallery = Gallery.from_dataset(embedder, rows, tmp_path / "out", progress=False)
    assert len(gallery) == len(rows)
    assert {result.metadata["person_id"] for result in gallery.search("red", 9)} == set(rows["person_id"])
    assert read_image(gallery.image_path(4)).tobytes() == read_image(rows[4]["image"]).tobytes()
    counting = CountingEmbedder(embedder)
    again = Gallery.from_dataset(counting, rows, tmp_path / "out", progress=False)
    assert counting.embedded == []
    assert again.search("red", 3) == gallery.search("red", 3)
    in_memory = Gallery.from_dataset(embedder, rows, progress=False)
    assert ids_and_scores(in_memory.search("red", 3)) == ids_and_scores(gallery.search("red", 3))
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert Gallery.open(tmp_path / "moved", embedder).image_path(4).is_file()


# Keeping


def test_a_saved_gallery_answers_alike(embedder, folder, tmp_path):
    gallery = Gallery.from_folder(embedder, folder, metadata=folder.parent / "metadata.csv", progress=False)
    gallery.save(tmp_path / "saved")
    again = Gallery.open(tmp_path / "saved", embedder)
    assert again.search("blue top", 3) == gallery.search("blue top", 3)
    assert again.image_path(2) == gallery.image_path(2)
    assert again.describe() == {**gallery.describe(), "complete": True}
    assert not [path for path in (tmp_path / "saved").rglob("*") if path.suffix in (".pkl", ".bin")]


def save_for_ever(galleries, folder):
    for number in range(10**9):
        galleries[number % 2].save(folder)


def test_killed_while_it_is_saved_over_another_the_gallery_is_one_of_the_two(embedder, folder, tmp_path):
    old = Gallery.from_folder(embedder, folder, progress=False)
    new = Gallery.new(embedder)
    new.items.append(
        [f"new/{path}" for path in reversed(old.paths)], old.items.vectors[::-1].astype(np.float32), [{}] * 6
    )
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    for seed in range(8):
        old.save(tmp_path / "saved")
        process = context.Process(target=save_for_ever, args=((new, old), tmp_path / "saved"))
        process.start()
        time.sleep(random.Random(seed).uniform(0, 0.1))
        process.kill()
        process.join()
        found = Gallery.open(tmp_path / "saved", embedder)
        whole = old if found.paths == old.paths else new
        assert found.paths == whole.paths
        assert np.array_equal(found.items.vectors, whole.items.vectors)
        found.close()
    old.save(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("data-*"))) == 1


@pytest.mark.parametrize("faiss", [False, True])
def test_damage_is_one_sentence(embedder, folder, tmp_path, faiss):
    gallery = Gallery.from_folder(
        embedder, folder, tmp_path / "out", index="faiss" if faiss else "exact", progress=False
    )
    gallery.close()
    header = json.loads((tmp_path / "out" / "gallery.json").read_text())
    data = header["data"]
    changes = [
        {"data": "../x"},
        {"format": 9},
        {"width": 7},
        {"probe": []},
        {"probe": [[0.0], [0.0, 0.0]]},
        {"index": {"kind": "magic"}},
        {"more": 1},
    ]
    for change in changes:
        copy = shutil.copytree(tmp_path / "out", tmp_path / f"copy{len(list(tmp_path.iterdir()))}")
        (copy / "gallery.json").write_text(json.dumps(header | change))
        with pytest.raises(InputError):
            Gallery.open(copy, embedder)
    for file in sorted(path.name for path in (tmp_path / "out" / data).iterdir()):
        for damage in (b"", b"garbage" * 2000, None):
            copy = shutil.copytree(tmp_path / "out", tmp_path / f"copy{len(list(tmp_path.iterdir()))}")
            (copy / data / file).unlink()
            if damage is not None:
                (copy / data / file).write_bytes(damage)
            if file == "vectors.float16" and damage:
                continue  # any bytes are vectors: that they are no unit rows is found when they are searched
            with pytest.raises(InputError, match=r"again\.$"):
                Gallery.open(copy, embedder)


def test_vectors_that_are_no_unit_rows_are_found_out(embedder, folder, tmp_path):
    Gallery.from_folder(embedder, folder, tmp_path / "out", progress=False).close()
    (vectors,) = (tmp_path / "out").glob("data-*/vectors.float16")
    content = np.fromfile(vectors, dtype=np.float16)
    content[:] = np.nan
    content.tofile(vectors)
    with pytest.raises(InputError, match="damaged"):
        Gallery.open(tmp_path / "out", embedder).search("red")


def test_another_models_gallery_and_another_precision_are_refused(embedder, processor, folder, tmp_path):
    Gallery.from_folder(embedder, folder, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="another model"):
        Gallery.open(tmp_path / "out", Embedder(tiny_model(seed=1).base_model, processor, precision="float32"))
    with pytest.raises(InputError, match="another model"):
        Gallery.open(tmp_path / "out", Embedder(tiny_model(local_dim=64).base_model, processor, precision="float32"))
    with pytest.raises(InputError, match="made in float32"):
        Gallery.open(tmp_path / "out", Embedder(embedder.model, processor, precision="bfloat16"))
    with pytest.raises(InputError, match="does not say which model"):
        Gallery.open(tmp_path / "out")


@pytest.mark.parametrize("version", [1, 2])
def test_a_gallery_of_an_earlier_version_still_opens(embedder, folder, tmp_path, version):
    paths = find_images(folder)
    vectors, saved = embedder.images(paths), tmp_path / "saved"
    saved.mkdir()
    name = "gallery.safetensors" if version == 1 else "gallery-0123456789abcdef.safetensors"
    save_file({"embeddings": vectors, "probe": _probe(embedder)}, saved / name)
    index = {"format": version, "paths": paths}
    if version == 2:
        index |= {"vectors": name, "sha256": file_digest(saved / name)}
    (saved / "gallery.json").write_text(json.dumps(index))
    gallery = Gallery.open(saved, embedder)
    fresh = Gallery.from_folder(embedder, folder, progress=False)
    assert [result.score for result in gallery.search("blue top", 3)] == [r.score for r in fresh.search("blue top", 3)]
    assert str(gallery.image_path(0)) == paths[0]
    gallery.save(saved)
    assert not (saved / name).exists()
    assert Gallery.open(saved, embedder).search("blue top", 3) == gallery.search("blue top", 3)
    for change in ({"vectors": "../x"}, {"sha256": "0" * 64}, {"paths": [7] * 6}):
        (saved / "gallery.json").write_text(json.dumps({"format": 2, **index, **change}))
        with pytest.raises(InputError, match="no gallery can be read"):
            Gallery.open(saved, embedder)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"format": 7, "paths": []}', '{"format": 1, "paths": ["a"]}', "[" * 10**5),
        *('{"format": 3, "relative_root": "\\ud800"}', '{"format": ' + "9" * 5000 + "}"),
    ],
)
def test_a_broken_header_is_refused(embedder, folder, tmp_path, content):
    Gallery.from_folder(embedder, folder, tmp_path / "saved", progress=False)
    (tmp_path / "saved" / "gallery.json").write_text(content)
    with pytest.raises(InputError):
        Gallery.open(tmp_path / "saved", embedder)


def test_paths_of_a_gallery_do_not_lead_out_of_its_folder(embedder, folder, tmp_path):
    gallery = Gallery.from_folder(embedder, folder, tmp_path / "out", progress=False)
    Image.new("RGB", (4, 8)).save(tmp_path / "private.png")
    (number,) = gallery.add([tmp_path / "private.png"], ["../private.png"])
    with pytest.raises(InputError, match="leads out"):
        gallery.image_path(number)
    gallery.image_path(0).unlink()
    with pytest.raises(InputError, match="no longer there"):
        gallery.image_path(0)


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


def test_images_that_cannot_be_read(embedder, folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 1 images"):
        Gallery.from_images(embedder, [tmp_path / "broken.jpg"], ["broken.jpg"], progress=False)
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "broken.jpg", tmp_path / "only")
    with pytest.raises(InputError, match="None of the 1 images"):
        Gallery.from_folder(embedder, tmp_path / "only", progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,camera\nnowhere.png,a\n", "name 1 images that are not below"),
        ("path,camera\na.png,a\n", "row 2: each row needs file_name"),
        ("file_name,camera\ncam_0/0.png,a\ncam_0/0.png,b\n", "row 3: .* has a row already; keep one"),
        ("file_name,camera\ncam_0/0.png,a,b\n", "row 2: each row needs"),
        ("file_name,the camera\ncam_0/0.png,a\n", "letters, digits and underscores"),
        ("file_name,path\ncam_0/0.png,a\n", "already"),
    ],
)
def test_metadata_that_do_not_fit(embedder, folder, tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Gallery.from_folder(embedder, folder, metadata=tmp_path / "bad.csv", progress=False)
