"""`cffa-hf push-dataset`: publish a dataset on the Hub."""

import argparse
import sys
from functools import partial
from pathlib import Path

from cffa_hf.data.checks import check_images
from cffa_hf.data.facts import is_rendered
from cffa_hf.data.layouts import layout_named
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.seen import read_seen
from cffa_hf.errors import InputError, visible
from cffa_hf.files import complete, replace_folder
from cffa_hf.names import SEEN_RECORD, public_name
from cffa_hf.publishing.card_text import known_format, licence_warning
from cffa_hf.publishing.client import check_repo_id
from cffa_hf.publishing.dataset import publish_dataset, write_dataset_folder
from cffa_hf.publishing.folders import is_earlier, working_folder


def run(arguments: argparse.Namespace) -> None:
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
    where = f"to the folder {visible(arguments.dry_run)}" if arguments.dry_run else f"{who} as {arguments.repo_id}"
    print(
        f"{warning}\n{data.division.sentence}\nThese {images:,} images and their captions now go {where}.".strip(),
        file=sys.stderr,
        flush=True,
    )
    if arguments.dry_run:
        out = Path(arguments.dry_run).absolute()
        with working_folder(out.with_name(f".{out.name}.unfinished")) as work:
            write_dataset_folder(data, work / "out", name, arguments.repo_id, rendered=rendered)
            complete(work / "out")
            is_earlier(out, mark="data")  # what is there may have changed meanwhile
            replace_folder(work / "out", out)
        print(f"{visible(arguments.dry_run)} holds what would be published as {arguments.repo_id}")
    else:
        print(publish_dataset(data, name, arguments.repo_id, rendered=rendered, public=arguments.public).commit_url)
