"""An ONNX export at work: in the place of the model that it was made of."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError, one_line
from cffa_hf.inference.onnx_format import CONFIG, IMAGE_TOWER, TEXT_TOWER, read_record
from cffa_hf.json_files import read_object


class OnnxTower:
    """One graph of an export, on the CPU, on as many threads as torch has.

    Args:
        path: The file.

    Raises:
        InputError: If ONNX Runtime is not installed or cannot read the file.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                "Reading an ONNX export needs the package onnxruntime, which is missing; install it with "
                "pip install 'cffa_hf[export]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (given,), (made,) = self.session.get_inputs(), self.session.get_outputs()
        except Exception as error:  # its own kinds of errors have no common class
            raise InputError(f"{path} cannot be read ({one_line(error, 200)}); export the model again.") from error
        self.input, self.input_shape, self.output_shape = given.name, given.shape, made.shape

    def __call__(self, batch: Tensor) -> Tensor:
        """Embed a batch on the CPU, `(batch, width)`, float32."""
        (embeddings,) = self.session.run(None, {self.input: batch.numpy()})
        return torch.from_numpy(embeddings)


class OnnxModel(nn.Module):
    """Both towers of an export, called like a CFFAModel; `Embedder` takes it in a model's place.

    Args:
        folder: What `cffa-hf export` wrote.

    Attributes:
        folder: That folder.
        record: What is known of the export.
        config: Of the exported model.
        precision: "onnx-float32" or "onnx-int8".

    Raises:
        InputError: If the folder holds no complete export, or ONNX Runtime is not installed.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.record = record = read_record(self.folder)
        self.config = _read_config(self.folder)
        self.precision = record.precision
        self.image_tower, self.text_tower = (OnnxTower(self.folder / name) for name in (IMAGE_TOWER, TEXT_TOWER))
        images, captions = self.image_tower, self.text_tower
        config, width, size = self.config, record.width, record.image_size
        same = (config.embedding_dim, [*config.image_size], config.context_length) == (
            width,
            size,
            record.context_length,
        )
        if (
            not same
            or (images.input, images.input_shape[1:], images.output_shape[1:]) != ("pixel_values", [3, *size], [width])
            or (captions.input, len(captions.input_shape), captions.output_shape[1:]) != ("input_ids", 2, [width])
            # The axes that may have any size have names.
            or any(isinstance(axis, int) for axis in (images.input_shape[0], *captions.input_shape))
        ):
            raise InputError(f"{self.folder} holds another model than its record says; export the model again.")
        # Whoever asks a model for its device or compares weights asks its parameters: these stand for the graphs.
        digests = bytes.fromhex(record.files[IMAGE_TOWER] + record.files[TEXT_TOWER])
        self.digests = nn.Parameter(torch.tensor(list(digests), dtype=torch.float32), requires_grad=False)

    def check_precision(self, precision: str) -> str:
        """Return what the graphs compute in.

        Args:
            precision: What is wanted of them; "auto": what they have.

        Raises:
            InputError: If that is something else.
        """
        if precision not in ("auto", self.precision):
            raise InputError(f"{self.folder} computes in {self.precision}, not in {precision}; set precision to auto.")
        return self.precision

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embed normalised images `(batch, 3, height, width)` as unit vectors `(batch, width)`, float32."""
        return self.image_tower(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed captions `(batch, length)`, each with its end token, as unit vectors `(batch, width)`, float32.

        Args:
            input_ids: Padded on the right.
            attention_mask: Not needed: nothing behind the end token is read.
        """
        return self.text_tower(input_ids)


def _read_config(folder: Path) -> CFFAConfig:
    try:
        return CFFAConfig.from_dict(read_object(folder / CONFIG))
    except Exception as error:  # whatever a damaged file may raise in the library
        raise InputError(f"{folder / CONFIG} is damaged ({one_line(error, 200)}); export the model again.") from error


def read_onnx_processor(model: OnnxModel) -> CLIPProcessor:
    """Read the processor of an export; nothing in its folder is executed.

    Raises:
        InputError: If it is not that of the exported model.
    """
    folder, record = model.folder, model.record
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        images: Any = CLIPImageProcessorPil.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        size = [images.size["height"], images.size["width"]]
        processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    except Exception as error:  # whatever a damaged file may raise in the library
        raise InputError(
            f"{folder} has a damaged processor ({one_line(error, 200)}); export the model again."
        ) from error
    if size != record.image_size or tokenizer.model_max_length != record.context_length:
        raise InputError(f"{folder} has the processor of another model; export the model again.")
    return processor
