"""The files that a repository is known by: they parse, and say what setup.cfg says."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cffa_hf.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
# What may stand at the top of a file of version 1.2.0 of the Citation File Format.
CITATION_KEYS = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() <= CITATION_KEYS
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert citation["version"] == VERSION
    assert all(author.keys() & {"name", "family-names"} for author in citation["authors"])
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


def requirements() -> dict[str, list[Requirement]]:
    """What setup.cfg asks for, by extra; `base` is what every user gets."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = {"base": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {extra: [Requirement(line) for line in text.splitlines() if line] for extra, text in texts.items()}


@pytest.mark.parametrize("extra", requirements())
def test_each_requirement_has_a_lowest_version_and_a_pin_that_satisfies_it(extra):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    for wanted in requirements()[extra]:
        assert any(part.operator == ">=" for part in wanted.specifier), wanted
        assert versions[canonicalize_name(wanted.name)] in wanted.specifier, wanted


def test_the_tests_have_all_that_the_extras_bring():
    others = {extra: wanted for extra, wanted in requirements().items() if extra != "audit"}  # a tool of its own
    every = {str(wanted) for wanted_of in others.values() for wanted in wanted_of}
    assert every == {str(wanted) for extra in ("base", "test") for wanted in requirements()[extra]}
