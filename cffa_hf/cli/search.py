"""`cffa-hf search`: rank a folder of images by a sentence."""

import argparse
from pathlib import Path

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.reporting.pictures import save_figure, search_figure
from cffa_hf.search.gallery import INDEX, Gallery


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("search", help="rank the images of a folder by a sentence")
    parser.add_argument("checkpoint", help="folder of a model, or its name on the Hub")
    parser.add_argument("images", type=Path, help="folder of images, or what --save wrote")
    parser.add_argument("sentence", help="describes the person to look for")
    parser.add_argument("--top", type=int, default=5, help="number of images to show")
    parser.add_argument("--picture", type=Path, help="also draw the images found into this file")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep the embeddings there for the next search")
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed the images, or read their embeddings, and print the best ones with their scores."""
    checkpoint = open_checkpoint(arguments.checkpoint, device=arguments.device)
    if (arguments.images / INDEX).is_file():
        gallery = Gallery.load(arguments.images, checkpoint.model, checkpoint.processor)
    else:
        gallery = Gallery.from_folder(checkpoint.model, checkpoint.processor, arguments.images)
    results = gallery.search(arguments.sentence, arguments.top)
    if arguments.save:
        gallery.save(arguments.save)
    for place, result in enumerate(results, start=1):
        print(f"{place:>3}  {result.score:.4f}  {result.path}")
    if arguments.picture:
        save_figure(search_figure(arguments.sentence, results), arguments.picture)
        print(f"drawn in {arguments.picture}")
