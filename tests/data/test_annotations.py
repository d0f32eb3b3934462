import json
import logging
import warnings
from pathlib import Path

import pytest

from cffa_hf.data.annotations import ANNOTATION_FORMATS, load_annotations
from cffa_hf.errors import InputError

NAMES = list(ANNOTATION_FORMATS)


def make_entry(name: str, identity: int, number: int, split: str, captions: list[str] | None = None) -> dict:
    paths = {
        "cuhk_pedes": f"CUHK01/{identity:04d}_{number}.jpg",
        "icfg_pedes": f"train/{identity:04d}/{identity:04d}_000_{number + 1:02d}_0303morning_0008_0.jpg",
        "rstpreid": f"{identity:04d}_c{number + 1}_0022.jpg",
    }
    return {
        "split": split,
        "captions": captions or [f"A person with bag {identity}.", f"Someone, view {number}."],
        ANNOTATION_FORMATS[name].path_key: paths[name],
        "processed_tokens": [["a"], ["b"]],
        "id": identity,
    }


def make_entries(name: str) -> list[dict]:
    first = 1 if name == "cuhk_pedes" else 0
    splits = ["train"] * 6 + ([] if name == "icfg_pedes" else ["val"] * 2) + ["test"] * 2
    return [make_entry(name, first + i, number, split) for i, split in enumerate(splits) for number in range(2)]


def write(name: str, root: Path, entries: object, file_name: str | None = None, demo: bool = True) -> Path:
    """Write a data set below `root`, and return its annotation file."""
    spec = ANNOTATION_FORMATS[name]
    folder = root / spec.folder
    (folder / "imgs").mkdir(parents=True, exist_ok=True)
    file = folder / (file_name or spec.files[0])
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    if demo:
        (folder / "demo.json").write_text("{}")
    return file


