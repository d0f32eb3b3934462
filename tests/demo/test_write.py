"""The demo dataset on the disk: layouts, determinism, interruptions."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from cffa_hf.demo import oracle_ranks, write_demo_dataset
from cffa_hf.errors import InputError

IDENTITIES = (5, 2, 3)
LAYOUTS = {
    "cuhk_pedes": ("CUHK-PEDES", "reid_raw.json", "file_path", 1, 2),
    "icfg_pedes": ("ICFG-PEDES", "ICFG-PEDES.json", "file_path", 0, 1),
    "rstpreid": ("RSTPReid", "data_captions.json", "img_path", 0, 2),
}


def small(root: Path, layout: str = "cuhk_pedes", **settings) -> Path:
    settings = {"identities": IDENTITIES, "images_per_identity": 3, "seed": 3, "workers": 1, **settings}
    return write_demo_dataset(root, layout, **settings)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_that_of_the_benchmark(tmp_path: Path, layout: str):
    folder_name, annotations, path_key, first_id, captions = LAYOUTS[layout]
    folder = small(tmp_path, layout)
    assert folder == tmp_path / folder_name
    rows = json.loads((folder / annotations).read_text())
    assert len(rows) == 30
    splits = {"train": 5, "val": 2, "test": 3} if layout != "icfg_pedes" else {"train": 7, "test": 3}
    people = {split: sorted({row["id"] for row in rows if row["split"] == split}) for split in splits}
    assert {split: len(ids) for split, ids in people.items()} == splits
    assert people["train"] == list(range(first_id, first_id + splits["train"]))
    assert sum(map(len, people.values())) == len(set().union(*people.values()))
    keys = {"split", "captions", "id", path_key} | ({"processed_tokens"} if layout != "rstpreid" else set())
    for row in rows:
        assert set(row) == keys
        assert len(row["captions"]) == captions
        assert all(caption.endswith(".") for caption in row["captions"])
        with Image.open(folder / "imgs" / row[path_key]) as image:
            image.load()
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert 50 < image.width < 100 < image.height < 220
    assert len({row[path_key] for row in rows}) == len(rows)


def test_icfg_folders_are_not_the_split(tmp_path: Path):
    rows = json.loads((small(tmp_path, "icfg_pedes") / "ICFG-PEDES.json").read_text())
    assert any(not row["file_path"].startswith(row["split"] + "/") for row in rows)


def test_rstpreid_file_names_tell_identity_and_camera(tmp_path: Path):
    folder = small(tmp_path, "rstpreid")
    details = [json.loads(line) for line in (folder / "attributes.jsonl").read_text().splitlines()]
    for detail in details:
        identity, camera, _ = detail["file_path"].split("_")
        assert int(identity) == detail["person_id"]
        assert camera == f"c{detail['view']['camera'] + 1}"


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path):
    settings = {"identities": (12, 0, 4)}
    alone = contents(small(tmp_path / "alone", **settings))
    together = contents(small(tmp_path / "together", workers=3, **settings))
    assert alone == together
    assert contents(small(tmp_path / "other", seed=4, **settings)) != alone


def test_an_interrupted_rendering_is_completed_and_a_whole_one_kept(tmp_path: Path):
    folder = small(tmp_path)
    whole = contents(folder)
    images = sorted((folder / "imgs").rglob("*.jpg"))
    kept = images[0].stat().st_mtime_ns
    for image in images[10:]:
        image.unlink()
    (folder / "reid_raw.json").unlink()
    (folder / "attributes.jsonl").unlink()
    assert small(tmp_path) == folder
    assert contents(folder) == whole
    assert images[0].stat().st_mtime_ns == kept


def test_other_parameters_replace_the_demo(tmp_path: Path, caplog):
    small(tmp_path)
    small(tmp_path)
    assert not caplog.messages
    folder = small(tmp_path, seed=9)
    assert caplog.messages == [f"the demo in {folder}, of 5 + 2 + 3 identities with seed 3, is replaced"]
    assert contents(folder) == contents(small(tmp_path / "fresh", seed=9))


def test_files_that_are_not_a_demo_are_never_touched(tmp_path: Path):
    precious = tmp_path / "CUHK-PEDES" / "reid_raw.json"
    precious.parent.mkdir()
    precious.write_text("[]")
    with pytest.raises(InputError, match="not a demo"):
        small(tmp_path)
    assert precious.read_text() == "[]"


def test_wrong_requests_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cuhk_pedes"):
        write_demo_dataset(tmp_path, "market")
    with pytest.raises(InputError, match="at least one"):
        write_demo_dataset(tmp_path, identities=(0, 0, 0))
    with pytest.raises(InputError, match="render the demo"):
        oracle_ranks(tmp_path)
    small(tmp_path, identities=(2, 0, 1))
    with pytest.raises(InputError, match="validation"):
        oracle_ranks(tmp_path, split="validation")


def test_the_oracle_is_between_chance_and_certainty(tmp_path: Path):
    small(tmp_path, identities=(0, 0, 12), images_per_identity=2)
    ranks = oracle_ranks(tmp_path)
    assert 50 < ranks["rank1"] <= ranks["rank5"] <= ranks["rank10"] <= 100


def write_details(root: Path, rows: list[dict]) -> None:
    path = root / "CUHK-PEDES" / "attributes.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"split": "test", **row}) + "\n" for row in rows))


def test_the_oracle_knows_all_that_captions_tell(tmp_path: Path):
    rows = [
        {"person_id": i, "attributes": {"hat": "cap", "umbrella": color}, "visible": ["hat", "umbrella"]}
        for i, color in enumerate(("red", "blue", "pink"))
    ]
    write_details(tmp_path, [{**row, "mentions": [["umbrella"], ["hat", "umbrella"]]} for row in rows])
    assert oracle_ranks(tmp_path)["rank1"] == 100


def test_the_oracle_takes_the_expected_value_among_equals(tmp_path: Path):
    rows = [
        {"person_id": i // 2, "attributes": {"hat": hat}, "visible": ["hat"], "mentions": [["hat"]]}
        for i, hat in enumerate(("cap", "cap", "cap", "cap", "beanie", "beanie"))
    ]
    write_details(tmp_path, rows)
    # Two of three people have a cap: one image in two is right; who has the beanie is always found.
    assert oracle_ranks(tmp_path)["rank1"] == pytest.approx(100 * (4 * 0.5 + 2 * 1.0) / 6)


def test_the_oracle_prefers_images_that_show_what_is_told(tmp_path: Path):
    rows = [
        {"person_id": 0, "attributes": {"bag": "backpack"}, "visible": ["bag"], "mentions": [["bag"]]},
        {"person_id": 1, "attributes": {"bag": "backpack"}, "visible": [], "mentions": [[]]},
    ]
    write_details(tmp_path, rows)
    assert oracle_ranks(tmp_path)["rank1"] == pytest.approx(100 * (1.0 + 0.5) / 2)
