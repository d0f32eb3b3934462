"""`cffa-hf check-data` as a program: what it prints, how it ends, and what docs/data.md shows of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cffa_hf.cli import main

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.fixture
def people(tmp_path, monkeypatch):
    """A folder `my-data` of thirty people with two images each, in which a few things are wrong."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-data"
    (folder / "cam1").mkdir(parents=True)
    lines = ["file_name;caption;person_id"]
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "cam1" / f"{number:04d}.png")
        lines.append(f"cam1/{number:04d}.png;A person with bag {number}.;p{number // 2:02d}")
    lines[3] = "cam1/0002.png;A man; with a bag.;p01"
    lines[8] = "cam1/0007.png; ;p03"
    lines.append(lines[10])
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "cam1" / "0020.png").unlink()
    (folder / "cam1" / "0031.png").write_bytes((folder / "cam1" / "0031.png").read_bytes()[:500])
    (folder / "cam1" / "0044.png").write_bytes((folder / "cam1" / "0050.png").read_bytes())
    return folder


def test_the_document_shows_what_is_printed(people, capsys):
    assert main(["check-data", "my-data"]) == 2
    printed = capsys.readouterr().out.strip()
    assert f"```\n{printed}\n```" in DOCUMENT.read_text(encoding="utf-8")


def test_json_is_one_document_and_a_copy_has_no_errors(people, capsys):
    assert main(["check-data", "my-data", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["errors"], found["dataset"]) == (4, "own data")
    assert {entry["row"] for entry in found["findings"] if entry["severity"] == "error"} == {4, 9, 22, 33}

    assert main(["check-data", "my-data", "--fix", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"]["left_out"] == 5
    assert main(["check-data", "out"]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_many_findings_of_a_kind_are_counted(people, capsys):
    for path in (people / "cam1").iterdir():
        path.unlink()
    assert main(["check-data", "my-data", "--fix", "out"]) == 2
    printed = capsys.readouterr()
    assert "... and 53 more; --json lists all" in printed.out
    assert "no row can be used" in printed.err
    assert not Path("out").exists()


def test_the_division_is_that_of_the_config(people, capsys):
    assert main(["check-data", "my-data", "--test-identities", "5", "--validation-identities", "2", "--json"]) == 2
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [splits[split]["identities"] for split in ("validation", "test")] == [2, 5]


def test_a_place_that_is_taken_is_refused_before_anything_is_read(people, capsys):
    Path("taken").mkdir()
    Path("taken/file").touch()
    for place in ("taken", "my-data/copy"):
        assert main(["check-data", "my-data", "--fix", place]) == 2
        assert capsys.readouterr().out == ""


def test_mistakes_of_the_command_line(tmp_path, capsys):
    assert main(["check-data", str(tmp_path / "nowhere")]) == 2
    assert main(["check-data", str(tmp_path), "--link"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no such folder" in printed.err
    assert "--link goes with --fix" in printed.err
