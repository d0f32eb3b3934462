"""Retrieval evaluation: embed a split once, rank, and report."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPProcessor

from cffa_hf.data.collator import PairCollator
from cffa_hf.data.pairs import CaptionDataset, ImageDataset
from cffa_hf.data.workers import SignalsLeftToMain
from cffa_hf.errors import InputError
from cffa_hf.inference.embedder import Embedder
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks, match_ranks
from cffa_hf.metrics.reranking import KReciprocalReranking
from cffa_hf.names import IMAGE_TO_TEXT
from cffa_hf.progress import progress_bar


@dataclass
class RetrievalEmbeddings:
    """A split, embedded: every caption is a query, every image a gallery item.

    Attributes:
        text: Unit embeddings of the captions, `(captions, width)`, float32, on the CPU.
        image: Unit embeddings of the images, `(images, width)`, float32, on the CPU.
        text_ids: Identities of the captions, `(captions,)`.
        image_ids: Identities of the images, `(images,)`.
        text_cameras: Cameras of the images that the captions were written for, `captions` of them; None: not used.
        image_cameras: Cameras of the images, `images` of them; None: not used.
    """

    text: Tensor
    image: Tensor
    text_ids: Tensor
    image_ids: Tensor
    text_cameras: Sequence[str | None] | None = None
    image_cameras: Sequence[str | None] | None = None

    def text_to_image(self, rerank: KReciprocalReranking | None = None) -> MatchRanks:
        """Rank the images for every caption; with cameras, images of the same person and camera do not count."""
        return match_ranks(
            self.text,
            self.image,
            self.text_ids,
            self.image_ids,
            query_cameras=self.text_cameras,
            gallery_cameras=self.image_cameras,
            rerank=rerank,
        )

    def image_to_text(self, rerank: KReciprocalReranking | None = None) -> MatchRanks:
        """Rank the captions for every image; with cameras, captions of the same person and camera do not count."""
        return match_ranks(
            self.image,
            self.text,
            self.image_ids,
            self.text_ids,
            query_cameras=self.image_cameras,
            gallery_cameras=self.text_cameras,
            rerank=rerank,
        )

    def rerank(self, neighbours: int) -> tuple[KReciprocalReranking, MatchRanks, MatchRanks]:
        """Rank in both directions with k-reciprocal re-ranking.

        Args:
            neighbours: `k` of the re-ranking.

        Returns:
            The re-ranking of the images, text-to-image and image-to-text.
        """
        among_images, among_captions = (
            KReciprocalReranking(gallery, neighbours=neighbours) for gallery in (self.image, self.text)
        )
        return among_images, self.text_to_image(among_images), self.image_to_text(among_captions)


class RetrievalEvaluator:
    """Evaluate a model on one split: called with a model, it returns a dict of metrics in percent.

    Every image and every caption is encoded once, captions in order of length. With several processes each one encodes
    its share, and all get the whole result.

    Args:
        rows: One split in the dataset form.
        processor: The processor of the model; image size and tokenizer are read from it.
        batch_size: Items in a batch.
        num_workers: Processes that decode images.
        progress: Whether a progress bar is shown.
        precision: Of the `Embedder`; during a training, its own autocast decides.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: CLIPProcessor,
        *,
        batch_size: int = 256,
        num_workers: int = 0,
        progress: bool = True,
        precision: str = "float32",
    ):
        size = processor.image_processor.size
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.images = ImageDataset(rows, (size["height"], size["width"]))
        self.captions = self.caption_dataset(rows)
        self.cameras: list[str | None] = rows["camera"][:] if "camera" in rows.column_names else []
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress
        self.precision = precision

    def caption_dataset(self, rows: datasets.Dataset) -> CaptionDataset:
        """Tokenise the captions of rows for this evaluator's model."""
        return CaptionDataset(rows, self.tokenizer, self.tokenizer.model_max_length)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return Rank-1, 5 and 10, mAP and mINP of both directions, and how many queries and images there were."""
        embeddings = self.embed(model)
        metrics = retrieval_metrics(embeddings.text_to_image())
        reverse = retrieval_metrics(embeddings.image_to_text())
        metrics |= {f"{IMAGE_TO_TEXT}{name}": value for name, value in reverse.items()}
        return {name: float(value) for name, value in metrics.items()}

    def embed(self, model: nn.Module, *, camera_aware: bool = False) -> RetrievalEmbeddings:
        """Embed the whole split with a model in evaluation mode; the model's mode is restored afterwards.

        Args:
            model: Any with `get_image_features` and `get_text_features`.
            camera_aware: Whether rankings leave out what shows the query's person in the query's camera.

        Raises:
            InputError: If cameras are asked for and the split has none.
        """
        image_cameras = text_cameras = None
        if camera_aware:
            if not any(self.cameras):
                raise InputError("Camera-aware evaluation needs the camera of each image, and this split has none.")
            image_cameras, text_cameras = self.cameras, [self.cameras[row] for row in self.captions.rows]
        return RetrievalEmbeddings(
            image=self.embed_images(model, self.images),
            text=self.embed_captions(model, self.captions),
            text_ids=torch.from_numpy(self.captions.person_ids),
            image_ids=torch.from_numpy(self.images.person_ids),
            text_cameras=text_cameras,
            image_cameras=image_cameras,
        )

    def embed_images(self, model: nn.Module, images: Dataset, what: str = "images") -> Tensor:
        """Embed images as `ImageDataset` gives them, `(images, width)`, float32, on the CPU.

        Args:
            model: Any with `get_image_features`.
            images: The split's own, or others made of them.
            what: Their name on the progress bar.
        """
        return self._encode(model, images, np.arange(len(images)), what)  # type: ignore[arg-type]

    def embed_captions(self, model: nn.Module, captions: CaptionDataset, what: str = "captions") -> Tensor:
        """Embed captions in order of their length, `(captions, width)`, float32, on the CPU, in their own order.

        Args:
            model: Any with `get_text_features`.
            captions: The split's own, or others made of them.
            what: Their name on the progress bar.
        """
        lengths = np.array([len(captions.input_ids(index)) for index in range(len(captions))])
        return self._encode(model, captions, np.argsort(lengths, kind="stable"), what)

    def _encode(self, model: nn.Module, dataset: Dataset, order: np.ndarray, what: str) -> Tensor:
        """Encode a dataset in the given order; the result is in the order of the dataset."""
        state = PartialState()
        share = order[state.process_index :: state.num_processes]
        batches = [share[start : start + self.batch_size] for start in range(0, len(share), self.batch_size)]
        progress = f"Encoding {what}" if self.progress else None
        embedder = Embedder(model, self.processor, precision=self.precision)
        return encode_batches(embedder, dataset, batches, num_workers=self.num_workers, progress=progress)


def encode_batches(
    embedder: Embedder,
    dataset: Dataset,
    batches: Sequence[np.ndarray],
    *,
    num_workers: int = 0,
    progress: str | None = None,
) -> Tensor:
    """Encode a dataset, each process its own batches, `(items, width)`, float32, on the CPU of every process.

    Args:
        embedder: Encodes a batch.
        dataset: Images as `ImageDataset` gives them, or captions as `CaptionDataset` does.
        batches: Numbers of the items of this process, cut into batches; over all processes each item comes once.
        num_workers: Processes that decode images.
        progress: What the progress bar says; None: no bar.
    """
    state = PartialState()
    loader = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=num_workers,
        collate_fn=PairCollator(embedder.processor.tokenizer.pad_token_id),
        worker_init_fn=SignalsLeftToMain(),
        generator=torch.Generator(),  # else it draws from the global one, and evaluating would change training
    )
    bar = progress_bar(loader, desc=progress, disable=progress is None or not state.is_main_process, leave=False)
    encoded = embedder.encode(bar)
    share = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    gathered = gather_object([(share, encoded)]) if state.num_processes > 1 else [(share, encoded)]
    items = sum(len(rows) for rows, _ in gathered)
    result = torch.empty(items, next(part.shape[1] for _, part in gathered if len(part)))
    for rows, part in gathered:
        if len(part):
            result[torch.from_numpy(rows)] = part
    return result
