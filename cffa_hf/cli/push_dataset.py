"""`cffa-hf push-dataset`: publish a dataset on the Hub."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cffa_hf.data.checks import check_images
from cffa_hf.data.facts import is_rendered
from cffa_hf.data.layouts import layout_named
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.seen import read_seen
from cffa_hf.errors import InputError
from cffa_hf.names import SEEN_RECORD, public_name
from cffa_hf.publishing.card_text import known_format, licence_warning
from cffa_hf.publishing.client import check_repo_id
from cffa_hf.publishing.dataset import publish_dataset, working_folder, write_dataset_folder
from cffa_hf.publishing.folders import is_earlier, replace_folder


def add_parser(subparsers: Any) -> None:
    """Add `push-dataset` to the command line of the package."""
    parser = subparsers.add_parser(
        "push-dataset",
        help="publish a dataset on the Hub",
        description="Publish a dataset as Parquet files with the images inside, privately unless told otherwise: the "
        "licences of the benchmarks do not allow them to be passed on. With --dry-run it converts originals to shards and "
        "publishes nothing. An attempt that broke off goes on with the files that it lacks: run the same command again.",
    )
    parser.add_argument(
        "dataset",
        help="cuhk_pedes, icfg_pedes, rstpreid; mals, sda, synth_pedes, luperson_mllm, webperson, ufine6926, ufine3c, "
        "aptm_... or tbps_clip_... (see dataset of a training); or a folder",
    )
    parser.add_argument("--dataset-root", metavar="FOLDER", help="folder that holds the folder of the data set")
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="where it is published")
    parser.add_argument(
        "--dry-run", metavar="OUT", help="write the folder that would be published, and publish nothing"
    )
    parser.add_argument(
        "--run",
        dest="training",
        metavar="FOLDER",
        help="divide people as this training run did, which is recorded there",
    )
    parser.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="as split_seed of a training (default: 0)"
    )
    for split in ("validation", "test"):
        parser.add_argument(
            f"--{split}-identities",
            type=int,
            metavar="N",
            help=f"as {split}_identities of a training (default: a tenth)",
        )
    parser.add_argument("--public", action="store_true", help="let everybody see it: only if you may pass it on")
    parser.set_defaults(run=run_push_dataset)


def run_push_dataset(arguments: argparse.Namespace) -> None:
    """Print what will be published and where, then publish it.

    Raises:
        InputError: If the data cannot be read, or as `publish_model`.
    """
    name, rendered = str(public_name(arguments.dataset)), is_rendered(arguments.dataset, arguments.dataset_root)
    read = partial(
        load_person_dataset,
        arguments.dataset,
        arguments.dataset_root,
        test_identities=arguments.test_identities,
        seed=arguments.split_seed,
    )
    data = read(validation_identities=arguments.validation_identities)
    if arguments.training is None and arguments.validation_identities is None and data.division.how == "held out":
        # The source's own splits are published; a training holds the same people out of them again.
        data = read(validation_identities=0)
    if arguments.training is not None:
        seen = read_seen(arguments.training)
        if seen is None:
            raise InputError(
                f"{arguments.training}: has no {SEEN_RECORD}, so its division is not known; leave --run out."
            )
        data = seen.divide(data, name, rendered)
    if arguments.dry_run:
        check_repo_id(arguments.repo_id)
        is_earlier(Path(arguments.dry_run), mark="data")  # a folder that may not be replaced is told at once
    warning = "" if rendered else licence_warning(known_format(name) or layout_named(name))
    check_images(data)  # a text file that is listed as an image must not be published
    images = sum(map(len, data.values()))
    who = "for everybody to see" if arguments.public else "privately"
    where = f"to the folder {arguments.dry_run}" if arguments.dry_run else f"{who} as {arguments.repo_id}"
    print(
        f"{warning}\n{data.division.sentence}\nThese {images:,} images and their captions now go {where}.".strip(),
        file=sys.stderr,
        flush=True,
    )
    if arguments.dry_run:
        out = Path(arguments.dry_run).absolute()
        with working_folder(out.with_name(f".{out.name}.unfinished")) as work:
            write_dataset_folder(data, work / "out", name, arguments.repo_id, rendered=rendered)
            replace_folder(work / "out", out, mark="data")
        print(f"{arguments.dry_run} holds what would be published as {arguments.repo_id}")
    else:
        print(publish_dataset(data, name, arguments.repo_id, rendered=rendered, public=arguments.public).commit_url)
