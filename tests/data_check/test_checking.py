"""What the check finds, that it finds what training refuses and nothing else, and that copies have no errors."""

import hashlib
import json
import os
import stat
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data_check import check_dataset, write_fixed
from cffa_hf.data_check.findings import KINDS
from cffa_hf.errors import InputError
from tests.data_check.cases import KINDS as TARGETS
from tests.data_check.cases import NAMES, damaged, errors_of, refusal, try_case


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(autouse=True)
def counts_are_not_those_of_the_benchmarks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((16, 32)).save(path)


def people(number: int = 12, **more: object) -> list[dict]:
    return [
        {"file_name": f"cam/{i:02d}.png", "caption": f"a person {i}", "person_id": i // 2, **more}
        for i in range(2 * number)
    ]


def write_own(folder: Path, entries: list, text: str | None = None, name: str = "metadata.jsonl") -> Path:
    for number, entry in enumerate(people()):
        draw(folder / entry["file_name"], number)
    file = folder / name
    file.write_text(text if text is not None else "".join(f"{json.dumps(entry)}\n" for entry in entries), "utf-8")
    return file


def found(folder: Path, name: str | None = None) -> dict[str, list]:
    """Return the findings of each kind; what they contradict in loading fails."""
    report = check_dataset(folder, name, progress=False)
    assert bool(errors_of(report)) == bool(refusal(folder, name))
    json.dumps(report.to_dict(), allow_nan=False).encode()
    return dict(report.by_kind())


def tree(folder: Path) -> dict[str, tuple]:
    """Digest of every file with its mode and time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime_ns,
        )
        for path in files
    }


def test_good_data_have_no_errors(tmp_path):
    write_own(tmp_path, people())
    kinds = found(tmp_path)
    assert set(kinds) == {"split"}  # a tenth of twelve people is one
    report = check_dataset(tmp_path, progress=False)
    assert report.splits == {"train": (10, 20, 20), "validation": (1, 2, 2), "test": (1, 2, 2)}
    assert report.dataset == "own data"


def test_all_errors_of_rows_are_named_with_the_rows_of_an_editor(tmp_path):
    entries = people()
    entries[1]["file_name"] = "../x.png"
    entries[2] = {"file_name": "cam/02.png"}
    entries[4]["caption"] = " "
    entries[6]["person_id"] = 1.5
    entries[9] = {**entries[8], "person_id": 77}
    lines = [json.dumps(entry) for entry in entries]
    lines[11] = "{"
    file = write_own(tmp_path, [], "\n".join(["", *lines]))
    kinds = found(tmp_path)
    rows = sorted((finding.row, finding.message[:24]) for finding in kinds["malformed row"])
    assert [row for row, _ in rows] == [3, 4, 4, 6, 8, 13]  # line 1 is empty
    assert {finding.file for finding in kinds["malformed row"]} == {str(file)}
    assert [(finding.row, finding.image) for finding in kinds["rows that disagree"]] == [(11, "cam/08.png")]
    assert sorted(finding.image for finding in kinds["unused image"]) == [
        *("cam/01.png", "cam/02.png", "cam/04.png", "cam/06.png", "cam/09.png", "cam/11.png")
    ]


def test_images_that_cannot_be_used(tmp_path):
    write_own(tmp_path, people())
    images = tmp_path / "cam"
    (images / "00.png").unlink()
    (images / "01.png").write_bytes((images / "01.png").read_bytes()[:50])
    (images / "02.png").unlink()
    os.mkfifo(images / "02.png")
    (tmp_path.parent / "outside.png").write_bytes(b"")
    (images / "03.png").unlink()
    (images / "03.png").symlink_to(tmp_path.parent / "outside.png")
    Image.new("1", (20_000, 5_000)).save(images / "04.png")
    (images / "05.png").unlink()
    (images / "05.png").symlink_to("/dev/zero")
    kinds = found(tmp_path)
    assert [finding.row for finding in kinds["missing image"]] == [1]
    reasons = {finding.row: finding.message for finding in kinds["unreadable image"]}
    assert reasons.keys() == {2, 3, 5}
    assert "truncated" in reasons[2]
    assert "no regular file" in reasons[3]
    assert "pixels" in reasons[5]
    assert [finding.row for finding in kinds["image outside"]] == [4, 6]


def test_doubtful_data(tmp_path):
    entries = [{**entry, "split": "train" if entry["person_id"] < 9 else "test"} for entry in people()]
    entries[23]["person_id"] = 0
    entries += [entries[0], {**entries[1], "caption": "another"}, {**entries[2], "caption": "a " * 80}]
    write_own(tmp_path, entries)
    images = tmp_path / "cam"
    (images / "05.png").write_bytes((images / "00.png").read_bytes())
    (images / "19.png").write_bytes((images / "07.png").read_bytes())
    Image.open(images / "08.png").save(images / "21.png", format="JPEG", quality=95)
    kinds = found(tmp_path)
    assert not [kind for kind in kinds if KINDS[kind] == "error"]
    assert [finding.row for finding in kinds["repeated row"]] == [25]
    assert [finding.row for finding in kinds["long caption"]] == [27]
    assert "identity 0 is in train and test" in kinds["identity in two splits"][0].message
    assert [finding.image for finding in kinds["identical files of two identities"]] == ["cam/05.png", "cam/19.png"]
    assert [finding.image for finding in kinds["identical files in two splits"]] == ["cam/07.png"]
    assert [finding.image for finding in kinds["similar images in two splits"]] == ["cam/08.png"]
    assert [finding.image for finding in kinds["identity with one image"]] == ["cam/22.png"]
    assert "no validation split" not in str(kinds["split"])  # an identity is held out


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_any_separator_and_several_columns_of_captions(tmp_path, separator):
    header = ["file_name", "caption1", "caption2", "person_id"]
    rows = [
        [entry["file_name"], f'"{entry["caption"]}, in red; tall"', "", f"p{entry['person_id']}"] for entry in people()
    ]
    rows[0][2] = "second"
    lines = [separator.join(cells) for cells in [header, *rows, [""] * 4]]
    write_own(tmp_path, [], "\n".join(lines), "metadata.csv")
    assert not [kind for kind in found(tmp_path) if KINDS[kind] == "error"]
    data = load_person_dataset(tmp_path, validation_identities=0, test_identities=0)["train"]
    assert data["captions"][0] == ["a person 0, in red; tall", "second"]
    assert data["captions"][1] == ["a person 1, in red; tall"]
    assert data["person_id"][:3] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,text\na.png,b\n", "has no column 'file_name' and 'person_id' and 'captions'"),
        ("file_name|caption|person_id\n", "separated by commas, semicolons or tabs"),
        ("file_name,caption,caption,person_id\na,b,c,1\n", "the column 'caption' more than once"),
        (
            'file_name,person_id,caption\ncam/00.png,1,"never\ncam/01.png,1,x\n',
            "row 2 (image 'cam/00.png') begins a text",
        ),
        (
            "file_name,caption,person_id\ncam/00.png,x,1\n\n,,\ncam/01.png,a,b,2\n",
            "row 5 (image 'cam/01.png') has not the 3",
        ),
    ],
)
def test_a_csv_that_is_none(tmp_path, text, message):
    write_own(tmp_path, [], text, "metadata.csv")
    assert message in refusal(tmp_path, None)
    assert found(tmp_path)


def test_no_dataset_and_no_folder(tmp_path):
    assert "annotation file" in found(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        check_dataset(tmp_path / "nowhere")


def benchmark(folder: Path, name: str = "RSTPReid") -> list[dict]:
    """Write a benchmark below a folder; return its entries."""
    entries = []
    for i in range(20):
        split = "train" if i < 12 else "val" if i < 16 else "test"
        entries.append(
            {"img_path": f"{i:04d}_c1_1.png", "captions": [f"one {i}", f"two {i}"], "id": i // 2, "split": split}
        )
        draw(folder / name / "imgs" / entries[-1]["img_path"], i)
    (folder / name / "data_captions.json").write_text(json.dumps(entries))
    return entries


def test_a_benchmark_in_its_folder_or_above(tmp_path):
    entries = benchmark(tmp_path)
    entries[3]["id"], entries[5]["split"], entries[7] = "7", "gallery", 5
    entries[9]["captions"] = ["fine", " ", 5]
    entries[19]["img_path"] = entries[0]["img_path"]
    entries.append(entries[10])
    (tmp_path / "RSTPReid" / "data_captions.json").write_text(json.dumps(entries))
    kinds = found(tmp_path, "rstpreid")
    assert [finding.row for finding in kinds["malformed row"]] == [3, 5, 7, 9, 9]
    assert [finding.row for finding in kinds["rows that disagree"]] == [19]
    assert [finding.row for finding in kinds["repeated row"]] == [20]
    assert "official counts" in kinds["counts"][0].message
    assert found(tmp_path / "RSTPReid").keys() == kinds.keys()
    fixed = write_fixed(tmp_path, tmp_path / "out", check_dataset(tmp_path, "rstpreid", progress=False), "rstpreid")
    assert (fixed.rows, fixed.number("left out"), fixed.number("changed")) == (15, 6, 0)
    assert not errors_of(check_dataset(tmp_path / "out", "rstpreid", progress=False))
    kept = json.loads((tmp_path / "out" / "data_captions.json").read_text())
    assert kept == [entry for i, entry in enumerate(entries) if i not in (3, 5, 7, 9, 19, 20)]


LAYOUTS = {
    "mals": ("MALS/g_a_attrs.json", [{"image": f"{i}.png", "caption": f"a {i}"} for i in range(6)], "MALS"),
    "webperson": (
        "WebPerson/a.json",
        [{f"{i}.png": {"caption1": "a", "caption2": f"b {i}"}} for i in range(6)],
        "WebPerson",
    ),
    "luperson_mllm": ("LUPerson-MLLM/Ts-a.json", {f"x/{i}.png": f"a {i}" for i in range(6)}, "LUPerson-MLLM/imgs"),
    "ufine6926": (
        "UFine6926/UFine6926.json",
        [{"split": "train", "file_path": f"{i}.png", "captions": [f"a {i}"], "id": i // 2} for i in range(6)],
        "UFine6926",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_sets_for_pre_training(tmp_path, name):
    file, content, images = LAYOUTS[name]
    for number in range(6):
        draw(tmp_path / "data" / images / f"{number}.png", number)
    path = tmp_path / "data" / file
    path.write_text(json.dumps(content))
    assert not [kind for kind in found(tmp_path / "data", name) if KINDS[kind] == "error"]

    (tmp_path / "data" / images / "2.png").unlink()
    (tmp_path / "data" / images / "3.png").write_bytes(b"no image")
    text = json.dumps(content).replace('"a 4"', "[4]").replace('"b 4"', "4").replace('"a 5"', '"  "')
    path.write_text(text)
    kinds = found(tmp_path / "data", name)
    assert [finding.row for finding in kinds["missing image"]] == [2]
    assert [finding.row for finding in kinds["unreadable image"]] == [3]
    assert [finding.row for finding in kinds["malformed row"]] == [4]
    fixed = write_fixed(
        tmp_path / "data", tmp_path / "out", check_dataset(tmp_path / "data", name, progress=False), name
    )
    assert not refusal(tmp_path / "out", name)
    assert not errors_of(check_dataset(tmp_path / "out", name, progress=False))
    assert fixed.number("left out") >= 3


def test_shards_and_saved_datasets(tmp_path):
    images = []
    for number in range(24):
        draw(tmp_path / "x.png", number)
        images.append({"path": None, "bytes": (tmp_path / "x.png").read_bytes()})
    columns = {"image": images, "captions": [[f"a {i}"] for i in range(24)], "person_id": [i // 2 for i in range(24)]}
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "shards" / "train-0.parquet")
    assert not [kind for kind in found(tmp_path / "shards") if KINDS[kind] == "error"]
    columns["image"][3] = {"path": None, "bytes": b"no image"}
    columns["captions"][5] = [" "]
    (tmp_path / "shards" / "train-0.parquet").unlink()
    pq.write_table(pa.table(columns), tmp_path / "shards" / "train-2.parquet")
    (tmp_path / "shards" / "train-1.parquet").write_bytes(b"PAR1")
    kinds = found(tmp_path / "shards")
    assert [finding.row for finding in kinds["unreadable image"]] == [3]
    assert len(kinds["annotation file"]) == 2  # a sample and a shard

    columns["captions"][7] = []
    saved = Dataset.from_dict(columns).cast_column("image", ImageFeature(decode=False))
    DatasetDict(train=saved).save_to_disk(str(tmp_path / "saved"))
    kinds = found(tmp_path / "saved")
    assert [finding.row for finding in kinds["malformed row"]] == [5, 7]
    assert [finding.row for finding in kinds["unreadable image"]] == [3]
    with pytest.raises(InputError, match="of another kind"):
        write_fixed(tmp_path / "saved", tmp_path / "out", check_dataset(tmp_path / "saved", progress=False))


def test_a_copy_corrects_what_can_be_corrected_and_leaves_the_original(tmp_path):
    data = tmp_path / "data"
    entries = people()
    name = unicodedata.normalize("NFD", "cam/é.png")
    draw(data / name, 90)
    entries[0]["file_name"] = unicodedata.normalize("NFC", name)
    entries[1]["file_name"] = " cam\\01.png "
    entries[2] = {"file_name": "cam/02.png", "captions": ["a  long coat", " "], "person_id": 1}
    write_own(data, [*entries, entries[3]])
    before = tree(data)
    report = check_dataset(data, progress=False)
    kinds = dict(report.by_kind())
    assert [finding.row for finding in kinds["name in another Unicode form"]] == [1]
    for link in (False, True):
        out = tmp_path / f"out{link}"
        fixed = write_fixed(data, out, report, link=link, progress=False)
        assert (fixed.number("left out"), fixed.number("changed"), fixed.images) == (1, 2, 24)
        assert tree(data) == before
        rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
        assert [row["file_name"] for row in rows[:2]] == [unicodedata.normalize("NFC", name), "cam/01.png"]
        assert rows[2]["captions"] == ["a long coat"]
        assert not refusal(out, None)
        assert set(dict(check_dataset(out, progress=False).by_kind())) == {"split"}
        assert ((out / "cam" / "05.png").stat().st_nlink == 2) == link
        changes = [json.loads(line) for line in (out / "fixed.jsonl").read_text().splitlines()]
        assert [(change["action"], change["row"]) for change in changes] == [
            ("changed", 2),
            ("changed", 3),
            ("left out", 25),
        ]
    for place in (data, data / "inside"):
        with pytest.raises(InputError, match="within the dataset"):
            write_fixed(data, place, report, progress=False)


def test_nothing_is_written_where_nothing_is_left(tmp_path):
    write_own(tmp_path / "data", people())
    for path in (tmp_path / "data" / "cam").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no row can be used"):
        write_fixed(tmp_path / "data", tmp_path / "out", check_dataset(tmp_path / "data", progress=False))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Whole folders of each kind."""
    folders = {}

    def prepare(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("whole") / "data"
            folders[kind].mkdir()
            TARGETS[kind].prepare(folders[kind])
        return folders[kind]

    return prepare


OWN = ["own data .jsonl", "own data .csv", "own data .parquet"]


@pytest.mark.parametrize("kind", OWN)
def test_the_check_and_training_agree_about_damaged_folders(kind, whole, tmp_path):
    """The check finds errors exactly where training refuses, and a copy without them is not refused."""
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        assert try_case(whole(kind), tmp_path / str(seed), None, damaged(kind, seed)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*OWN, *NAMES])
def test_the_check_and_training_agree_about_many_damaged_folders(kind, whole, tmp_path):
    for seed in range(10, 50):
        (tmp_path / str(seed)).mkdir()
        name = kind if kind in NAMES else None
        assert try_case(whole(kind), tmp_path / str(seed), name, damaged(kind, seed)) == ""
