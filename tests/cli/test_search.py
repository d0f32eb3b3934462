"""`cffa-hf index` and `cffa-hf search`, on a tiny checkpoint."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cffa_hf.cli import main
from cffa_hf.inputs.images import read_image
from cffa_hf.search.gallery import Gallery
from tests.shards import write_shards
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    rows = person_rows(identities=3)
    tiny_model().cffa.save_pretrained(root / "model")
    tiny_processor(rows).save_pretrained(root / "model")
    (root / "people").mkdir()
    lines = ["file_name,camera"]
    for row in rows:
        read_image(row["image"]).save(root / "people" / row["file_path"])
        lines.append(f"{row['file_path']},cam_{row['image_id'] % 2}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def gallery(world):
    words = ["index", str(world / "people"), str(world / "gallery"), "--checkpoint", str(world / "model")]
    assert main([*words, "--metadata", str(world / "metadata.csv"), "--precision", "float32"]) == 0
    return world / "gallery"


def test_a_gallery_knows_its_model(world, gallery, capsys, tmp_path):
    assert main(["search", str(gallery), "a red shirt", "--top", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 4
    assert found[0]["path"].startswith(str(world / "people"))
    words = ["search", str(gallery), "a red shirt", "--where", "camera=cam_1", "--minimum-score", "-1"]
    assert main([*words, "--sheet", str(tmp_path / "found.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(int(line.split("/")[-1].removesuffix(".png")) % 2 for line in lines[:3])
    assert Image.open(tmp_path / "found.png").width > 100
    assert main(["search", str(gallery), "red", "--minimum-score", "1"]) == 0
    assert "no image passes" in capsys.readouterr().out


def test_an_image_is_a_query_too(world, gallery, capsys, tmp_path):
    picture = sorted((world / "people").iterdir())[2]
    words = ["search", str(gallery), str(picture), "--top", "6"]
    assert main([*words, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone[0]["path"] == str(picture)
    assert alone[0]["score"] == pytest.approx(1, abs=2e-3)
    opened = Gallery.open(gallery)
    for given, options in (({}, []), ({"text_weight": 0.9}, ["--text-weight", "0.9"])):
        assert main([*words, "--text", "a red shirt", *options, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        wanted = opened.search_image(picture, 6, text="a red shirt", **given)
        assert [each["score"] for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)
        assert found != alone
    assert main([*words, "--text", "a red shirt", "--sheet", str(tmp_path / "found.png")]) == 0
    assert Image.open(tmp_path / "found.png").width > 100


def test_shards_are_indexed_by_the_same_command(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_shards(tmp_path / "shards", (2, 3, 1), ids=True)
    words = ["index", str(tmp_path / "shards"), str(tmp_path / "gallery"), "--checkpoint", str(world / "model")]
    assert main(words) == 0
    assert main(words) == 0  # again, from the rows that the first time has cached
    assert capsys.readouterr().out.count("6 images in") == 2
    where = ["--where", "file_path=train-001.parquet/2", "--minimum-score", "-1", "--json"]
    assert main(["search", str(tmp_path / "gallery"), "a red shirt", *where]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert Path(found["path"]).read_bytes() == person_rows(6, 1, first_id=0)[4]["image"]["bytes"]
    assert main([*words, "--metadata", "some.csv"]) == 2
    assert "--metadata goes with image files" in capsys.readouterr().err


def test_a_folder_of_images_is_ranked_too(world, gallery, capsys):
    words = [
        str(world / "people"),
        "a red shirt",
        "--checkpoint",
        str(world / "model"),
        "--precision",
        "float32",
        "--json",
    ]
    assert main(["search", *words]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main(["search", str(gallery), "a red shirt", "--json"]) == 0
    assert [each["path"] for each in alone] == [each["path"] for each in json.loads(capsys.readouterr().out)]


def test_indexing_again_says_what_there_is(world, gallery, capsys):
    assert main(["index", str(world / "people"), str(gallery)]) == 0
    assert "6 images in float32, exact index, recall@10 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "{gallery}", " "], "The sentence is blank"),
        (["search", "{gallery}", "red", "--where", "colour=red"], "no column 'colour' to filter by; there is camera"),
        (["search", "{gallery}", "red", "--where", "camera"], "A filter looks like"),
        (["search", "{gallery}", "red", "--precision", "bfloat16"], "made in float32"),
        (["search", "{gallery}", "red", "--top", "0"], "must be at least 1"),
        (["search", "{gallery}", "none.jpg"], "none.jpg"),
        (["search", "{gallery}", "red", "--text", "a hat"], "go with an image as the query"),
        (["search", "{gallery}", "red", "--text-weight", "1"], "go with an image as the query"),
        (["search", "{gallery}", "{people}/0_0.png", "--text", "a", "--text-weight", "2"], "between 0 and 1"),
        (["search", "{people}", "red"], "name the model with --checkpoint"),
        (["search", "{model}", "{people}", "red"], "The model is an option now"),
        (["search", "{people}/none", "red", "--checkpoint", "{model}"], "no such folder"),
        (["index", "{people}", "{model}", "--checkpoint", "{model}"], "is no gallery"),
        (["index", "{people}", "{gallery}x"], "name the model with --checkpoint"),
        (
            ["index", "{people}", "{gallery}x", "--checkpoint", "{model}", "--metadata", "nowhere.csv"],
            "no file of metadata",
        ),
        (["index", "{model}", "{gallery}x", "--checkpoint", "{model}"], "no image below"),
    ],
)
def test_mistakes_end_with_2_and_one_sentence(world, gallery, capsys, words, message):
    places = {"gallery": gallery, "people": world / "people", "model": world / "model"}
    assert main([word.format(**places) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert line.endswith(".")
