"""From samples to training batches: plain stacking in the workers, all randomness in one place in the main process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cffa_hf.data.augmentation import augment_images
from cffa_hf.data.corruption import SpecialTokens, augment_captions, mask_captions

MLM_INPUTS = ("mlm_labels", "masked_input_ids", "masked_attention_mask")
"""What of a batch only masked language modelling reads."""


@dataclass(frozen=True)
class PairCollator:
    """Stack samples into a batch, without any randomness; made for the workers of a `DataLoader`.

    It takes the samples of `PairDataset`, and those of `ImageDataset` and `CaptionDataset`, which have a part of the
    keys:

    ```
    [{"pixel_values": <uint8 (3, H, W)>, "input_ids": [598, 12, 7, 599], "person_id": 41, "person_label": 0, "pair": 8},
     {"pixel_values": <uint8 (3, H, W)>, "input_ids": [598, 12, 599], "person_id": 57, "person_label": 1, "pair": 3}]
    ```

    returns, with `pad_token_id=0`,

    ```
    {"pixel_values": <uint8 (2, 3, H, W)>,
     "input_ids": [[598, 12, 7, 599], [598, 12, 599, 0]],  # int64, padded to the longest
     "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],  # int64
     "person_ids": [41, 57],  # int64
     "person_labels": [0, 1],  # int64
     "pairs": [8, 3]}  # int64
    ```

    Attributes:
        pad_token_id: fills the end of shorter captions.
    """

    pad_token_id: int

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Stack the samples' keys; every sample must have the same ones."""
        batch = {}
        if "pixel_values" in samples[0]:
            batch["pixel_values"] = torch.stack([sample["pixel_values"] for sample in samples])
        if "input_ids" in samples[0]:
            captions = [torch.tensor(sample["input_ids"]) for sample in samples]
            batch["input_ids"] = pad_sequence(captions, batch_first=True, padding_value=self.pad_token_id)
            lengths = torch.tensor([len(caption) for caption in captions])
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        for key in ("person_id", "person_label", "pair"):
            if key in samples[0]:
                batch[f"{key}s"] = torch.tensor([sample[key] for sample in samples])
        return batch


@dataclass(frozen=True)
class TrainingTransform:
    """Augment and mask a collated batch of pairs: everything random about the data, drawn from one generator.

    It runs in the main process, where resuming restores the generator, and on the device of the batch. The generator
    lives on the CPU and only small tensors are drawn, so that the device does not change the result. The inputs stay
    untouched.

    Attributes:
        special_tokens: ids of the tokenizer that made the batch.
        share_masked_captions: every loss sees the masked caption (one pass through the text encoder); otherwise the
            masked caption comes beside the unmasked one.
        caption_corruption: of each word token to be masked, replaced or removed (see `augment_captions`).
        mlm_probability: of each word token to be chosen for the masked language modelling (see `mask_captions`).
        flip_probability: of a horizontal flip.
        crop_padding: pixels of black border before the random crop.
        erasing_probability: of a rectangle being erased.
    """

    special_tokens: SpecialTokens
    share_masked_captions: bool = True
    caption_corruption: float = 0.2
    mlm_probability: float = 0.15
    flip_probability: float = 0.5
    crop_padding: int = 10
    erasing_probability: float = 0.5

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the batch that the model and the losses take.

        Args:
            batch: as `PairCollator` returns it, on any device.
            generator: on the CPU; it is the only random state that is used.

        Returns:
            `pixel_values` `(batch, 3, height, width)` float32 and normalised, `person_labels` `(batch,)`, and, each
            `(batch, length)`, `input_ids`, `attention_mask` and `mlm_labels` (-100 where nothing is to be predicted).
            Without `share_masked_captions` also `masked_input_ids` and `masked_attention_mask`, to which `mlm_labels`
            then belong.
        """
        pixel_values = augment_images(
            batch["pixel_values"],
            generator,
            flip_probability=self.flip_probability,
            padding=self.crop_padding,
            erasing_probability=self.erasing_probability,
        )
        input_ids, attention_mask = augment_captions(
            batch["input_ids"],
            batch["attention_mask"],
            generator,
            special_tokens=self.special_tokens,
            probability=self.caption_corruption,
        )
        masked_ids, mlm_labels = mask_captions(
            input_ids,
            attention_mask,
            generator,
            special_tokens=self.special_tokens,
            probability=self.mlm_probability,
        )
        result = {
            "pixel_values": pixel_values,
            "input_ids": masked_ids if self.share_masked_captions else input_ids,
            "attention_mask": attention_mask,
            "mlm_labels": mlm_labels,
            "person_labels": batch["person_labels"],
        }
        if not self.share_masked_captions:
            result |= {"masked_input_ids": masked_ids, "masked_attention_mask": attention_mask}
        return result
