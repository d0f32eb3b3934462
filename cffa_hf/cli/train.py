"""`cffa-hf train`, run_train.py and `accelerate launch -m cffa_hf.cli.train`: train a retrieval model."""

import shlex
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

from datasets import Dataset
from transformers import CLIPProcessor, TrainerState, set_seed

from cffa_hf.arguments.data import DataArguments, TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.cli.parsers import asks_for_help, configured
from cffa_hf.command_line import CommandParser, run_guarded
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.caption_noise import CaptionNoise
from cffa_hf.data.image_cache import cache_images
from cffa_hf.data.stream import StreamBatches
from cffa_hf.errors import explained
from cffa_hf.records.files import make_output_folder
from cffa_hf.records.run import write_run_record
from cffa_hf.training.batches import selection_rows, training_stream
from cffa_hf.training.distributed import leave_process_group
from cffa_hf.training.lora import add_lora
from cffa_hf.training.printing import best_sentence
from cffa_hf.training.resume import checkpoint_to_resume
from cffa_hf.training.run_data import (
    RunData,
    check_combination,
    read_run_data,
    seen_of,
    switch_off_identity,
    tell_people,
)
from cffa_hf.training.run_folder import refuse_earlier_run, run_lock
from cffa_hf.training.settings_search import (
    SearchTrainer,
    holds_search,
    refuse_what_cannot_be_searched,
    search_subject,
)
from cffa_hf.training.start import starting_model
from cffa_hf.training.trainer import CFFATrainer

ANY_DATASET = "DATASET"
WHICH_DATASET = f", where {ANY_DATASET} has people that were not trained on; or fine-tune this model with --init_from"


def main(words: Sequence[str] | None = None) -> None:
    """Read the settings, lock the output folder and train.

    Args:
        words: Command line without the program's name; None: that of the process.

    Raises:
        InputError: If a setting or the data are wrong.
    """
    words = sys.argv[1:] if words is None else words
    if asks_for_help(words):
        configured(CommandParser(prog="cffa-hf train"), "train").print_help()
        return
    model_args, data_args, args = parse_arguments(words)
    if args.search is not None:
        refuse_what_cannot_be_searched(args)
    make_output_folder(args.output_dir)
    try:
        with run_lock(args.output_dir) if args.process_index == 0 else nullcontext():
            done = train(model_args, data_args, args)
        if done is not None and args.process_index == 0:
            state, splits = done
            print(best_sentence(state, str(args.output_dir), str(args.metric_for_best_model)))
            command = evaluation_command(words, str(args.output_dir), data_args, splits)
            print(f"Next: {command}{WHICH_DATASET if f'--dataset {ANY_DATASET} ' in command else ''}")
    finally:
        leave_process_group()


def train(
    model_args: ModelArguments,
    data_args: TrainingDataArguments,
    args: CFFATrainingArguments,
) -> tuple[TrainerState, list[str]] | None:
    """Read the data, make the model, train it, and save the part that embeds; or search for settings.

    Returns:
        The state at the end and the splits that the data have; None after a search.
    """
    check_combination(data_args, args)
    checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)
    searching = args.search is not None
    if args.process_index == 0:
        goes_on = checkpoint is not None or (searching and holds_search(args.output_dir))
        refuse_earlier_run(args.output_dir, resuming=goes_on, overwrite=args.overwrite_output_dir)
    set_seed(args.seed)
    source = data_args.caption_noise_source
    noise = None if source is None else CaptionNoise.of(source, data_args.caption_noise_seed)
    found = read_run_data(data_args, args)
    data, seen = found.data, None
    if args.should_save:
        seen = seen_of(found, model_args, data_args, checkpoint)
        tell_people(found)
    if noise is not None:
        data["train"] = noise.apply(data["train"])

    model_args = switch_off_identity(model_args, found)
    model: Any
    model, processor = starting_model(model_args, found.captions(), found.identities)
    config = model.config
    model_args = replace(model_args, image_size=list(config.image_size))
    lora: Any = model_args.lora
    if lora is not None:
        model = add_lora(model, lora, model_args.init_from)
    if data_args.cache_images:
        cache_splits(found, data_args, args, config)
    pairs = training_data(found, data_args, args, config, processor)
    with explained("the Trainer refuses these settings", ImportError, ValueError):  # a package, a name of a back end
        trainer = (SearchTrainer if searching else CFFATrainer)(
            model=model,
            args=args,
            train_dataset=pairs,
            eval_dataset=selection_rows(data, data_args.select_on, args),
            processing_class=processor,
            seen=seen,
            mixture=found.mixture,
        )
    if isinstance(trainer, SearchTrainer):
        trainer.search(search_subject(model_args, data_args, args, seen))
        return None
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_published()
    trainer.save_state()
    order = trainer.order_record()
    write_run_record(args.output_dir, model_args, data_args, args, data, trainer, seen, noise, order)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer.state, list(data)


