"""`cffa-hf demo-data`: render the demo dataset."""

import argparse

from cffa_hf.demo import oracle_ranks, write_demo_dataset


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
