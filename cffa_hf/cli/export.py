"""`cffa-hf export`: a model as two ONNX graphs, for images and for captions."""

import argparse

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.inference.onnx_export import check_packages, export_onnx
from cffa_hf.inference.onnx_format import IMAGE_TOWER, TEXT_TOWER


def run(arguments: argparse.Namespace) -> None:
    """Export a model and print how close the graphs are to it.

    Raises:
        InputError: If there is no model, a package is missing, or OUT is in use.
        RunStopped: If the graphs compute something else than the model.
    """
    check_packages()
    checkpoint = open_checkpoint(arguments.model, device="cpu")
    export = export_onnx(
        checkpoint.model,
        checkpoint.processor,
        arguments.out,
        weights_sha256=checkpoint.weights_sha256,
        int8=arguments.int8,
    )
    sizes = ", ".join(
        f"{name} {(arguments.out / name).stat().st_size / 1e6:.1f} MB" for name in (IMAGE_TOWER, TEXT_TOWER)
    )
    print(f"wrote {arguments.out}: {sizes}, opset 18, {export.record.precision}, vectors of {export.record.width}")
    print(f"in float32 no number differs from PyTorch by more than {export.difference:.1e}")
    if arguments.int8:
        print(f"in int8 the mean cosine with PyTorch is {export.cosine:.4f}: embed a gallery and its queries alike")
