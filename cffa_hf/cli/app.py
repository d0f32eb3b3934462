"""`cffa-hf app`: the search page in a browser."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page import SearchPage, rendered_page, serve
from cffa_hf.precision import INFERENCE_PRECISIONS
from cffa_hf.search.gallery import Gallery, recorded_checkpoint


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("app", help="search a gallery on a page in the browser")
    parser.add_argument("gallery", nargs="?", type=Path, help="folder of a gallery; default: rendered people")
    parser.add_argument("--checkpoint", help="folder or Hub name of the model; default: the one that made the gallery")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine only")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, default="auto", help="what the model computes in")
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Open gallery and model, and serve the page until it is interrupted."""
    name = arguments.checkpoint or (recorded_checkpoint(arguments.gallery) if arguments.gallery else None)
    if not name:
        raise InputError("Without a gallery the page needs a model; give --checkpoint with its folder or Hub name.")
    checkpoint = open_checkpoint(name, device=arguments.device)
    embedder = Embedder(checkpoint.model, checkpoint.processor, precision=arguments.precision)
    with TemporaryDirectory(prefix="cffa-rendered-") as folder:
        if arguments.gallery:
            page = SearchPage(Gallery.open(arguments.gallery, embedder))
        else:
            page = rendered_page(embedder, folder)
        serve(page, model=Path(name).name, host=arguments.host, port=arguments.port)
        page.gallery.close()
