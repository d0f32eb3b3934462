"""One tiny file of each layout, and what is said of files that are not as they should be."""

import io
import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from cffa_hf.data import json_stream, large_sets
from cffa_hf.data.layouts import LAYOUTS
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def expected_counts(monkeypatch):
    """No warning of counts that differ from the published ones."""
    monkeypatch.setattr(large_sets, "announce", lambda *_: None)


def synthetic(person, part, captions=2):
    return {
        "id": person,
        "file_path": f"{part}/{person}/1.jpg",
        "attributes": ["man,black hair,black shirt,pink shorts,black shoes,unknown"],
        "captions": [f"Caption {number} of {part} {person}." for number in range(captions)],
        "prompt_caption": ["A man with black hair."],
    }


def fine_tuning(word, person, key="image", captions="caption", **more):
    return {key: f"cam_a/{word}{person}.png", captions: [f"{word} one", f"{word} two"], **more}


def long_text(split, person, **more):
    return {
        "split": split,
        "id": person,
        "file_path": f"images/{split}{person}.jpg",
        "captions": ["A " * 80] * 2,
        **more,
    }


# name -> files -> content, as the papers' repositories show it; then rows, captions and identities that come out of it.
FILES = {
    "mals": {
        "gene_attrs/g_c_g_a_0_attrs.json": [
            {"image": "gene_crop/c_g_a_0/0.jpg", "caption": "a boy", "image_id": "c_g_a_0_0", "label": [1, 0, -1]},
            {"image": "gene_crop/c_g_a_0/9.jpg", "caption": "a woman", "image_id": "c_g_a_0_9", "label": [0, 1, 1]},
        ],
        "gene_attrs/g_i_g_a_43_attrs.json": [
            {"image": "gene_crop/i_g_a_43/0.jpg", "caption": "a man", "image_id": "i_g_a_43_0", "label": [1, 1, 1]}
        ],
    },
    "sda": {
        "sda.json": [
            {
                "image": f"imgs/{number}.jpg",
                "boxes": [[0.1, 0.2, 0.3, 0.4]],
                "logits": [0.5],
                "phrases": ["a man"],
                "caption": f"a man {number}",
                "image_id": 7,
            }
            for number in range(3)
        ]
    },
    "synth_pedes": {
        "synthpedes_dataset.json": [synthetic(7, "Part1"), synthetic(7, "Part2"), synthetic(8, "Part1", 3)]
    },
    "luperson_mllm": {
        "caption/Td-qwen.json": {"a/1.jpg": "qwen dynamic 1", "a/2.jpg": "qwen dynamic 2"},
        "caption/Td-shikra.json": {"b/2.jpg": "shikra dynamic 2", "b/1.jpg": "shikra dynamic 1"},
        "caption/Ts-qwen.json": {"/data/a/1.jpg": "qwen static 1", "/data/a/2.jpg": "qwen static 2"},
        "caption/Ts-shikra.json": {"2.jpg": "shikra static 2", "1.jpg": "shikra static 1", "3.jpg": "only here"},
    },
    "webperson": {
        "webperson.json": [
            {f"part/{number}.jpg": {"caption1": f"one {number}", "caption2": f"two {number}"}} for number in range(3)
        ]
    },
    "ufine6926": {"UFine6926.json": [long_text("train", 1), long_text("train", 2), long_text("test", 3)]},
    "ufine3c": {"UFine3C.json": [long_text("test", 1, source="A"), long_text("test", 2, source="B")]},
    "aptm_cuhk_pedes": {
        f"finetune/cuhk_{word}.json": [fine_tuning(word, person, image_id=f"{word}_{person}") for person in (1, 2)]
        for word in ("train", "val", "test")
    },
    "tbps_clip_icfg_pedes": {
        f"{word}_reid.json": [
            fine_tuning(word, person, "file_path", "captions", id=person, captions_bt=["back"]) for person in (1, 2)
        ]
        for word in ("train", "test")
    },
}
IMAGES = {"luperson_mllm": "imgs", "aptm_cuhk_pedes": "imgs", "tbps_clip_icfg_pedes": "imgs"}
RESULTS = {
    "mals": {"train": ([0, 1, 2], [["a boy"], ["a woman"], ["a man"]])},
    "sda": {"train": ([0, 1, 2], [["a man 0"], ["a man 1"], ["a man 2"]])},
    "synth_pedes": {"train": ([7, 7, 8], [e["captions"] for e in FILES["synth_pedes"]["synthpedes_dataset.json"]])},
    "luperson_mllm": {
        "train": (
            [0, 1, 2],
            [
                [f"{who} {how} {image}" for how in ("dynamic", "static") for who in ("qwen", "shikra")]
                for image in (1, 2)
            ]
            + [["only here"]],
        )
    },
    "webperson": {"train": ([0, 1, 2], [["one 0", "two 0"], ["one 1", "two 1"], ["one 2", "two 2"]])},
    "ufine6926": {
        "train": ([1], [[("A " * 80).strip()] * 2]),
        "validation": ([2], [[("A " * 80).strip()] * 2]),
        "test": ([3], [[("A " * 80).strip()] * 2]),
    },
    "ufine3c": {"test": ([1, 2], [[("A " * 80).strip()] * 2] * 2)},
    "aptm_cuhk_pedes": {
        split: ([first, first + 1], [[f"{word} one", f"{word} two"]] * 2)
        for split, word, first in (("train", "train", 0), ("validation", "val", 2), ("test", "test", 4))
    },
    "tbps_clip_icfg_pedes": {split: ([1, 2], [[f"{split} one", f"{split} two"]] * 2) for split in ("train", "test")},
}