def failure(name: str, root: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_annotations(name, root, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_layout_becomes_the_dataset_form(tmp_path, name):
    entries = make_entries(name)
    write(name, tmp_path, entries)

    data = load_annotations(name, tmp_path, validation_identities=0)

    assert list(data) == [
        split for split in ("train", "validation", "test") if split in ANNOTATION_FORMATS[name].counts
    ]
    row = data["train"][0]
    path = entries[0][ANNOTATION_FORMATS[name].path_key]
    assert row["image"] == {"path": str(tmp_path / ANNOTATION_FORMATS[name].folder / "imgs" / path), "bytes": None}
    assert row["captions"] == entries[0]["captions"]
    assert row["person_id"] == entries[0]["id"]
    assert row["file_path"] == path
    assert row["camera"] == {"cuhk_pedes": None, "icfg_pedes": "01", "rstpreid": "c1"}[name]
    assert [number for split in data.values() for number in split["image_id"]] == list(range(len(entries)))


@pytest.mark.parametrize("name", NAMES)
def test_root_may_be_the_folder_of_the_data_set_itself(tmp_path, name):
    write(name, tmp_path, make_entries(name))
    inside = load_annotations(name, tmp_path / ANNOTATION_FORMATS[name].folder)
    above = load_annotations(name, str(tmp_path))
    assert {split: data.to_list() for split, data in inside.items()} == {s: d.to_list() for s, d in above.items()}


def test_both_spellings_of_icfg_pedes(tmp_path):
    write("icfg_pedes", tmp_path, make_entries("icfg_pedes"), file_name="ICFG_PEDES.json")
    assert len(load_annotations("icfg_pedes", tmp_path)["test"]) == 4


def test_another_annotation_file_is_found_beside_the_images(tmp_path):
    write("rstpreid", tmp_path, make_entries("rstpreid")[:4], file_name="half.json")
    assert len(load_annotations("rstpreid", tmp_path, annotation_file="half.json")["train"]) == 4
    assert "nothing.json: there is no such annotation file" in failure(
        "rstpreid", tmp_path, annotation_file="nothing.json"
    )


def test_case_of_splits_and_both_names_of_validation(tmp_path):
    entries = make_entries("rstpreid")
    for entry, split in zip(entries, ["TRAIN", "Train ", "VAL", "Validation", "Test"], strict=False):
        entry["split"] = split
    write("rstpreid", tmp_path, entries[:5])
    data = load_annotations("rstpreid", tmp_path)
    assert {split: data[split]["image_id"][:] for split in data} == {"train": [0, 1], "validation": [2, 3], "test": [4]}


def test_captions_are_cleaned_and_all_are_kept(tmp_path):
    entries = make_entries("cuhk_pedes")
    entries[0]["captions"] = [f" A  man &amp;amp; dog {i}\n" for i in range(10)]
    entries[1]["captions"] = ["只 person[0]['captions'] in red"]
    write("cuhk_pedes", tmp_path, entries)
    train = load_annotations("cuhk_pedes", tmp_path)["train"]
    assert train[0]["captions"] == [f"A man & dog {i}" for i in range(10)]
    assert train[1]["captions"] == ["只 person[0]['captions'] in red"]


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    file = write("rstpreid", tmp_path, make_entries("rstpreid"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load_annotations("rstpreid", tmp_path)["train"]) == 12


def test_missing_annotations_say_what_was_looked_for_and_where_to_ask(tmp_path):
    (tmp_path / "ICFG-PEDES" / "imgs").mkdir(parents=True)
    message = failure("icfg_pedes", tmp_path)
    assert "ICFG-PEDES.json or ICFG_PEDES.json" in message
    assert str(tmp_path / "ICFG-PEDES") in message
    assert "licence" in message
    assert "no such folder" in failure("icfg_pedes", tmp_path / "nowhere")


def test_caption_all_is_recognised_and_explained(tmp_path):
    entries = [{k: v for k, v in entry.items() if k != "split"} for entry in make_entries("cuhk_pedes")]
    write("cuhk_pedes", tmp_path, entries, file_name="caption_all.json")
    for message in (
        failure("cuhk_pedes", tmp_path),
        failure("cuhk_pedes", tmp_path, annotation_file="caption_all.json"),
    ):
        assert "caption_all.json" in message
        assert "reid_raw.json" in message
        assert "split" in message


def test_counts_that_differ_are_one_warning_with_both_numbers(tmp_path):
    write("cuhk_pedes", tmp_path, make_entries("cuhk_pedes"), demo=False)
    with pytest.warns(
        UserWarning, match=r"train identities 6 instead of 11,003.*test captions 8 instead of 6,156"
    ) as seen:
        load_annotations("cuhk_pedes", tmp_path)
    assert len(seen) == 1
    assert "not comparable" in str(seen[0].message)


def test_the_old_split_of_rstpreid_is_explained(tmp_path):
    splits = ["train"] * 3901 + ["val"] * 100 + ["test"] * 100
    write("rstpreid", tmp_path, [make_entry("rstpreid", i, 0, s) for i, s in enumerate(splits)], demo=False)
    with pytest.warns(UserWarning, match="old split of RSTPReid.*3,701/200/200"):
        load_annotations("rstpreid", tmp_path)


def test_demo_data_do_not_warn(tmp_path, caplog):
    write("rstpreid", tmp_path, make_entries("rstpreid"), demo=True)
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, logger="cffa_hf"):
        warnings.simplefilter("error")
        load_annotations("rstpreid", tmp_path)
    assert "train identities 6 instead of 3,701" in caplog.text


def test_icfg_pedes_holds_out_identities_of_train(tmp_path):
    entries = [make_entry("icfg_pedes", i, n, "train" if i < 40 else "TEST") for i in range(50) for n in range(2)]
    write("icfg_pedes", tmp_path, entries)
    by_default = load_annotations("icfg_pedes", tmp_path)
    chosen = load_annotations("icfg_pedes", tmp_path, validation_identities=7, seed=1)
    again = load_annotations("icfg_pedes", tmp_path, validation_identities=7, seed=1)
    other = load_annotations("icfg_pedes", tmp_path, validation_identities=7, seed=2)

    assert len(set(by_default["validation"]["person_id"])) == 4
    assert len(set(chosen["validation"]["person_id"])) == 7
    assert set(chosen["train"]["person_id"]).isdisjoint(chosen["validation"]["person_id"])
    assert chosen["validation"]["person_id"][:] == again["validation"]["person_id"][:]
    assert set(chosen["validation"]["person_id"]) != set(other["validation"]["person_id"])
    assert len(chosen["train"]) + len(chosen["validation"]) == 80
    assert "validation" not in load_annotations("icfg_pedes", tmp_path, validation_identities=0)
    assert "only 40 identities" in failure("icfg_pedes", tmp_path, validation_identities=40)
    assert "0 or more" in failure("icfg_pedes", tmp_path, validation_identities=-1)


def test_a_data_set_with_a_validation_split_holds_out_nothing(tmp_path):
    write("cuhk_pedes", tmp_path, make_entries("cuhk_pedes"))
    assert len(load_annotations("cuhk_pedes", tmp_path, validation_identities=0)["validation"]) == 4
    message = failure("cuhk_pedes", tmp_path, validation_identities=3)
    assert "validation split of its own" in message
    assert "leave the setting out" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"captions": []}, ["has no captions", "at least one caption"]),
        ({"captions": ["fine", " \n\u3000"]}, ["blank caption (number 2"]),
        ({"captions": "one text"}, ["'one text' as 'captions'", "list of texts"]),
        ({"captions": ["fine", 5]}, ["has 5 as caption number 2"]),
        ({"split": "gallery"}, ["unknown split 'gallery'", "train, val (or validation) or test"]),
        ({"split": 1}, ["has 1 as 'split'"]),
        ({"split": None}, ["no 'split'"]),
        ({"id": "7"}, ["has '7' as 'id'", "whole number"]),
        ({"id": True}, ["has True as 'id'"]),
        ({"id": 1.5}, ["has 1.5 as 'id'"]),
        ({"id": -1}, ["has -1 as 'id'"]),
        ({"id": 2**63}, ["whole number"]),
        ({"img_path": 5}, ["has 5 as 'img_path'"]),
        ({"img_path": " "}, ["is blank"]),
        ({"img_path": "/etc/passwd"}, ["'/etc/passwd'", "is absolute", "relative to the image folder"]),
        ({"img_path": "C:/images/a.jpg"}, ["is absolute"]),
        ({"img_path": "a\\b.jpg"}, ["backslash", "'/'"]),
        ({"img_path": "a/../../b.jpg"}, ["leaves the image folder by '..'"]),
        ({"img_path": "./"}, ["names a folder"]),
    ],
)
def test_a_bad_value_is_named_with_file_row_and_remedy(tmp_path, change, expected):
    entries = make_entries("rstpreid")
    entries[3] |= change
    file = write("rstpreid", tmp_path, entries)
    message = failure("rstpreid", tmp_path)
    assert message.startswith(f"{file}: row 3 ")
    assert "\n" not in message
    assert message.endswith(".")
    for words in expected:
        assert words in message
    if "img_path" not in change:
        assert "(image '0001_c2_0022.jpg')" in message


