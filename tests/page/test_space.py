"""The Space of the page: a folder that works without this package."""

import ast
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest

from cffa_hf.cli import main
from cffa_hf.errors import InputError
from cffa_hf.publishing.space import write_space_folder
from tests.browser import Window
from tests.page.conftest import free_port
from tests.processes import without_package


def imported(folder) -> set[str]:
    """Names of the packages that the modules of a folder import outside of functions."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.slow
def test_the_space_answers_a_search_by_itself(home, browser, tmp_path):
    space = tmp_path / "space"
    assert (
        main(
            ["push", "--space", "search", "--repo-id", "me/x", "--model", str(home / "model"), "--dry-run", str(space)]
        )
        == 0
    )
    settings = json.loads((space / "page.json").read_text())
    assert settings["model"] == "model"
    assert str(home) not in "".join(path.read_text() for path in space.glob("*.*"))
    assert len(list((space / "pictures").rglob("*.jpg"))) == 48
    needed = {name.strip().lower() for name in (space / "requirements.txt").read_text().split()}
    there = {"cffa_hf", "gradio", "starlette", "tokenizers"}  # itself, of the Space, and of transformers
    standard = {name for name in imported(space) if name in sys.stdlib_module_names}
    assert imported(space) - standard - there - {"PIL"} <= needed
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "GRADIO"))}
    settings_of_space = {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            without_package("app.py"),
            cwd=space,
            env=kept | settings_of_space | {"HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}/"
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
        shown = Window(browser, address)
        examples = shown.page.get_by_role("group", name="Example sentences").get_by_role("button")
        assert [one.inner_text() for one in examples.all()] == settings["sentences"]
        examples.first.click()
        shown.page.locator("#status b").wait_for()
        assert re.match(r"Result 1 of 10, score -?\d\.\d\d, camera camera \d", shown.names()[0])
        assert re.match(r"camera-\d/\d{4}\.jpg", shown.why(0))
        assert not shown.foreign
        shown.context.close()
    finally:
        process.terminate()
        process.wait(20)
    assert not list(tmp_path.glob("cffa-*"))


def test_models_and_galleries_of_the_hub_are_named_in_the_card(tmp_path):
    write_space_folder("search", tmp_path, model="me/cffa", gallery="me/archive")
    card = (tmp_path / "README.md").read_text()
    assert "models:\n- me/cffa" in card
    assert "datasets:\n- me/archive" in card
    assert "nobody in the pictures exists" not in card
    assert json.loads((tmp_path / "page.json").read_text()) == {
        "model": "me/cffa",
        "gallery": "me/archive",
        "sentences": [],
    }
    assert not (tmp_path / "pictures").exists()


def test_what_a_space_cannot_have_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="needs a model; give --model"):
        write_space_folder("search", tmp_path / "a")
    with pytest.raises(InputError, match="has neither model nor gallery"):
        write_space_folder("metric", tmp_path / "a", model="me/cffa")
    with pytest.raises(InputError, match="is no name of a repository"):
        write_space_folder("search", tmp_path / "b", model="no/such/model")
    assert not (tmp_path / "a").exists()
