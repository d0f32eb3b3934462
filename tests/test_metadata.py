"""The files that a repository is known by: they parse, and say what setup.cfg says."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    assert citation["license"] == setup["metadata"]["license_expression"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.name)
def test_an_issue_template_has_front_matter(path):
    _, front, body = path.read_text(encoding="utf-8").split("---\n", maxsplit=2)
    assert {"name", "about", "labels"} <= yaml.safe_load(front).keys()
    assert body.strip()


@pytest.mark.parametrize("page", ["SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_of_a_page_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
