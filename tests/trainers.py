"""The one place where tests of the training build a trainer; tests of a concern add the settings that it needs."""

import copy
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import CLIPProcessor, TrainerCallback

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.collator import PairCollator, TrainingTransform
from cffa_hf.data.corruption import SpecialTokens
from cffa_hf.data.pairs import PairDataset
from cffa_hf.inputs.images import normalise_images
from cffa_hf.modeling_cffa import CFFAForPreTraining
from cffa_hf.training.trainer import CFFATrainer
from tests.tiny import IMAGE_SIZE, MASK, person_rows, tiny_model, tiny_processor

CONTEXT = 24
QUIET = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


class FixedTransform:
    """Corruption without chance, so that one process draws what two do: every third word is predicted."""

    def __init__(self, share: bool, mask: int = MASK):
        self.share, self.mask = share, mask
        self.seen: list[list[int]] = []

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        self.seen.append(batch["person_labels"].tolist())
        ids, mask = batch["input_ids"], batch["attention_mask"]
        chosen = mask.bool() & (ids % 3 == 0) & (ids < self.mask)
        result = {
            "pixel_values": normalise_images(batch["pixel_values"]),
            "person_labels": batch["person_labels"],
            "input_ids": ids.masked_fill(chosen, self.mask) if self.share else ids,
            "attention_mask": mask,
            "mlm_labels": ids.masked_fill(~chosen, -100),
        }
        if not self.share:
            result |= {"masked_input_ids": ids.masked_fill(chosen, self.mask), "masked_attention_mask": mask}
        return result


def fitting_model(processor: CLIPProcessor, **fields: Any) -> CFFAForPreTraining:
    """A tiny model for the tokenizer and the context length of `tiny_trainer`, with dropout in the text encoder."""
    vocabulary = len(processor.tokenizer)
    text = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "attention_dropout": 0.05}
    return tiny_model(text=text, **fields)


def new_model(data: dict[str, Any], **fields: Any) -> CFFAForPreTraining:
    """A tiny model for the processor in `data`."""
    return fitting_model(data["processor"], **fields)


def tiny_trainer(
    folder: Path | str,
    *,
    rows: datasets.Dataset | None = None,
    eval_dataset: Any = None,
    processor: CLIPProcessor | None = None,
    model: nn.Module | None = None,
    transform: Any = None,
    pairs: type[PairDataset] = PairDataset,
    trainer_class: type[CFFATrainer] = CFFATrainer,
    callbacks: list[TrainerCallback] | None = None,
    **settings: Any,
) -> CFFATrainer:
    """A trainer on the CPU, in float32, without warm-up, progress bar and trackers.

    Args:
        folder: Output folder.
        rows: Train split; None: 24 pairs of 6 people.
        eval_dataset: As the trainer takes it; None: `rows`.
        processor: None: one made of `rows`.
        model: None: `fitting_model`.
        transform: None: the published corruption.
        pairs: Class of the training pairs.
        trainer_class: CFFATrainer or a watching one.
        callbacks: More callbacks.
        **settings: Of CFFATrainingArguments.
    """
    rows = person_rows() if rows is None else rows
    processor = copy.deepcopy(processor) if processor is not None else tiny_processor(rows)
    tokenizer = processor.tokenizer
    always = {"use_cpu": True, "precision": "float32", "warmup_epochs": 0.0, "dataloader_pin_memory": False}
    always |= {"disable_tqdm": True, "report_to": "none"}
    return trainer_class(
        model=fitting_model(processor) if model is None else model,
        args=CFFATrainingArguments(output_dir=str(folder), **{**always, **settings}),
        train_dataset=pairs(rows, tokenizer, IMAGE_SIZE, CONTEXT),
        eval_dataset=rows if eval_dataset is None else eval_dataset,
        data_collator=PairCollator(tokenizer.pad_token_id),
        processing_class=processor,
        training_transform=transform or TrainingTransform(SpecialTokens.from_tokenizer(tokenizer), crop_padding=2),
        callbacks=callbacks,
    )


def new_trainer(data: dict[str, Any], folder: Path | str, *, transform: dict[str, Any] | None = None, **changes: Any):
    """A trainer of 24 pairs in batches of 6, four steps an epoch; `data` has `train`, `validation` and `processor`."""
    processor = data["processor"]
    return tiny_trainer(
        folder,
        rows=data["train"],
        processor=processor,
        transform=TrainingTransform(
            SpecialTokens.from_tokenizer(processor.tokenizer), crop_padding=2, **(transform or {})
        ),
        **{
            "eval_dataset": data["validation"],
            "per_device_train_batch_size": 6,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "adam_epsilon": 1e-8,
            "logging_steps": 2,
            **changes,
        },
    )
