"""A gallery of person images: embedded once, ranked by sentences."""

import json
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPProcessor

from cffa_hf.errors import InputError, one_line
from cffa_hf.files import file_digest, write_tensors, write_text
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inputs.images import IMAGE_SUFFIXES, ImageSource, load_pixels
from cffa_hf.modeling_cffa import CFFAModel

FORMAT = 2
VECTORS, INDEX = "gallery.safetensors", "gallery.json"


@dataclass(frozen=True)
class SearchResult:
    """One image that a sentence found.

    Attributes:
        path: Of the image.
        score: Of the sentence and the image, in [-1, 1].
    """

    path: str
    score: float


class Gallery:
    """Images of persons as unit embeddings; a sentence ranks them by dot product.

    Args:
        model: Embeds sentences; the same that embedded the images.
        processor: Its processor.
        embeddings: Of the images, `(images, width)`, float32.
        paths: What to call each image.

    Raises:
        InputError: If there is no image, or not one path for each embedding.
    """

    def __init__(self, model: CFFAModel, processor: CLIPProcessor, embeddings: Tensor, paths: Sequence[str]):
        if len(paths) == 0 or embeddings.shape != (len(paths), model.config.embedding_dim):
            raise InputError(
                f"A gallery of this model needs embeddings ({len(paths)}, {model.config.embedding_dim}), one for each "
                f"of at least one image, not {tuple(embeddings.shape)}."
            )
        self.model, self.processor = model, processor
        self.embeddings, self.paths = embeddings, list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def from_images(
        cls,
        model: CFFAModel,
        processor: CLIPProcessor,
        images: Sequence[ImageSource],
        paths: Sequence[str],
        *,
        batch_size: int = 64,
        progress: bool = True,
    ) -> "Gallery":
        """Embed images; one that cannot be read is left out with a warning.

        Args:
            model: On any device.
            processor: Its processor.
            images: Whatever `read_image` takes.
            paths: What to call each image.
            batch_size: Images embedded at once.
            progress: Show a progress bar.

        Raises:
            InputError: If not one image can be read.
        """
        size = processor.image_processor.size
        read = partial(_read, image_size=(size["height"], size["width"]))
        kept: list[str] = []
        failures: list[str] = []
        bar = tqdm(total=len(paths), desc="Embedding images", unit="image", disable=not progress, leave=False)

        def batches(pool: ThreadPoolExecutor) -> Iterator[dict[str, Tensor]]:
            for start in range(0, len(paths), batch_size):
                pixels = []
                names = paths[start : start + batch_size]
                for path, result in zip(names, pool.map(read, images[start : start + batch_size]), strict=True):
                    if isinstance(result, InputError):
                        failures.append(str(result))
                    else:
                        pixels.append(result)
                        kept.append(path)
                if pixels:
                    yield {"pixel_values": torch.stack(pixels)}
                bar.update(len(names))

        with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            embeddings = Embedder(model, processor).encode(batches(pool))
        if not kept:
            reason = failures[0] if failures else "there are none."
            raise InputError(f"None of the {len(paths)} images can be read: {reason}")
        if failures:
            warnings.warn(f"{len(failures)} of {len(paths)} images left out: {' '.join(failures[:3])}", stacklevel=2)
        return cls(model, processor, embeddings, kept)

    @classmethod
    def from_folder(
        cls, model: CFFAModel, processor: CLIPProcessor, folder: str | Path, *, progress: bool = True
    ) -> "Gallery":
        """Embed all images below a folder; files of other kinds are passed over.

        Raises:
            InputError: If there is no such folder, or no image in it.
        """
        paths = find_images(folder)
        return cls.from_images(model, processor, paths, paths, progress=progress)

    def search(self, sentence: str, k: int = 10) -> list[SearchResult]:
        """Return the k best images for a sentence, best first; equal scores in the order of the gallery.

        Raises:
            InputError: If the sentence is blank or k is below 1.
        """
        if not sentence.strip():
            raise InputError("The sentence is blank; describe the person to look for.")
        if k < 1:
            raise InputError(f"The number of results is {k}; it must be at least 1.")
        scores = self.embeddings @ embed_sentence(self.model, self.processor, sentence)
        best = scores.sort(descending=True, stable=True)
        return [
            SearchResult(self.paths[index], score)
            for index, score in zip(best.indices[:k].tolist(), best.values[:k].tolist(), strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write the embeddings (safetensors) and the paths (JSON), without the model.

        An earlier gallery is replaced atomically, when its index names the new embeddings.

        Raises:
            InputError: If the folder cannot be written; what was there is untouched.
        """
        folder = Path(folder)
        tensors = {"embeddings": self.embeddings.contiguous(), "probe": _probe(self.model)}
        vectors = f"gallery-{uuid.uuid4().hex[:16]}.safetensors"
        write_tensors(folder / vectors, tensors)
        index = {"format": FORMAT, "vectors": vectors, "sha256": file_digest(folder / vectors), "paths": self.paths}
        write_text(folder / INDEX, json.dumps(index, indent=0) + "\n")
        for old in (*folder.glob("gallery-*.safetensors"), folder / VECTORS):
            if old.name != vectors:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path, model: CFFAModel, processor: CLIPProcessor) -> "Gallery":
        """Read what `save` wrote.

        Raises:
            InputError: If the files are missing or broken, or another model made them.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if index["format"] not in (1, FORMAT):
                raise ValueError(f"format {index['format']} is unknown")
            vectors = VECTORS if index["format"] == 1 else index["vectors"]
            if Path(vectors).name != vectors or not (folder / vectors).is_file():
                raise ValueError(f"it has no file {vectors!r} of embeddings")
            if index["format"] != 1 and file_digest(folder / vectors) != index["sha256"]:
                raise ValueError(f"{vectors} is not the file that its {INDEX} was written with")
            tensors = load_file(folder / vectors)
            embeddings, probe, paths = tensors["embeddings"], tensors["probe"], index["paths"]
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise ValueError("its paths are no texts")
            if embeddings.dtype != torch.float32 or not embeddings.isfinite().all():
                raise ValueError("its embeddings are not finite numbers in float32")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise InputError(
                f"{folder}: no gallery can be read from there ({one_line(error)}); embed the images again."
            ) from error
        own = _probe(model)
        if probe.shape != own.shape or not torch.allclose(probe, own, atol=1e-3):
            raise InputError(f"{folder}: another model made this gallery; embed the images again with this one.")
        return cls(model, processor, embeddings, paths)


def embed_sentence(model: CFFAModel, processor: CLIPProcessor, sentence: str) -> Tensor:
    """Embed one sentence as a unit vector `(width,)` on the CPU; it is cleaned and cut like a caption of a dataset."""
    return Embedder(model, processor).captions([sentence])[0]


def find_images(folder: str | Path) -> list[str]:
    """Return the paths of all image files below a folder, sorted; links that lead out of it are left out with a warning.

    The folder itself may be a link.

    Raises:
        InputError: If there is no such folder, or no image in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images.")
    root = folder.resolve()
    paths: list[str] = []
    outside: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            outside.append(str(path))
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            paths.append(str(path))
    if outside:
        warnings.warn(
            f"{folder}: {len(outside)} links lead out of the folder and are left out, the first is {outside[0]}; copy "
            "what they point to.",
            stacklevel=2,
        )
    if not paths:
        raise InputError(f"{folder}: there is no image below this folder.")
    return paths


def _read(source: ImageSource, image_size: tuple[int, int]) -> Tensor | InputError:
    try:
        return load_pixels(source, image_size)
    except InputError as error:
        return error


def _probe(model: CFFAModel) -> Tensor:
    """Embed a black image and an empty caption, `(2, width)`: by this a saved gallery knows the model that made it."""
    text: Any = model.config.text_config
    device = next(model.parameters()).device
    height, width = model.config.image_size
    with evaluation_mode(model):
        image = model.get_image_features(torch.zeros(1, 3, height, width, device=device))
        caption = model.get_text_features(torch.tensor([[text.bos_token_id, text.eos_token_id]], device=device))
    return torch.cat([image, caption]).float().cpu()
