"""A model at work.

Read embedder.py (images and captions -> vectors), modes.py (evaluation with the layers of the device, and back),
chosen_tokens.py (which patches and words it chose) and views.py (those patches as pixels); onnx_export.py,
onnx_format.py and onnx_model.py (the model as two ONNX graphs: written, described, at work).
"""

from cffa_hf.inference.chosen_tokens import Selection, select
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inference.onnx_export import export_onnx

__all__ = [
    "Embedder",
    "Selection",
    "evaluation_mode",
    "export_onnx",
    "select",
]
