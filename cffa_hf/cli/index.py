"""`cffa-hf index`: embed a folder of images into a gallery, or bring it up to date."""

import argparse
from pathlib import Path

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.precision import INFERENCE_PRECISIONS
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.header import HEADER, read_header
from cffa_hf.search.saving import INDEXES


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("index", help="embed a folder of images into a gallery, or bring it up to date")
    parser.add_argument("images", type=Path, metavar="FOLDER", help="folder of images")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder of the gallery; if it is there, it is brought up to date"
    )
    parser.add_argument(
        "--checkpoint",
        help="folder of a model, or its name on the Hub; default: the one that the gallery was made with",
    )
    parser.add_argument(
        "--metadata", type=Path, help="CSV or JSON-lines file with file_name and columns such as camera, time"
    )
    parser.add_argument("--index", choices=INDEXES, default="auto", help="default: faiss past 20,000 images")
    parser.add_argument(
        "--precision", choices=INFERENCE_PRECISIONS, help="default: bfloat16 where the device computes in it"
    )
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed what is new, and print what the gallery holds."""
    recorded = read_header(arguments.out) if (arguments.out / HEADER).is_file() else {}
    name = arguments.checkpoint or recorded.get("checkpoint")
    if not isinstance(name, str):
        raise InputError(f"{arguments.out} is a new gallery: name the model with --checkpoint.")
    checkpoint = open_checkpoint(name, device=arguments.device)
    precision = arguments.precision or recorded.get("precision") or "auto"
    embedder = Embedder.from_checkpoint(checkpoint, precision=precision)
    gallery = Gallery.from_folder(
        embedder, arguments.images, arguments.out, metadata=arguments.metadata, index=arguments.index
    )
    about = gallery.describe()
    recall = f", recall@10 {about['recall@10']:.3f}" if about["recall@10"] is not None else ""
    print(f"{arguments.out}: {len(gallery):,} images in {about['precision']}, {about['index']} index{recall}")