def names_in(content):
    """All image paths of an annotation file."""
    if isinstance(content, dict):
        return list(content)
    keys = ("image", "file_path")
    return [next((entry[key] for key in keys if key in entry), None) or next(iter(entry)) for entry in content]


def write(name: str, root: Path, files: dict | None = None) -> Path:
    """Write a set with empty image files; return its folder."""
    folder = root / LAYOUTS[name].folder
    for file, content in (files or FILES[name]).items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        for image in names_in(json.loads(path.read_text())) if not isinstance(content, str) else ():
            image = Path(image).name if LAYOUTS[name].by_base_name else image
            place = folder / IMAGES.get(name, "") / image
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    return folder


def failure(name: str, root: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_person_dataset(name, root, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_each_layout_becomes_the_dataset_form(tmp_path, name, expected_counts):
    folder = write(name, tmp_path)
    data = load_person_dataset(name, tmp_path, validation_identities=None if name != "tbps_clip_icfg_pedes" else 0)
    assert {split: (rows["person_id"][:], rows["captions"][:]) for split, rows in data.items()} == RESULTS[name]
    for rows in data.values():
        for row in rows:
            assert row["image"]["path"] == str(folder / IMAGES.get(name, "") / row["file_path"])
            assert Path(row["image"]["path"]).is_file()
    inside = load_person_dataset(name, folder, validation_identities=None if name != "tbps_clip_icfg_pedes" else 0)
    assert {split: rows.to_list() for split, rows in inside.items()} == {s: rows.to_list() for s, rows in data.items()}


def test_every_layout_is_tried():
    kinds = [{re.sub("_(cuhk_pedes|icfg_pedes|rstpreid)$", "", name) for name in names} for names in (FILES, LAYOUTS)]
    assert kinds[0] == kinds[1]


def test_names_are_those_of_configs_and_folders(tmp_path, expected_counts):
    write("synth_pedes", tmp_path)
    for name in ("synth_pedes", "SYNTH-PEDES", "synth-pedes"):
        assert len(load_person_dataset(name, tmp_path)["train"]) == 3
    assert "needs root" in failure("mals", None)
    assert "leave the setting out" in failure("mals", tmp_path, test_identities=3)
    assert "g_*_attrs.json" in failure("mals", tmp_path)
    assert "mals" in failure("nothing", tmp_path)


def test_counts_that_differ_are_one_warning_at_every_start(tmp_path):
    write("ufine3c", tmp_path)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="2 identities instead of the 2,250.*4 captions instead of the 37,939"
        ) as seen:
            load_person_dataset("ufine3c", tmp_path)
        assert [each.category for each in seen].count(UserWarning) == 1  # newer Pythons warn of forks, too


def test_identities_of_train_may_be_held_out(tmp_path, expected_counts):
    write("mals", tmp_path)
    data = load_person_dataset("mals", tmp_path, validation_identities=1, seed=3)
    assert (len(data["train"]), len(data["validation"])) == (2, 1)
    assert data.division.how == "held out"
    assert set(load_person_dataset("mals", tmp_path)) == {"train"}
    assert "only 3 identities" in failure("mals", tmp_path, validation_identities=3)


def test_another_annotation_file(tmp_path, expected_counts):
    write("mals", tmp_path)
    file = "gene_attrs/g_i_g_a_43_attrs.json"
    assert len(load_person_dataset("mals", tmp_path, annotation_file=file)["train"]) == 1
    assert "no such annotation file" in failure("mals", tmp_path, annotation_file="x.json")
    write("aptm_cuhk_pedes", tmp_path)
    assert "a file for each split" in failure("aptm_cuhk_pedes", tmp_path, annotation_file="x.json")


def test_missing_images_are_named_with_file_and_row(tmp_path):
    entries = [{"image": f"part{n % 2}/{n}.jpg", "caption": "a", "image_id": n} for n in range(200)]
    folder = write("mals", tmp_path, {"g_0_attrs.json": entries})
    for number in (3, 150, 151):
        (folder / entries[number]["image"]).unlink()
    message = failure("mals", tmp_path)
    assert message.startswith("3 of the 200 images")
    assert f"{folder / 'g_0_attrs.json'} row 3 (part1/3.jpg)" in message
    assert "part1/ (2)" in message
    with pytest.warns(UserWarning, match="200 images instead of the 1,510,330"):
        assert len(load_person_dataset("mals", tmp_path, check_files=False)["train"]) == 200
    assert failure("mals", tmp_path) == message  # what was read without looking for images does not count


def test_images_that_were_never_unpacked(tmp_path):
    folder = write("mals", tmp_path, {"g_0_attrs.json": json.dumps([{"image": "a/1.jpg", "caption": "a"}])})
    message = failure("mals", tmp_path)
    assert message.startswith(f"{folder / 'g_0_attrs.json'}: row 0 (image 'a/1.jpg') names an image that is not there")
    assert str(folder / "imgs") in message


def test_an_image_may_not_be_outside(tmp_path):
    folder = write("mals", tmp_path)
    (tmp_path / "secret.jpg").touch()
    (folder / "gene_crop/c_g_a_0/9.jpg").unlink()
    (folder / "gene_crop/c_g_a_0/9.jpg").symlink_to(tmp_path / "secret.jpg")
    assert "g_c_g_a_0_attrs.json: row 1 (image 'gene_crop/c_g_a_0/9.jpg') leads out of" in failure("mals", tmp_path)
    write("mals", tmp_path, {"gene_attrs/g_c_g_a_0_attrs.json": json.dumps([{"image": "../x.jpg", "caption": "a"}])})
    assert "leaves the image folder by '..'" in failure("mals", tmp_path)


def test_names_that_come_twice_cannot_be_merged(tmp_path):
    files = {"caption/Ts-qwen.json": {"a/1.jpg": "one", "a/2.jpg": "two", "b/1.jpg": "another"}}
    folder = write("luperson_mllm", tmp_path, files)
    message = failure("luperson_mllm", tmp_path)
    assert message.startswith(
        f"{folder / 'caption/Ts-qwen.json'}: row 2 (image 'b/1.jpg') has the same file name as row 0"
    )
    (folder / "caption/Ts-qwen.json").write_text('{"a/1.jpg": "one", "a/1.jpg": "again"}')
    assert "row 1 (image 'a/1.jpg') has the same file name as row 0" in failure("luperson_mllm", tmp_path)
    (folder / "caption/Ts-qwen.json").write_text('{"a/1.jpg": 5}')
    assert "row 0 (image 'a/1.jpg') has 5 as its captions" in failure("luperson_mllm", tmp_path)


def test_blank_captions_and_images_without_any_are_left_out_and_told(tmp_path):
    entries = [{"image": f"{n}.jpg", "caption": text} for n, text in enumerate(["a", " ", "&nbsp;", "b"])]
    folder = write("mals", tmp_path, {"g_0_attrs.json": entries})
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 images are without a caption, left out; the first is in .* row 1;"):
            rows = load_person_dataset("mals", tmp_path)["train"]
    assert rows["image_id"][:] == [0, 3]
    (folder / "g_0_attrs.json").write_text(json.dumps([{"image": "1.jpg", "caption": ""}]))
    assert "no image in it has a caption" in failure("mals", tmp_path)


def test_an_image_twice(tmp_path):
    entries = [{"image": f"{n % 3}.jpg", "caption": "a"} for n in range(4)]
    write("mals", tmp_path, {"g_0_attrs.json": entries})
    with pytest.warns(UserWarning, match=r"1 row of an image.* row 3 \(image '0.jpg'\); both are kept"):
        assert len(load_person_dataset("mals", tmp_path)["train"]) == 4
    both = {**long_text("test", 3), "file_path": "images/train1.jpg"}
    folder = write("ufine6926", tmp_path, {"UFine6926.json": [long_text("train", 1), both]})
    message = failure("ufine6926", tmp_path)
    assert message.startswith(f"{folder / 'UFine6926.json'}: row 1 (image 'images/train1.jpg') is in the split 'test'")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mals", "[]", "there are no images in it"),
        ("mals", "", "holds nothing, but must be a list"),
        ("mals", "{}", "holds an object, but must be a list"),
        ("luperson_mllm", "[]", "holds a list, but must be an object"),
        ("mals", '[{"image": "1.jpg", "caption": "a"}, {"ima', "no valid JSON after row 0"),
        ("mals", '[{"image" "1.jpg"', "no valid JSON in the first row"),
        ("mals", '[{"image": "1.jpg"}]', "row 0 (image '1.jpg') has no 'caption'"),
        ("mals", '[{"caption": "a"}]', "row 0 has no 'image'"),
        ("mals", '[["1.jpg", "a"]]', "row 0 is ['1.jpg', 'a'], not an object"),
        ("mals", '[{"image": "1.jpg", "caption": 5}]', "row 0 (image '1.jpg') has 5 as 'caption'"),
        ("mals", '[{"image": "1.jpg", "caption": "' + "a" * 20_001 + '"}]', "a caption of 20,001 characters"),
        ("synth_pedes", '[{"file_path": "1.jpg", "captions": ["a"]}]', "has no 'id'"),
        ("synth_pedes", '[{"file_path": "1.jpg", "captions": ["a", 5], "id": 1}]', "has 5 as caption number 2"),
        ("ufine6926", '[{"file_path": "1.jpg", "captions": ["a"], "id": 1}]', "has no 'split'"),
        ("ufine6926", '[{"file_path": "1.jpg", "captions": ["a"], "id": 1, "split": "all"}]', "unknown split 'all'"),
        (
            "synth_pedes",
            '[{"file_path": "1.jpg", "captions": ["a"], "id": 1}, {"file_path": "1.jpg", "captions": ["a"], "id": "p"}]',
            "row 1 has 'p' as 'id', but of all rows either none or each has a number",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_and_row(tmp_path, name, content, expected):
    folder = write(name, tmp_path, {"g_0_attrs.json": content})
    (folder / "1.jpg").touch()
    message = failure(name, tmp_path)
    assert message.startswith(str(folder / "g_0_attrs.json"))
    assert expected in message


def test_a_byte_order_mark_is_no_obstacle(tmp_path, expected_counts):
    folder = write("mals", tmp_path)
    file = folder / "gene_attrs/g_i_g_a_43_attrs.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load_person_dataset("mals", tmp_path)["train"]) == 3


def test_lists_and_objects_are_counted_wherever_a_file_is_cut(monkeypatch, tmp_path):
    values = ["a[{", 'q"', "\\", '\\"[', "]}", [[{"[": "{"}]], {"x": [["\\\\"]]}]
    text = json.dumps(values).encode()
    for deepest, refused in ((4, False), (3, True)):
        monkeypatch.setattr(json_stream, "DEEPEST", deepest)
        for size in range(1, len(text) + 1):
            file = json_stream.ShallowFile(io.BytesIO(text), tmp_path / "a.json")
            with pytest.raises(InputError, match="within each other") if refused else nullcontext():
                while file.read(size):
                    pass


@pytest.mark.parametrize("name", ["mals", "luperson_mllm"])
def test_a_file_that_is_nested_without_end_is_refused_at_once(tmp_path, name):
    (path, *_), opening = FILES[name], "[" if name == "mals" else '{"a":'
    write(name, tmp_path)
    (tmp_path / LAYOUTS[name].folder / path).write_text(opening * 100_000)
    assert "within each other" in failure(name, tmp_path)
