"""`cffa-hf index`: embed a folder of images, or of shards, into a gallery, or bring it up to date."""

import argparse
from pathlib import Path

from datasets import concatenate_datasets

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.shards import find_shards
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import IMAGE_SUFFIXES
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
    if holds_shards(arguments.images):
        if arguments.metadata is not None:
            raise InputError(f"--metadata goes with image files, and {arguments.images} holds shards; leave it out.")
        splits = load_person_dataset(arguments.images, validation_identities=0, test_identities=0)
        rows = concatenate_datasets(list(splits.values()))
        gallery = Gallery.from_dataset(embedder, rows, arguments.out, index=arguments.index)
    else:
        gallery = Gallery.from_folder(
            embedder, arguments.images, arguments.out, metadata=arguments.metadata, index=arguments.index
        )
    about = gallery.describe()
    recall = f", recall@10 {about['recall@10']:.3f}" if about["recall@10"] is not None else ""
    print(f"{arguments.out}: {len(gallery):,} images in {about['precision']}, {about['index']} index{recall}")


def holds_shards(folder: Path) -> bool:
    """Say whether a folder holds shards and no image files."""
    if not folder.is_dir() or any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
        return False
    return bool(find_shards(folder)[2])