@pytest.mark.parametrize("key", ["captions", "split", "id", "img_path"])
def test_a_missing_key_is_named(tmp_path, key):
    entries = make_entries("rstpreid")
    del entries[2][key]
    file = write("rstpreid", tmp_path, entries)
    message = failure("rstpreid", tmp_path)
    assert message.startswith(f"{file}: row 2 ")
    assert f"has no {key!r}" in message or f"has no key {key!r}" in message


def test_an_entry_that_is_no_object(tmp_path):
    file = write("rstpreid", tmp_path, [*make_entries("rstpreid"), ["a.jpg"]])
    assert f"{file}: row 20 is ['a.jpg'], not an object" in failure("rstpreid", tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"annotations": []}', "must be a list with one object for each image"),
        ("[]", "the list of images is empty"),
        ('[{"split": "train", "cap', "truncated or damaged"),
        ("", "no valid JSON at line 1, column 1"),
        ('[{"id": 1}]', "no 'split' in any row"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_a_file_that_is_no_annotation_file(tmp_path, content, expected):
    file = write("rstpreid", tmp_path, content)
    message = failure("rstpreid", tmp_path)
    assert expected in message
    assert str(file) in message


def test_a_file_that_is_not_utf8(tmp_path):
    write("rstpreid", tmp_path, "").write_bytes(b'[{"captions": ["caf\xe9"]}]')
    assert "UTF-8" in failure("rstpreid", tmp_path)


def test_missing_image_folder(tmp_path):
    write("rstpreid", tmp_path, make_entries("rstpreid"))
    (tmp_path / "RSTPReid" / "imgs").rmdir()
    message = failure("rstpreid", tmp_path)
    assert str(tmp_path / "RSTPReid" / "imgs") in message
    assert "unpack the images there" in message


def test_unknown_format(tmp_path):
    assert "cuhk_pedes, icfg_pedes, rstpreid" in failure("market", tmp_path)


def test_symbolic_links_must_not_lead_out_of_the_images(tmp_path):
    entries = make_entries("cuhk_pedes")
    file = write("cuhk_pedes", tmp_path, entries)
    images = file.parent / "imgs" / "CUHK01"
    images.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (images / "inside.jpg").write_bytes(b"x")
    (images / "0001_1.jpg").symlink_to(images / "inside.jpg")
    load_annotations("cuhk_pedes", tmp_path)

    (images / "0003_0.jpg").symlink_to(tmp_path / "secret.jpg")
    message = failure("cuhk_pedes", tmp_path)
    assert message.startswith(f"{file}: row 4 (image 'CUHK01/0003_0.jpg')")
    assert "symbolic link" in message


def test_a_linked_folder_may_not_lead_out_but_imgs_itself_may_be_a_link(tmp_path):
    file = write("cuhk_pedes", tmp_path, make_entries("cuhk_pedes"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "CUHK01").mkdir(parents=True)
    (file.parent / "imgs").rmdir()
    (file.parent / "imgs").symlink_to(elsewhere, target_is_directory=True)
    load_annotations("cuhk_pedes", tmp_path)

    (elsewhere / "CUHK01").rmdir()
    (elsewhere / "CUHK01").symlink_to(tmp_path, target_is_directory=True)
    assert "row 0" in failure("cuhk_pedes", tmp_path)


def test_an_image_twice_in_one_split_is_a_warning(tmp_path):
    entries = make_entries("rstpreid")
    entries[1]["img_path"] = "./" + entries[0]["img_path"]
    write("rstpreid", tmp_path, entries)
    with pytest.warns(UserWarning, match="the first is row 1 .*both are kept"):
        assert len(load_annotations("rstpreid", tmp_path)["train"]) == 12


def test_an_image_in_two_splits_is_an_error(tmp_path):
    entries = make_entries("rstpreid")
    entries[-1]["img_path"] = entries[0]["img_path"]
    file = write("rstpreid", tmp_path, entries)
    message = failure("rstpreid", tmp_path)
    assert message.startswith(f"{file}: row 19 ")
    assert "row 0 lists the same image in 'train'" in message
    assert "remove one" in message


def test_official_counts_add_up():
    """The totals that the data sets' own documents print."""
    totals = {
        name: tuple(sum(numbers[i] for numbers in spec.counts.values()) for i in range(3))
        for name, spec in ANNOTATION_FORMATS.items()
    }
    assert totals["cuhk_pedes"] == (13_003, 40_206, 80_440)
    assert totals["icfg_pedes"] == (4_102, 54_522, 54_522)
    assert totals["rstpreid"] == (4_101, 20_505, 41_010)
