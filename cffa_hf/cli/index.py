"""`cffa-hf index`: embed a folder of images into a gallery, or bring it up to date."""

import argparse

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.header import HEADER, read_header


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
