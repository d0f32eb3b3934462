"""Publish a model: `python push_to_hub.py CHECKPOINT --repo-id owner/name [--dry-run OUT]`."""

from cffa_hf.cli.push import main
from cffa_hf.command_line import run_guarded

if __name__ == "__main__":
    run_guarded(main)
