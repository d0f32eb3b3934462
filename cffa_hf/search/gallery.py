"""A gallery of person images: embedded once, ranked by sentences, by images, or by both."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import ImageSource
from cffa_hf.search.building import add_images, download_gallery, gallery_of_dataset, gallery_of_folder
from cffa_hf.search.filters import parse_filter
from cffa_hf.search.parts import GalleryParts
from cffa_hf.search.results import ColumnSummary, SearchResult
from cffa_hf.search.saving import finish, open_gallery, save_gallery
from cffa_hf.search.sentences import check_sentences

MOST = 10_000


class Gallery(GalleryParts):
    """Images of persons as unit embeddings, with metadata; queries rank them by dot product.

    Made by `from_folder`, `from_images`, `from_dataset`, `from_hub` and `open`.
    """

    # Making one

    @classmethod
    def from_images(
        cls,
        embedder: Embedder,
        images: Sequence[ImageSource],
        paths: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        progress: bool = True,
    ) -> "Gallery":
        """Embed images into a gallery in memory; one that cannot be read is left out with a warning.

        Args:
            embedder: Embeds them.
            images: Whatever `read_image` takes.
            paths: What to call each image.
            metadata: Of each image.
            progress: Show a progress bar.

        Raises:
            InputError: If not one image can be read.
        """
        gallery = cls.new(embedder)
        gallery.add(images, paths, metadata, progress=progress)
        if not len(gallery):
            raise InputError("There is no image in the gallery: none was given.")
        return gallery.finished("exact")

    @classmethod
    def from_folder(
        cls,
        embedder: Embedder,
        folder: str | Path,
        out: str | Path | None = None,
        *,
        metadata: Mapping[str, Mapping[str, Any]] | str | Path | None = None,
        index: str = "auto",
        progress: bool = True,
    ) -> "Gallery":
        """Embed all images below a folder; files of other kinds are passed over.

        Where `out` holds a gallery of this folder, only files that were added, changed or removed are touched; an
        interrupted one goes on where it stopped. Files that cannot be read are listed in a warning.

        Args:
            embedder: Embeds the images.
            folder: Of the images.
            out: Where the gallery is kept; None: in memory.
            metadata: Path below the folder -> columns; or a CSV or JSON-lines file with a column `file_name`.
            index: "exact", "faiss", the address of a server such as `postgresql://user@host/database`, or "auto", which
                keeps the server that there is, and else takes FAISS past 20,000 images.
            progress: Show a progress bar.

        Raises:
            InputError: If there is no such folder, no image in it that can be read, or `out` holds something else.
        """
        return gallery_of_folder(cls, embedder, folder, out, metadata=metadata, index=index, progress=progress)

    @classmethod
    def from_dataset(
        cls,
        embedder: Embedder,
        dataset: Any,
        out: str | Path | None = None,
        *,
        index: str = "auto",
        progress: bool = True,
    ) -> "Gallery":
        """Embed the images of a split, such as those of `load_person_dataset`; its other simple columns become metadata.

        Args:
            embedder: Embeds the images.
            dataset: A `datasets.Dataset` with a column `image`.
            out: Where the gallery is kept, with a copy of the images; None: in memory.
            index: As in `from_folder`.
            progress: Show a progress bar.

        Raises:
            InputError: If there is no column of images, or none can be read.
        """
        return gallery_of_dataset(cls, embedder, dataset, out, index=index, progress=progress)

    @classmethod
    def from_hub(cls, repo_id: str, embedder: Embedder | None = None, *, revision: str | None = None) -> "Gallery":
        """Open a gallery that was uploaded to the Hub as a dataset repository; it shows no files but its own.

        Raises:
            InputError: If it is not there, or as in `open`.
        """
        folder = download_gallery(repo_id, revision)
        gallery = cls.open(folder, embedder)
        gallery.confine(folder)
        return gallery

    @classmethod
    def open(
        cls,
        folder: str | Path,
        embedder: Embedder | None = None,
        *,
        device: str | None = None,
        index: str | None = None,
    ) -> "Gallery":
        """Open what was saved; vectors are memory-mapped, and a million opens in 0.1 s.

        Args:
            folder: Of the gallery.
            embedder: Of the model that made it; None: the checkpoint that it was made with is opened, in its precision.
            device: For that checkpoint.
            index: Address of the server with its password, or "exact" to do without it; None: the server that is
                recorded, with the password of the environment.

        Raises:
            InputError: If the files are missing or damaged, or made by another model or in another precision.
            RunStopped: If the server of its index cannot be reached.
        """
        return open_gallery(cls, Path(folder), embedder, device, index)

    def finished(self, index: str = "auto") -> "Gallery":
        """Choose and build the index, measure its recall, and note that all images are there.

        Raises:
            InputError: If there is no such index, or FAISS is not installed.
        """
        finish(self, index)
        return self

    # Changing one

    def add(
        self,
        sources: Sequence[ImageSource],
        paths: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        progress: bool = False,
    ) -> list[int]:
        """Embed images and add them; one that cannot be read is left out with a warning.

        They can be found at once. A path that is there already is replaced.

        Args:
            sources: Whatever `read_image` takes.
            paths: What to call each image; None: the sources, which must be paths.
            metadata: Of each image.
            progress: Show a progress bar.

        Returns:
            Their ids.

        Raises:
            InputError: If not one of them can be read, or numbers do not match.
        """
        return add_images(self, sources, paths, metadata, progress=progress)

    def remove(self, images: Iterable[int | str]) -> None:
        """Remove images by id or path.

        Raises:
            InputError: If one of them is not there; then none is removed.
        """
        wanted = list(images)
        paths = [image for image in wanted if isinstance(image, str)]
        ids = self.items.ids_of(paths)
        numbers = [ids.get(image, -1) if isinstance(image, str) else int(image) for image in wanted]
        there = self.items.get(numbers)
        for image, number in zip(wanted, numbers, strict=True):
            if number not in there:
                raise InputError(f"The gallery holds no image {str(image)[:200]!r} to remove.")
        self.index.remove(np.array(numbers, dtype=np.int64))
        self.items.remove(numbers)

    def save(self, folder: str | Path) -> None:
        """Write the gallery into a folder, without the model; an earlier one is replaced atomically.

        Raises:
            InputError: If the folder cannot be written; what was there is untouched.
        """
        save_gallery(self, Path(folder))

    def check(self) -> None:
        """Read all vectors and the table, and compare them with their checksums; `open` compares a sample.

        Raises:
            InputError: Names what is damaged.
        """
        self.items.check()

    # Searching

    @overload
    def search(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
        self, query: str, k: int = ..., *, where: Mapping[str, Any] | None = ..., minimum_score: float | None = ...
    ) -> list[SearchResult]: ...
    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = ...,
        *,
        where: Mapping[str, Any] | None = ...,
        minimum_score: float | None = ...,
    ) -> list[list[SearchResult]]: ...
    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        minimum_score: float | None = None,
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """Find the best images for a sentence, or for each of several.

        Args:
            query: One sentence or several.
            k: How many images at most.
            where: Column -> value, list of values, or `{"min": a, "max": b}`.
            minimum_score: Leave out images below it.

        Returns:
            The images, best first; of equal scores the one that was added first. For several sentences a list of them.

        Raises:
            InputError: If a sentence is blank, k is below 1 or a column is not there.
        """
        sentences = [query] if isinstance(query, str) else list(query)
        check_sentences(self.embedder.processor.tokenizer, sentences)
        vectors = self.embedder.captions(sentences)
        found = self.search_vectors(vectors, k, where=where, minimum_score=minimum_score)
        return found[0] if isinstance(query, str) else found

    def search_image(
        self,
        image: ImageSource,
        k: int = 10,
        *,
        text: str | None = None,
        text_weight: float = 0.5,
        where: Mapping[str, Any] | None = None,
        minimum_score: float | None = None,
    ) -> list[SearchResult]:
        """Find the images most like an image, or most like an image and a sentence together.

        Args:
            image: Whatever `read_image` takes.
            k: How many images at most.
            text: A sentence that is searched for at the same time.
            text_weight: Of the sentence in the sum of both embeddings, from 0 (image alone) to 1 (sentence alone).
            where: As in `search`.
            minimum_score: As in `search`.

        Raises:
            InputError: If the image cannot be read, the weight is not in [0, 1], or as in `search`.
        """
        if not 0 <= text_weight <= 1:
            raise InputError(f"The weight of the sentence is between 0 and 1, not {text_weight}.")
        vector = self.embedder.images([image])
        if text is not None:
            check_sentences(self.embedder.processor.tokenizer, [text])
            vector = F.normalize((1 - text_weight) * vector + text_weight * self.embedder.captions([text]), dim=-1)
        return self.search_vectors(vector, k, where=where, minimum_score=minimum_score)[0]

    def search_like(
        self,
        item: int,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        minimum_score: float | None = None,
    ) -> list[SearchResult]:
        """Find the images most like one of the gallery, without that one.

        Raises:
            InputError: If there is no such image, or as in `search`.
        """
        if not 1 <= k <= MOST:
            raise InputError(f"The number of results is {k}; it must be at least 1 and at most {MOST:,}.")
        self.item(item)
        vector = torch.from_numpy(self.items.vectors[item : item + 1].astype(np.float32))
        found = self.search_vectors(
            F.normalize(vector, dim=-1), min(k + 1, MOST), where=where, minimum_score=minimum_score
        )[0]
        return [result for result in found if result.id != item][:k]

    def search_vectors(
        self,
        vectors: Tensor,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        minimum_score: float | None = None,
    ) -> list[list[SearchResult]]:
        """Find the best images for each of some embeddings.

        Args:
            vectors: `(queries, width)`, unit rows.
            k: How many images at most, up to 10,000.
            where: As in `search`.
            minimum_score: As in `search`.

        Raises:
            InputError: If k is out of range, the vectors have another width, a column is not there, or the gallery is damaged.
        """
        if not 1 <= k <= MOST:
            raise InputError(f"The number of results is {k}; it must be at least 1 and at most {MOST:,}.")
        if vectors.ndim != 2 or vectors.shape[1] != self.header.width:
            raise InputError(
                f"The gallery is searched with vectors (queries, {self.header.width}), not {tuple(vectors.shape)}."
            )
        if minimum_score is not None and math.isnan(minimum_score):
            raise InputError("The lowest score is a number such as 0.3, not nan.")
        conditions = parse_filter(where, self.items.kinds)
        k = min(k, max(1, len(self)))
        scores, ids = self.index.search(vectors.detach().float().cpu().numpy(), k, conditions)
        if not (np.abs(scores[ids >= 0]) < 1.1).all():
            raise InputError(f"{self.folder}: vectors of this gallery are damaged; embed the images again.")
        lowest = -np.inf if minimum_score is None else minimum_score
        there = self.items.get(np.unique(ids[ids >= 0]).tolist())
        return [
            [
                SearchResult(there[number][0], score, number, there[number][1])
                for number, score in zip(numbers, values, strict=True)
                if number in there and score >= lowest
            ]
            for numbers, values in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    # What it holds

    @property
    def columns(self) -> dict[str, ColumnSummary]:
        """Return what its columns of metadata hold, by name."""
        return self.items.columns()

    @property
    def paths(self) -> list[str]:
        """Return the paths of all images, in the order in which they were added."""
        return [path for path, _ in sorted(self.items.files().items(), key=lambda entry: entry[1][0])]

    @property
    def checkpoint(self) -> str | None:
        """Return the name of the checkpoint that made it, if it was opened by name."""
        return self.header.checkpoint

    def item(self, item: int) -> SearchResult:
        """Return path and metadata of an image; its score is that with itself.

        Raises:
            InputError: If there is no such image.
        """
        found = self.items.get([item])
        if item not in found:
            raise InputError(f"The gallery holds no image {item}.")
        path, metadata = found[item]
        return SearchResult(path, 1.0, item, metadata)

    def image_path(self, item: int) -> Path:
        """Return where the file of an image is.

        Raises:
            InputError: If there is no such image, its file is gone, or it lies outside the gallery's own folder.
        """
        path, root = Path(self.item(item).path), self.root
        full = path if root is None else root / path
        inside = [each.resolve() for each in (root, self.storage) if each is not None]
        if inside and not any(full.resolve().is_relative_to(each) for each in inside):
            raise InputError(f"{path}: this path leads out of the folder of images; index the folder again.")
        if not full.is_file():
            raise InputError(f"{full}: the image is no longer there; index the folder again.")
        return full

    def describe(self) -> dict[str, Any]:
        """Return what is known of it: size, width, precision, model, index and the recall that was measured."""
        header, index = self.header, self.header.index
        return {
            "images": len(self),
            "width": header.width,
            "precision": header.precision,
            "checkpoint": header.checkpoint,
            "weights_sha256": header.weights_sha256,
            "index": self.index.kind,
            "candidates": index.candidates,
            "recall@10": 1.0 if self.index.kind == "exact" else index.recall,
            "complete": header.complete,
        }
