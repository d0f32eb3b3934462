"""What the fork server imports once: the libraries of all commands, so that a command starts in a moment."""

# ruff: noqa: F401
import faiss
import matplotlib.figure
import onnxscript
import torch.onnx

import cffa_hf.cli.convert
import cffa_hf.cli.demo_data
import cffa_hf.cli.evaluation
import cffa_hf.cli.export
import cffa_hf.cli.index
import cffa_hf.cli.push
import cffa_hf.cli.push_dataset
import cffa_hf.cli.search
import cffa_hf.cli.train
import tests.torture.caches
