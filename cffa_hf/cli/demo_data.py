"""`cffa-hf demo-data`: render the demo dataset."""

import argparse
from pathlib import Path

from cffa_hf.demo import oracle_ranks, write_demo_dataset
from cffa_hf.demo.write import LAYOUTS


def add_parser(subparsers) -> None:
    """Add the subcommand to those of `cffa-hf`."""
    parser = subparsers.add_parser("demo-data", help="render a demo dataset")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that is to hold the dataset's folder")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="cuhk_pedes", help="on-disk layout")
    parser.add_argument("--seed", type=int, default=0, help="decides everything that is drawn")
    parser.add_argument(
        "--identities",
        type=int,
        nargs=3,
        default=(1100, 50, 100),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="people in each split",
    )
    parser.add_argument("--images-per-identity", type=int, default=4, help="images of each person")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Render the dataset and print the Rank-k of an oracle that knows every attribute."""
    train, validation, test = arguments.identities
    folder = write_demo_dataset(
        arguments.out,
        arguments.layout,
        identities=(train, validation, test),
        images_per_identity=arguments.images_per_identity,
        seed=arguments.seed,
    )
    print(f"{folder}: {sum(arguments.identities) * arguments.images_per_identity:,} images")
    if test:
        oracle = oracle_ranks(arguments.out, arguments.layout)
        ranks = ", ".join(f"Rank-{name.removeprefix('rank')} {value:.2f}" for name, value in oracle.items())
        print(f"upper bound on test, of an oracle that knows every attribute and reads captions perfectly: {ranks}")
