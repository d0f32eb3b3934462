"""Galleries that earlier versions wrote: float32 vectors in one safetensors file, paths in `gallery.json`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cffa_hf.errors import InputError
from cffa_hf.files import file_digest
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.search.header import HEADER, unreadable


def read_old_gallery(folder: Path, index: dict[str, Any], embedder: Embedder) -> tuple[list[str], np.ndarray]:
    """Read a gallery of format 1 or 2.

    Args:
        folder: Where it is.
        index: What its `gallery.json` says.
        embedder: Of the model that made it; these formats know no precision, so it may be any.

    Returns:
        Paths, and vectors `(images, width)`, float32.

    Raises:
        InputError: If the files are missing or broken, or another model made them.
    """
    try:
        vectors = "gallery.safetensors" if index["format"] == 1 else index["vectors"]
        if Path(vectors).name != vectors or not (folder / vectors).is_file():
            raise ValueError(f"it has no file {vectors!r} of embeddings")
        if index["format"] != 1 and file_digest(folder / vectors) != index["sha256"]:
            raise ValueError(f"{vectors} is not the file that its {HEADER} was written with")
        tensors = load_file(folder / vectors)
        embeddings, there, paths = tensors["embeddings"], tensors["probe"], index["paths"]
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError("its paths are no texts")
        if embeddings.dtype != torch.float32 or not embeddings.isfinite().all():
            raise ValueError("its embeddings are not finite numbers in float32")
        if embeddings.shape != (len(paths), embedder.width):
            raise ValueError("it has not one embedding for each image")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    own = _probe(embedder)
    if there.shape != own.shape or not torch.allclose(there, own, atol=1e-3):
        raise InputError(f"{folder}: another model made this gallery; embed the images again with this one.")
    return paths, embeddings.numpy()


def _probe(embedder: Embedder) -> torch.Tensor:
    """Embed a gray image and a caption of start and end, `(2, width)`, in float32, as these formats did."""
    encoder: Any = embedder.model
    text: Any = encoder.config.text_config
    height, width = encoder.config.image_size
    with evaluation_mode(embedder.model):
        image = encoder.get_image_features(torch.zeros(1, 3, height, width, device=embedder.device))
        ids = torch.tensor([[text.bos_token_id, text.eos_token_id]], device=embedder.device)
        caption = encoder.get_text_features(ids)
    return torch.cat([image, caption]).float().cpu()
