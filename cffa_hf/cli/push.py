"""`cffa-hf push` and push_to_hub.py: publish a model, or a Space of this package."""

import logging
from collections.abc import Sequence

from cffa_hf.command_line import CommandParser, run_guarded
from cffa_hf.files import new_folder
from cffa_hf.publishing.model import dry_run_model, publish_model
from cffa_hf.publishing.space import SPACES, publish_space, write_space_folder


def main(words: Sequence[str] | None = None) -> None:
    """Publish a checkpoint, or a Space of this package, or write the folder that would be published.

    Args:
        words: Command line without the program's name; None: that of the process.

    Raises:
        InputError: If there is nothing to publish, or the Hub refuses.
    """
    parser = CommandParser(prog="cffa-hf push", description="Publish a model, or a Space of this package.")
    parser.add_argument("checkpoint", nargs="?", help="folder of a run, or one of its checkpoints")
    parser.add_argument("--space", choices=sorted(SPACES), help="publish this Space instead of a checkpoint")
    parser.add_argument("--model", help="of the Space of the search page: its folder, or its name on the Hub")
    parser.add_argument("--gallery", help="of that Space: name of a gallery on the Hub; default: rendered people")
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="where it is published")
    parser.add_argument(
        "--dry-run", metavar="OUT", help="write the folder that would be published, and publish nothing"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; it is made if it is not there (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing the branch")
    parser.add_argument(
        "--with-pictures",
        action="store_true",
        help="publish pictures of people who are not known to be rendered: only if they have agreed to it",
    )
    args = parser.parse_args(words)
    if (args.checkpoint is None) == (args.space is None):
        parser.error("give either a checkpoint or --space")
    if args.checkpoint and (args.model or args.gallery):
        parser.error("--model and --gallery are for --space search")
    if args.space and (args.revision or args.create_pr):
        parser.error("--revision and --create-pr are for checkpoints")
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
