"""`cffa-hf search`: rank a gallery, or a folder of images, by a sentence, or by an image."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.errors import InputError, visible
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import IMAGE_SUFFIXES
from cffa_hf.reporting.pictures import save_figure, search_figure
from cffa_hf.search.filters import parse_where
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.header import HEADER, read_header
from cffa_hf.search.results import SearchResult


def run(arguments: argparse.Namespace) -> None:
    """Open the gallery and print the best images with their scores."""
    if arguments.former is not None:
        raise InputError(
            f'The model is an option now: cffa-hf search {arguments.query} "..." --checkpoint {arguments.gallery}.'
        )
    by_image = is_image(arguments.query)
    if not by_image and (arguments.text is not None or arguments.text_weight is not None):
        raise InputError(
            "--text and --text-weight go with an image as the query; with a sentence, say it all in the sentence."
        )
    gallery = open_gallery(arguments)
    limits: dict[str, Any] = {"where": parse_where(arguments.where), "minimum_score": arguments.minimum_score}
    if by_image:
        given = {} if arguments.text_weight is None else {"text_weight": arguments.text_weight}
        results = gallery.search_image(arguments.query, arguments.top, text=arguments.text, **given, **limits)
    else:
        results = gallery.search(arguments.query, arguments.top, **limits)
    found = [dataclasses.replace(result, path=_shown(gallery, result)) for result in results]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(result) for result in found], indent=1))
    else:
        for place, result in enumerate(found, start=1):
            print(f"{place:>3}  {result.score:.4f}  {visible(result.path)}")
        if not found:
            print("no image passes the filters")
    if arguments.sheet and found:
        save_figure(search_figure(_title(arguments), found), arguments.sheet)
        if not arguments.json:
            print(f"drawn in {arguments.sheet}")


def is_image(query: str) -> bool:
    """Tell the name of an image file from a sentence: it ends as the name of a file that search reads.

    Example:
        >>> is_image("people/0001.jpg"), is_image("a woman in a green coat")
        (True, False)
    """
    return Path(query).suffix.lower() in IMAGE_SUFFIXES


def open_gallery(arguments: argparse.Namespace) -> Gallery:
    """Open a gallery, or embed a folder of images in memory.

    Args:
        arguments: With `gallery`, `checkpoint`, `precision` and `device`.

    Raises:
        InputError: If it cannot be opened, or there is no model.
    """
    folder, saved = arguments.gallery, (arguments.gallery / HEADER).is_file()
    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder; name a folder of images, or what cffa-hf index wrote.")
    recorded = read_header(folder) if saved else {}
    name = arguments.checkpoint or recorded.get("checkpoint")
    if not isinstance(name, str):
        what = "this gallery does not say which model made it" if saved else "this is no gallery but a folder of images"
        raise InputError(f"{folder}: {what}; name the model with --checkpoint.")
    precision = arguments.precision or recorded.get("precision") or "auto"
    embedder = Embedder.from_checkpoint(open_checkpoint(name, device=arguments.device), precision=precision)
    return Gallery.open(folder, embedder) if saved else Gallery.from_folder(embedder, folder)


def _title(arguments: argparse.Namespace) -> str:
    if not is_image(arguments.query):
        return arguments.query
    return f"like {visible(Path(arguments.query).name)}" + (f", {arguments.text}" if arguments.text else "")


def _shown(gallery: Gallery, result: SearchResult) -> str:
    return str(gallery.root / result.path) if gallery.root else result.path
