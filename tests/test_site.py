"""The site of the documentation is built strictly, holds all that it promises, and its notebook runs."""

import html
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

import cffa_hf
from cffa_hf.arguments import EvaluationArguments
from cffa_hf.arguments.parsing import RUN_CLASSES
from cffa_hf.cli import COMMANDS, PROGRAMS

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "first_search.ipynb"
ENVIRONMENT = {"NO_MKDOCS_2_WARNING": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, str]:
    """The text of every page, by its path, of a site that was built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_on_the_site_and_loads_nothing_from_elsewhere(site):
    pages = {*(REPOSITORY / "docs").rglob("*.md"), NOTEBOOK}
    wanted = {str(path.relative_to(REPOSITORY / "docs").with_suffix(".html")) for path in pages}
    assert site.keys() == wanted | {"404.html"}
    for text in site.values():
        assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=\"?(https?:)?//", text)
        assert not re.search(r"<link[^>]*rel=\"?(stylesheet|preconnect|icon)[^>]*href=\"?(https?:)?//", text)


@pytest.mark.slow
def test_the_reference_has_every_setting_command_and_public_name(site):
    for kind in (*RUN_CLASSES, EvaluationArguments):
        for item in fields(kind):
            assert not item.init or f"<td><code>{item.name}</code></td>" in site["reference/settings.html"], item.name
    commands = html.unescape(site["reference/commands.html"])
    for name in (*COMMANDS, *PROGRAMS):
        assert f"<code>cffa-hf {name}</code>" in commands
    assert "<code>--minimum-score</code>" in commands
    headings = " ".join(text for page, text in site.items() if page.startswith("reference/"))
    for name in cffa_hf.__all__:
        assert name.startswith("__") or re.search(rf'<h\d id="cffa_hf\.[\w.]*\b{name}"', headings), name


def test_the_notebook_is_shipped_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 200_000
    assert not [
        cell.id for cell in notebook.cells if "error" in {output.output_type for output in cell.get("outputs", [])}
    ]
    assert str(REPOSITORY) not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for name, value in (ENVIRONMENT | {"TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    (metrics,) = [
        yaml.safe_load(output.data["text/plain"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "'rank1'" in output.get("data", {}).get("text/plain", "")
    ]
    assert metrics["rank5"] > 30, "chance is 12.5"
    assert (tmp_path / "first-search" / "model" / "model.safetensors").is_file()
