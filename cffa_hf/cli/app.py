"""`cffa-hf app`: the search page in a browser."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.cli.search import open_gallery
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page import SearchPage, rendered_page, serve
from cffa_hf.precision import INFERENCE_PRECISIONS


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("app", help="search a gallery on a page in the browser")
    parser.add_argument(
        "gallery",
        nargs="?",
        type=Path,
        metavar="GALLERY",
        help="what cffa-hf index wrote, or a folder of images; default: rendered people",
    )
    parser.add_argument(
        "--checkpoint",
        help="folder of a model, or its name on the Hub; default: the one that the gallery was made with",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; default: %(default)s")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, help="default: that of the gallery")
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.set_defaults(run=run)


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
