"""A model as two ONNX graphs, for images and for captions, written only if they compute what PyTorch computes."""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import CLIPProcessor

from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.files import file_digest, new_folder, write_text
from cffa_hf.inference.onnx_format import CONFIG, IMAGE_TOWER, RECORD, TEXT_TOWER, OnnxRecord
from cffa_hf.inference.onnx_model import OnnxTower
from cffa_hf.modeling_cffa import CFFAModel, ChosenTokens, FineGrainedRefinement

OPSET = 18
TOLERANCE = 1e-3  # of every number of a unit vector, in float32
LEAST_COSINE = 0.95  # between the vectors of the int8 towers and of PyTorch, on average over the inputs below
BATCHES = (1, 2, 5)


@dataclass(frozen=True)
class OnnxExport:
    """What was written, and how close it is to PyTorch.

    Attributes:
        record: Of the folder.
        difference: Largest difference of a number of the float32 towers' vectors.
        cosine: Mean cosine between the vectors of the written towers and of PyTorch.
    """

    record: OnnxRecord
    difference: float
    cosine: float


class ImageTower(nn.Module):
    """Normalised images `(batch, 3, height, width)` -> unit vectors `(batch, width)`."""

    def __init__(self, model: CFFAModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed images."""
        return self.model.get_image_features(pixel_values)


class PaddedRefinement(FineGrainedRefinement):
    """Refine padding too and leave it out of the maximum: how many tokens are real would be a shape that depends on values."""

    def forward(self, chosen: ChosenTokens) -> Tensor:
        """Make one local feature of each row, `(batch, F)`."""
        tokens, kept = self.normalise(chosen.tokens, dim=-1), cast(Tensor, chosen.kept)
        refined = self.refine(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return self.maximum(refined.masked_fill(~kept[..., None], float("-inf")), dim=1)


class TextTower(CFFAModel):
    """Ids `(batch, length)`, padded on the right with the end token, -> unit vectors `(batch, width)`."""

    def __init__(self, model: CFFAModel):
        config: Any = model.config
        super().__init__(config)
        if config.use_flfr:
            self.text_refinement = PaddedRefinement(config.projection_dim, config.local_dim)
        self.load_state_dict(model.state_dict())

    def trim_captions(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find the pooled tokens, and trim nothing: the length of the longest caption is a value."""
        is_end = input_ids == self.config.text_config.eos_token_id
        end = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), input_ids.shape[1] - 1)
        return input_ids, end

    def forward(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]
        """Embed captions."""
        return self.get_text_features(input_ids)


