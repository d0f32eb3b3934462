"""What the fork server imports once: the libraries of all commands, so that a command starts in a moment."""

import torch.onnx  # noqa: F401

