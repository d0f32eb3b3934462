"""What the site adds to the pages of this folder: tables of settings, the reference of the commands, the notebook.

MkDocs calls the functions that begin with `on_` (mkdocs.yml names this file).
"""

import argparse
import contextlib
import enum
import html
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any
from unittest import mock

import nbformat
import yaml
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from transformers import TrainingArguments

from cffa_hf.arguments import (
    CFFATrainingArguments,
    CorruptionSettings,
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    TrainingDataArguments,
)
from cffa_hf.arguments.model import RandomWeightsArguments
from cffa_hf.arguments.parsing import RUN_CLASSES, QuietArgumentParser
from cffa_hf.arguments.search_space import SearchSettings
from cffa_hf.cli import main
from cffa_hf.losses import LossSettings

SETTINGS, EVALUATION, COMMANDS = "<!-- settings -->", "<!-- settings of an evaluation -->", "<!-- commands -->"

# The classes that declare the settings of a training, in the order of the page; one that is not among them ends the build.
TITLES = {
    DataArguments: "Data",
    TrainingDataArguments: "Data of a training",
    ModelArguments: "Model",
    RandomWeightsArguments: "Model from random weights",
    CFFATrainingArguments: "Training",
    LossSettings: "Losses",
    CorruptionSettings: "Augmentation and corruption",
    SearchSettings: "Search for settings",
    TrainingArguments: "Everything else of transformers.TrainingArguments",
}


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put what is generated in the place of its mark."""
    for mark, write in ((SETTINGS, settings_of_a_run), (EVALUATION, settings_of_an_evaluation), (COMMANDS, commands)):
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(write()))
    return markdown


# The notebook is a page like any other: links to it work here and where notebooks are shown as they are.


class NotebookFile(File):
    """A notebook that becomes a page."""

    def is_documentation_page(self) -> bool:
        """Tell MkDocs that this is no file to copy."""
        return True


def on_files(files: Files, config: Any) -> Files:
    """Make pages of the notebooks."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        page = NotebookFile(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls)
        files.append(page)
    return files


def on_page_read_source(page: Page, **_: Any) -> str | None:
    """Read a notebook as Markdown; all other files are read by MkDocs."""
    if not isinstance(page.file, NotebookFile):
        return None
    return "\n\n".join(cell_text(cell) for cell in nbformat.read(page.file.abs_src_path, as_version=4).cells)


def cell_text(cell: Any) -> str:
    """Write a cell and what it put out as Markdown."""
    if cell.cell_type == "markdown":
        return cell.source
    parts = [f"```python\n{cell.source}\n```"]
    for output in cell.outputs:
        data = output.get("data", {})
        text = output.get("text") or data.get("text/plain", "")
        picture = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
        if picture:
            parts.append(f"![What the cell above draws](data:{picture};base64,{data[picture].strip()})")
        elif text:
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


# Settings


def settings_of_a_run() -> Iterator[str]:
    """Write one table for each class that declares settings of a training."""
    declared: dict[type, list[Field]] = {kind: [] for kind in TITLES}
    for kind in RUN_CLASSES:
        for item in fields(kind):
            items = declared[owner_of(item.name, kind)]
            if item.name not in [other.name for other in items]:
                items.append(item)
    for kind, title in TITLES.items():
        yield f"## {title}\n"
        yield from table_of_settings(declared[kind])


def settings_of_an_evaluation() -> Iterator[str]:
    """Write the table of what an evaluation takes beside the settings of the data."""
    yield from table_of_settings(fields(EvaluationArguments))


def owner_of(name: str, kind: type) -> type:
    """Return the class that declares a field last."""
    return next(base for base in kind.__mro__ if name in inspect.get_annotations(base))


def table_of_settings(items: Iterable[Field]) -> Iterator[str]:
    """Write fields as a table."""
    yield "| setting | default | what it does |\n| --- | --- | --- |"
    for item in items:
        if item.init:
            text = plain(item.metadata.get("help", "")) + choices_of(item.metadata.get("choices"))
            yield f"| `{item.name}` | {default_of(item)} | {text} |"
    yield ""


def default_of(item: Field) -> str:
    """Write a default as YAML would have it."""
    if item.default is MISSING and item.default_factory is MISSING:
        return "required"
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix('...' + chr(10)).strip()}`"


def choices_of(choices: Iterable[Any] | None) -> str:
    """Write what a setting may be."""
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def plain(text: str) -> str:
    """Write a sentence of help as a cell of a table; what stands between backticks stays code."""
    words = " ".join((text or "").replace("%%", "%").split()).split("`")
    if len(words) % 2 == 0:
        words = ["\\`".join(words)]
    sentence = "".join(
        f"`{word.replace('|', chr(92) + '|')}`"
        if number % 2
        else re.sub(r"([*_{}\[\]|])", r"\\\1", html.escape(word, False))
        for number, word in enumerate(words)
    )
    return sentence and sentence + ("" if sentence[-1] in ".!?" else ".")


# Commands


def commands() -> Iterator[str]:
    """Write what each subcommand takes, as its own parser says it."""
    top = parser_of([])
    (listed,) = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    for choice in listed._choices_actions:
        yield f"## `cffa-hf {choice.dest}`\n"
        yield f"{(choice.help or '')[:1].upper()}{plain((choice.help or '')[1:])}\n"
        parser = parser_of([choice.dest])
        if isinstance(parser, QuietArgumentParser):
            place = "settings.md#evaluation" if choice.dest == "evaluate" else "settings.md"
            yield f"Takes `--config FILE ...` and, as `--name value`, the [settings]({place}).\n"
        else:
            yield from options_of(parser)


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser that would print the help of a command."""
    found: list[argparse.ArgumentParser] = []

    def show(_: Any, parser: argparse.ArgumentParser, *rest: Any) -> None:
        found.append(parser)
        parser.exit()

    with mock.patch.object(argparse._HelpAction, "__call__", show), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return found[0]


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Write the usage and the options of a command."""
    with mock.patch.dict("os.environ", COLUMNS="84"):
        yield f"```text\n{parser.format_usage().removeprefix('usage: ').rstrip()}\n```\n"
    yield "| option | default | what it does |\n| --- | --- | --- |"
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        default = "" if action.default in (None, False, [], argparse.SUPPRESS) else f"`{action.default}`"
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        yield f"| {name} | {default} | {plain(text)}{choices_of(action.choices)} |"
    yield ""