def export_onnx(
    model: CFFAModel, processor: CLIPProcessor, out: str | Path, *, weights_sha256: str, int8: bool = False
) -> OnnxExport:
    """Write a folder with both towers, the processor and a record; the whole folder or nothing.

    Every number of the float32 towers is compared with PyTorch, for several batch sizes and lengths, before the folder is
    there.

    Args:
        model: The embedding model; it is exported in float32.
        processor: Its processor.
        out: A folder that is not there yet, or an empty one.
        weights_sha256: Digest of the weights, as `weights_digest` returns it.
        int8: Quantise the matrix products of both towers dynamically.

    Raises:
        InputError: If a package is missing, or the folder holds something.
        RunStopped: If a tower cannot be exported or computes something else than PyTorch.
    """
    check_packages()
    config: Any = model.config
    reference = copy.deepcopy(model).float().cpu().eval()
    with new_folder(out) as folder:
        processor = copy.deepcopy(processor)
        for where in ("is_local", "local_files_only"):  # how it was loaded here
            processor.tokenizer.init_kwargs.pop(where, None)
        processor.save_pretrained(folder)
        # There is no code in the folder, and where the model lay here is nothing to pass on.
        settings = {key: value for key, value in config.to_dict().items() if key not in ("auto_map", "_name_or_path")}
        write_text(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        difference, cosine = _write_towers(reference, folder, int8)
        record = OnnxRecord(
            format=1,
            precision="onnx-int8" if int8 else "onnx-float32",
            width=config.embedding_dim,
            image_size=list(config.image_size),
            context_length=config.context_length,
            weights_sha256=weights_sha256,
            files={path.name: file_digest(path) for path in sorted(folder.iterdir())},
        )
        write_text(folder / RECORD, json.dumps(record.model_dump(), indent=2) + "\n")
    return OnnxExport(record, difference, cosine)


def check_packages() -> None:
    """Refuse to begin without the packages that write and check ONNX.

    Raises:
        InputError: If one is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"Exporting to ONNX needs the package {missing[0]}, which is missing; install it with "
            "pip install 'cffa_hf[export]'."
        )


def sample_inputs(config: Any) -> dict[str, list[Tensor]]:
    """Make noise images and random captions: several batch sizes and lengths, among them one, and the empty caption.

    Args:
        config: Of the model.

    Returns:
        For each tower the batches: normalised images, and ids padded with the end token.
    """
    generator = torch.Generator().manual_seed(0)
    text = config.text_config
    captions = []
    for batch in BATCHES:
        for length in sorted({2, (config.context_length + 2) // 3, config.context_length}):
            ids = torch.randint(text.vocab_size - 3, (batch, length), generator=generator)
            ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
            if batch > 1:
                ids[-1, 1:] = text.eos_token_id  # an empty caption among others
            captions.append(ids)
    images = [torch.randn(batch, 3, *config.image_size, generator=generator) for batch in BATCHES]
    return {IMAGE_TOWER: images, TEXT_TOWER: captions}


def _write_towers(reference: CFFAModel, folder: Path, int8: bool) -> tuple[float, float]:
    """Write both graphs if they compute what the model computes; returns the difference in float32 and the mean cosine."""
    config: Any = reference.config
    inputs = sample_inputs(config)
    images, captions = inputs[IMAGE_TOWER], inputs[TEXT_TOWER]
    with torch.no_grad(), _quietly():
        _write_graph(ImageTower(reference), folder / IMAGE_TOWER, images[1], {0: Dim("batch")})
        shape = {0: Dim("batch"), 1: Dim("length", max=config.context_length)}
        _write_graph(TextTower(reference).eval(), folder / TEXT_TOWER, captions[-1], shape)
        wanted = {
            IMAGE_TOWER: [reference.get_image_features(pixels) for pixels in images],
            TEXT_TOWER: [reference.get_text_features(ids) for ids in captions],
        }
    difference, cosine = _compare(folder, inputs, wanted)
    if not difference <= TOLERANCE:
        raise RunStopped(f"The ONNX graphs differ from PyTorch by {difference:.1e}, so nothing was written.")
    if int8:
        _quantise(folder)
        _, cosine = _compare(folder, inputs, wanted)
        if not cosine >= LEAST_COSINE:
            raise RunStopped(
                f"In int8 the vectors of this model have a mean cosine of {cosine:.3f} with those of float32, so "
                "nothing was written; export it without --int8."
            )
    return difference, cosine


def _write_graph(tower: nn.Module, path: Path, example: Tensor, dynamic: dict[int, Any]) -> None:
    """Write one tower; its input is named like the argument of `forward`, its output `embeddings`.

    Weights of more than 1.5 GiB go into a file beside it.

    Args:
        tower: In evaluation mode.
        path: The file.
        example: An input of at least two rows.
        dynamic: The axes of the input that may have any size.
    """
    name = "pixel_values" if isinstance(tower, ImageTower) else "input_ids"
    try:
        program: Any = torch.onnx.export(
            tower,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=["embeddings"],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
        program.save(path, external_data=False)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise RunStopped(f"PyTorch cannot export {path.stem} to ONNX ({one_line(error, 300)}).") from error


def _compare(folder: Path, inputs: dict[str, list[Tensor]], wanted: dict[str, list[Tensor]]) -> tuple[float, float]:
    """Run both towers; returns the largest difference and the mean cosine."""
    towers = {name: OnnxTower(folder / name) for name in inputs}
    pairs = [
        (towers[name](batch), expected)
        for name, batches in inputs.items()
        for batch, expected in zip(batches, wanted[name], strict=True)
    ]
    differences = torch.stack([(found - expected).abs().max() for found, expected in pairs])
    cosines = torch.cat([(found * expected).sum(dim=1) for found, expected in pairs])
    return float(differences.max()), float(cosines.mean())  # NaN stays NaN


def _quantise(folder: Path) -> None:
    """Replace both towers by ones whose matrix products compute in int8; the scale of the inputs is found as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantise: Callable[..., None] = quantize_dynamic
    for name in (IMAGE_TOWER, TEXT_TOWER):
        with TemporaryDirectory(dir=folder) as temporary, _temporary_files_in(temporary), _quietly():
            small = Path(temporary) / name
            quantise(
                folder / name,
                small,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                # Seven bits of a weight: with eight, sums saturate on processors without VNNI.
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
            small.replace(folder / name)
        (folder / f"{name}.data").unlink(missing_ok=True)  # weights of a large model, now in the graph itself


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Have the quantiser keep its copies of the model where what a killed export leaves is removed by the next one."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter from reporting on other packages, and on how it could be called otherwise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
