"""From a split to training batches: pairs, their collator and the transform that a trainer's settings describe."""

import logging
from collections.abc import Mapping
from typing import Any

import datasets
from transformers import CLIPProcessor

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.collator import PairCollator, TrainingTransform
from cffa_hf.data.corruption import SpecialTokens
from cffa_hf.data.pairs import PairDataset
from cffa_hf.data.shards import ShardFolder
from cffa_hf.data.stream import StreamBatches
from cffa_hf.errors import InputError
from cffa_hf.names import IMAGE_TO_TEXT, METRICS

logger = logging.getLogger(__name__)


def training_pairs(rows: datasets.Dataset, config: CFFAConfig, processor: CLIPProcessor) -> PairDataset:
    """Make the pairs of a train split, each caption with its image.

    Args:
        rows: A split in the dataset form.
        config: Of the model that is trained.
        processor: Its processor.

    Raises:
        InputError: If a column is missing, or there are more identities than the model's classifier has classes.
    """
    missing = {"image", "captions", "person_id"} - set(rows.column_names)
    if missing:
        raise InputError(
            f"The train split has no column {', '.join(sorted(missing))}, only {', '.join(rows.column_names)}; read it "
            "with load_person_dataset."
        )
    pairs = PairDataset(rows, processor.tokenizer, config.image_size, config.context_length)
    if config.use_identity and len(pairs.identities) > config.num_identities:
        raise InputError(
            f"The train split has {len(pairs.identities):,} identities, but the model's classifier has "
            f"{config.num_identities:,} classes; make the model with num_identities={len(pairs.identities)}."
        )
    return pairs


def training_stream(
    shards: ShardFolder,
    args: CFFATrainingArguments,
    config: CFFAConfig,
    processor: CLIPProcessor,
    *,
    buffer: int,
    failure_limit: int,
) -> StreamBatches:
    """Make the stream of a training process: the batches that this one gets.

    Args:
        shards: Where the samples are.
        args: Of the run.
        config: Of the model that is trained.
        processor: Its processor.
        buffer: As `stream_buffer`.
        failure_limit: As `stream_failure_limit`.

    Raises:
        InputError: If there are fewer samples than one batch for each loading process.
    """
    return StreamBatches(
        shards,
        processor.tokenizer,
        pair_collator(processor),
        image_size=config.image_size,
        context_length=config.context_length,
        batch_size=args.train_batch_size,
        rank=args.process_index,
        processes=args.world_size,
        workers=args.dataloader_num_workers,
        buffer=buffer,
        failure_limit=failure_limit,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def pair_collator(processor: CLIPProcessor) -> PairCollator:
    """Make the collator of pairs."""
    return PairCollator(processor.tokenizer.pad_token_id)


def training_transform_of(
    args: CFFATrainingArguments, config: CFFAConfig, processor: CLIPProcessor
) -> TrainingTransform:
    """Make the transform that augments, corrupts and masks a batch as the settings say."""
    return TrainingTransform(
        SpecialTokens.from_tokenizer(processor.tokenizer),
        share_masked_captions=args.share_masked_captions,
        caption_corruption=args.caption_corruption,
        mlm_probability=args.mlm_probability if config.use_mlm else 0.0,
        flip_probability=args.flip_probability,
        crop_padding=args.crop_padding,
        erasing_probability=args.erasing_probability,
    )


def selection_rows(
    data: Mapping[str, datasets.Dataset], select_on: str, args: CFFATrainingArguments
) -> datasets.Dataset | dict[str, datasets.Dataset] | None:
    """Return what is evaluated while training: validation, or the test split under its name, so that every log says it.

    Args:
        data: Splits by name.
        select_on: `validation` or `test`.
        args: Their `metric_for_best_model` is named after the test split where that chooses, `eval_test_rank1`.

    Returns:
        As `CFFATrainer` takes it; None: there is no validation split.

    Raises:
        InputError: If there is no test split to choose on.
    """
    if select_on == "validation":
        return data.get("validation")
    if "test" not in data:
        raise InputError(f"The data have no test split, only {', '.join(data)}; set select_on validation.")
    metric = str(args.metric_for_best_model).removeprefix("eval_").removeprefix("test_")
    args.metric_for_best_model = f"eval_test_{metric}"
    return {"test": data["test"]}


def check_best_metric(args: CFFATrainingArguments, eval_dataset: Any) -> None:
    """Refuse a metric for the best checkpoint that the evaluations of a run do not have, before it begins.

    Args:
        args: Of the run.
        eval_dataset: Validation split, or splits by name; None: there is none.

    Raises:
        InputError: Naming the metrics that there are.
    """
    if eval_dataset is None or args.metric_for_best_model is None:
        return
    parts = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, dict) else [""]
    known = [part + direction + metric for part in parts for direction in ("", IMAGE_TO_TEXT) for metric in METRICS]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise InputError(
            f"metric_for_best_model is {args.metric_for_best_model[:80]!r}, but the evaluations of this run have "
            f"{', '.join(f'eval_{name}' for name in known[:10])}."
        )


def fit_arguments(args: CFFATrainingArguments, pairs: Any, eval_dataset: Any) -> None:
    """Switch off what the data have no use for: dropping the only batch, and evaluation without a validation split.

    Args:
        args: Changed in place.
        pairs: What is trained on.
        eval_dataset: Validation split or splits; None: there is none.
    """
    whole = isinstance(pairs, StreamBatches)  # all batches of a stream are
    if (
        pairs is not None
        and not whole
        and args.dataloader_drop_last
        and len(pairs) < args.train_batch_size * args.world_size
    ):
        logger.warning("only %d pairs, less than a batch: dataloader_drop_last is off", len(pairs))
        args.dataloader_drop_last = False
    if eval_dataset is None and (args.eval_strategy != "no" or args.load_best_model_at_end):
        logger.warning("no validation split: nothing is evaluated while training, and the last epoch is kept")
        args.eval_strategy, args.load_best_model_at_end = "no", False
