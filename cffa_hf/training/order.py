"""The order of the batches: samplers that know the epoch, streams that know their place, and both in checkpoints."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cffa_hf.data.mixture import Mixture, MixtureSampler
from cffa_hf.data.sampler import IdentitySampler, ShuffleSampler
from cffa_hf.data.stream import StreamBatches
from cffa_hf.data.workers import SignalsLeftToMain
from cffa_hf.errors import InputError
from cffa_hf.files import write_text
from cffa_hf.json_files import read_object
from cffa_hf.names import ORDER_RECORD
from cffa_hf.training.lora import training_model
from cffa_hf.training.resume_checks import CannotResume
from cffa_hf.training.saving import SafeTrainer

logger = logging.getLogger(__name__)


class SamplerEpochCallback(TrainerCallback):
    """Tell the sampler which epoch begins.

    The stock loader forgets to when several processes resume in the middle of an epoch.

    Attributes:
        sampler: That of the running training; None before there is one.
    """

    def __init__(self) -> None:
        self.sampler: ShuffleSampler | IdentitySampler | MixtureSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch, counted from 0."""
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))


class StreamPositionCallback(TrainerCallback):
    """Tell a stream where it begins, and say what it had to leave out.

    The Trainer throws the first batches of a resumed epoch away; the stream gives it empty ones for that.

    Args:
        stream: That of the training.
    """

    def __init__(self, stream: StreamBatches) -> None:
        self.stream = stream

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set epoch and batch, counted from 0."""
        accumulated = args.gradient_accumulation_steps
        epoch, step = divmod(state.global_step, math.ceil(len(self.stream) / accumulated))
        self.stream.set_position(epoch, 0 if args.ignore_data_skip else step * accumulated)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report images that could not be used."""
        if failures := self.stream.failures:
            logger.warning("this epoch of the stream left out %d images that cannot be used", failures)


class OrderedTrainer(SafeTrainer):
    """A SafeTrainer that takes a stream as well, and goes on only with the order that the run began with.

    Attributes:
        mixture: Which pairs are of which set; None: they are of one set.

    Raises:
        InputError: If the model has an identity classifier and the training data are a stream.
    """

    mixture: Mixture | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if isinstance(self.train_dataset, StreamBatches):
            if training_model(self.model).config.use_identity:
                raise InputError("the identities of a stream are no classes; make the model with use_identity=False.")
            self.add_callback(StreamPositionCallback(self.train_dataset))

    def order_record(self) -> dict[str, Any]:
        """Return what the order of the batches depends on besides pairs, seed and sampler; empty: nothing."""
        if isinstance(self.train_dataset, StreamBatches):
            return {"stream": self.train_dataset.record}
        return {} if self.mixture is None else {"weights": self.mixture.record}

    def get_train_dataloader(self) -> DataLoader:
        """Make the loader of the batches; a stream deals them out to the processes by itself."""
        stream = self.train_dataset
        if not isinstance(stream, StreamBatches):
            return super().get_train_dataloader()
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            worker_init_fn=SignalsLeftToMain(),
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Count the samples of an epoch, for the speeds in the log."""
        stream = self.train_dataset
        if isinstance(stream, StreamBatches):
            return len(stream) * stream.order.batch_size * stream.processes
        return super().num_examples(dataloader)

    def _save_division(self, folder: str) -> None:
        if record := self.order_record():
            write_text(Path(folder) / ORDER_RECORD, json.dumps(record) + "\n")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            check_order_to_resume(checkpoint, self.order_record())
        super()._load_optimizer_and_scheduler(checkpoint)


def check_order_to_resume(checkpoint: str | Path, record: dict[str, Any]) -> None:
    """Refuse to go on with batches that the run would not have had.

    Args:
        checkpoint: Folder of a whole checkpoint.
        record: As `OrderedTrainer.order_record`, of the run that goes on.

    Raises:
        CannotResume: Names what differs.
    """
    path = Path(checkpoint) / ORDER_RECORD
    try:
        before = read_object(path) if path.is_file() else {}
        before = {str(name): dict(value) for name, value in before.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CannotResume(
            f"training cannot go on from {checkpoint}: its {ORDER_RECORD} is damaged; take another one."
        ) from error
    if before == record:
        return
    old, new = before.get("stream", before.get("weights", {})), record.get("stream", record.get("weights", {}))
    if before.keys() != record.keys():
        kinds = {"stream": "a stream", "weights": "several data sets"}
        was = kinds.get(next(iter(before), ""), "one data set, not streamed")
        raise CannotResume(
            f"training cannot go on from {checkpoint}: its run was trained on {was}; take the data settings of that run, or "
            "start anew in another output_dir."
        )
    different = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes = ", ".join(f"{name} {old.get(name)} instead of {new.get(name)}" for name in different)
    raise CannotResume(
        f"training cannot go on from {checkpoint}: its run had other batches ({changes}); take the settings of that run, or "
        "start anew in another output_dir."
    )
