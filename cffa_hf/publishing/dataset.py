"""Publishing a dataset on the Hub: Parquet files with the images inside, private unless told otherwise."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image
from datasets.table import InMemoryTable, embed_table_storage
from huggingface_hub import CommitInfo

from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.seen import SEEN_RECORD, read_seen
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import check_images
from cffa_hf.publishing.card_text import known_format, licence_warning
from cffa_hf.publishing.cards import dataset_card
from cffa_hf.publishing.client import check_repo_id, commit_folder, open_repository, read_readme
from cffa_hf.publishing.model import new_folder, notes_and_metadata, replace_folder
from cffa_hf.records.run import count_split, is_rendered, public_name

SHARD_BYTES = 256 * 2**20


def add_parser(subparsers: Any) -> None:
    """Add `push-dataset` to the command line of the package."""
    parser = subparsers.add_parser(
        "push-dataset",
        help="publish a dataset on the Hub",
        description="Publish a dataset as Parquet files with the images inside, privately unless told otherwise: the "
        "licences of the benchmarks do not allow them to be passed on.",
    )
    parser.add_argument("dataset", help="cuhk_pedes, icfg_pedes, rstpreid, or a folder")
    parser.add_argument("--dataset-root", metavar="FOLDER", help="folder that holds the benchmark's folder")
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
    """Say what will be done, then publish the dataset.

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
    warning = "" if rendered else licence_warning(known_format(name))
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
        check_repo_id(arguments.repo_id)
        with new_folder() as folder:
            write_dataset_folder(data, folder, name, arguments.repo_id, rendered=rendered)
            replace_folder(folder, Path(arguments.dry_run), mark="data")
        print(f"{arguments.dry_run} holds what would be published as {arguments.repo_id}")
    else:
        print(publish_dataset(data, name, arguments.repo_id, rendered=rendered, public=arguments.public).commit_url)


def publish_dataset(
    data: DatasetDict,
    name: str,
    repo_id: str,
    *,
    rendered: bool = False,
    public: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Publish a dataset in one commit, privately unless told otherwise.

    Args:
        data: Splits in the dataset form.
        name: What the dataset is called in a config.
        repo_id: As for `cffa_hf.publishing.model.publish_model`.
        rendered: Whether the people do not exist.
        public: Whether everybody may see it.
        token: As for `publish_model`.

    Raises:
        InputError: If the repository is there and public, but `public` is not said; or as `publish_model`.
    """
    repository = open_repository(repo_id, "dataset", private=not public, token=token)
    if not (public or repository.private):
        raise InputError(
            f"{repository.name} is public already: say --public if these images may be passed on, or make it private "
            "first."
        )
    with new_folder() as folder:
        readme = read_readme(repository.name, "dataset", token=token)
        write_dataset_folder(data, folder, name, repository.name, rendered=rendered, readme=readme)
        return commit_folder(
            folder,
            repository.name,
            "dataset",
            owned=["data/*.parquet"],
            token=token,
            commit_message="Publish dataset",
        )


def write_dataset_folder(
    data: DatasetDict, out: Path, name: str, repo_id: str, *, rendered: bool, readme: str | None = None
) -> None:
    """Write a dataset's Parquet files, images inside, and its card into an empty folder.

    Args:
        data: Splits in the dataset form.
        out: An empty folder.
        name: What the dataset is called in a config.
        repo_id: Named in the card.
        rendered: Whether the people do not exist.
        readme: Card that is on the Hub now; its notes and its owner's metadata are kept.
    """
    (out / "data").mkdir()
    for split, rows in data.items():
        shards = shard_bounds(rows)
        for number, (begin, end) in enumerate(shards):
            shard = rows.select(range(begin, end)).cast_column("image", Image())
            table = embed_table_storage(shard.with_format("arrow")[:])
            path = out / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            Dataset(InMemoryTable(table), info=shard.info).to_parquet(path)
    notes, kept = notes_and_metadata(readme, repo_id)
    counts = {str(split): count_split(rows) for split, rows in data.items()}
    division = data.division.sentence if isinstance(data, PersonDatasetDict) else ""
    card = dataset_card(counts, name, repo_id, rendered=rendered, division=division, notes=notes, kept=kept)
    card.save(out / "README.md")


def shard_bounds(rows: Dataset) -> list[tuple[int, int]]:
    """Divide the rows of a split into files of about `SHARD_BYTES`."""
    bounds, begin, size = [], 0, 0
    for index, image in enumerate(rows["image"]):
        size += len(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).stat().st_size
        if size >= SHARD_BYTES or index == len(rows) - 1:
            bounds.append((begin, index + 1))
            begin, size = index + 1, 0
    return bounds
