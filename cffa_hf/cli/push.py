"""`cffa-hf push` and push_to_hub.py: publish a model, or a Space of this package."""

import argparse
import logging
import sys
from collections.abc import Sequence

from cffa_hf.cli.parsers import configured
from cffa_hf.command_line import CommandParser, run_guarded
from cffa_hf.errors import InputError
from cffa_hf.files import new_folder
from cffa_hf.publishing.model import dry_run_model, publish_model
from cffa_hf.publishing.space import publish_space, write_space_folder


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and publish.

    Args:
        words: Command line without the program's name; None: that of the process.

    Raises:
        InputError: As `run`.
    """
    run(configured(CommandParser(prog="cffa-hf push"), "push").parse_args(words))


def run(args: argparse.Namespace) -> None:
    """Publish a checkpoint, or a Space of this package, or write the folder that would be published.

    Args:
        args: The command line.

    Raises:
        InputError: If there is nothing to publish, options do not go together, or the Hub refuses.
    """
    if (args.checkpoint is None) == (args.space is None):
        raise InputError("push takes either a checkpoint or --space: give one of them.")
    if args.checkpoint and (args.model or args.gallery):
        raise InputError("--model and --gallery are for --space search: leave them out.")
    if args.space and (args.revision or args.create_pr):
        raise InputError("--revision and --create-pr are for checkpoints: leave them out.")
    parts = {"model": args.model, "gallery": args.gallery}
    logging.basicConfig(format="%(message)s")

    if args.dry_run and args.space:
        with new_folder(args.dry_run) as folder:
            write_space_folder(args.space, folder, **parts)
    elif args.dry_run:
        dry_run_model(
            args.checkpoint, args.dry_run, args.repo_id, private=args.private, with_pictures=args.with_pictures
        )
    elif args.space:
        print(publish_space(args.space, args.repo_id, **parts, private=args.private or None).commit_url)
    else:
        who = "privately" if args.private else "for everybody to see"
        print(
            f"{args.checkpoint} now goes {who} to {args.repo_id}; a repository that is there already stays as public or private "
            "as it is.",
            file=sys.stderr,
            flush=True,
        )
        commit = publish_model(
            args.checkpoint,
            args.repo_id,
            private=args.private or None,
            revision=args.revision,
            create_pr=args.create_pr,
            with_pictures=args.with_pictures,
        )
        print(commit.pr_url or commit.commit_url)
    if args.dry_run:
        print(f"{args.dry_run} holds what would be published as {args.repo_id}")


if __name__ == "__main__":
    run_guarded(main)
