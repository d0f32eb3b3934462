"""Train a person searcher: `accelerate launch run_train.py --config configs/demo.yaml [--setting value ...]`."""

from cffa_hf.cli.train import main
from cffa_hf.command_line import run_guarded

if __name__ == "__main__":
    run_guarded(main)
