"""Evaluate a person searcher: `python run_eval.py CHECKPOINT --config configs/demo.yaml [--setting value ...]`."""

from cffa_hf.cli.evaluation import main
from cffa_hf.command_line import run_guarded

if __name__ == "__main__":
    run_guarded(main)
