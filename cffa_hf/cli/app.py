"""`cffa-hf app`: the search page in a browser."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.cli.search import open_gallery
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page import SearchPage, rendered_page, serve


def run(arguments: argparse.Namespace) -> None:
    """Open gallery and model, and serve the page until it is interrupted."""
    if arguments.gallery:
        show(SearchPage(open_gallery(arguments)), arguments)
        return
    if not arguments.checkpoint:
        raise InputError("Without a gallery the page needs a model; give --checkpoint with its folder or Hub name.")
    checkpoint = open_checkpoint(arguments.checkpoint, device=arguments.device)
    embedder = Embedder.from_checkpoint(checkpoint, precision=arguments.precision or "auto")
    with TemporaryDirectory(prefix="cffa-rendered-") as folder:
        show(rendered_page(embedder, folder), arguments)


def show(page: SearchPage, arguments: argparse.Namespace) -> None:
    """Serve a page, and close its gallery afterwards."""
    try:
        serve(page, model=Path(page.gallery.checkpoint or "").name, host=arguments.host, port=arguments.port)
    finally:
        page.gallery.close()