def cache_splits(
    found: RunData, data_args: TrainingDataArguments, args: CFFATrainingArguments, config: CFFAConfig
) -> None:
    """Replace the images that the run reads by decoded ones, in place."""
    with args.main_process_first(desc="caching images"):
        for split in found.data.keys() & {"train", data_args.select_on}:
            found.data[split] = cache_images(found.data[split], config.image_size)


def evaluation_command(
    words: Sequence[str], output_dir: str, data_args: TrainingDataArguments, splits: Collection[str] = ("test",)
) -> str:
    """Return the command that evaluates what a command line has trained: its config, and what it says of the data.

    Where several configs came to one data set, which an evaluation might take for several, that data set is told in full.
    After a training that evaluates another data set it is that one; a stream, several sets, and a set with nothing but a
    train split leave it open.

    Args:
        words: Command line of the training.
        output_dir: Where the model is.
        data_args: What the command line came to.
        splits: Of its data.
    """
    configs = list(words[words.index("--config") + 1 :]) if "--config" in words else []
    number = next((place for place, word in enumerate(configs) if word.startswith("--")), len(configs))
    held_out = [split for split in ("test", "validation") if split in splits]
    open_ended = data_args.streaming or data_args.datasets is not None or not held_out
    asked: DataArguments = data_args
    if number > 1 or open_ended or data_args.eval_dataset is not None:
        if data_args.eval_dataset is not None:
            root = data_args.eval_dataset_root or data_args.dataset_root
            asked = DataArguments(dataset=data_args.eval_dataset, dataset_root=root, split_seed=data_args.split_seed)
        elif open_ended:
            asked = DataArguments(dataset=ANY_DATASET)
        told = [(item.name, getattr(asked, item.name), item.default) for item in fields(DataArguments)]
        shown = [[f"--{name}", str(value)] for name, value, default in told if value not in (None, default)]
        words = [word for name, value in shown for word in (name, value)]
    kept, keeps = [], False
    wanted = {"--config", *(f"--{item.name}" for item in fields(DataArguments))} - {"--check_images"}
    for word in words:
        if word.startswith("--"):
            keeps = word.partition("=")[0] in wanted
        if keeps:
            kept.append(word)
    if asked is data_args and held_out[0] != "test":
        kept += ["--split", held_out[0]]
    return shlex.join(["cffa-hf", "evaluate", output_dir, *kept, "--report"])


def training_data(
    found: RunData,
    data_args: TrainingDataArguments,
    args: CFFATrainingArguments,
    config: CFFAConfig,
    processor: CLIPProcessor,
) -> Dataset | StreamBatches:
    """Return what the trainer takes: the rows of the train split, or the stream of this process, which is described."""
    if found.shards is None:
        return found.data["train"]
    limits = {"buffer": data_args.stream_buffer, "failure_limit": data_args.stream_failure_limit}
    stream = training_stream(found.shards, args, config, processor, **limits)
    if args.should_save:
        print(f"{data_args.dataset}: {stream.sentence}")
    return stream


if __name__ == "__main__":
    run_guarded(main)
