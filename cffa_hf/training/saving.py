"""No lost work: checkpoints that are whole or not there, signals that save first, failures in one sentence."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints

from cffa_hf.data.workers import SignalsLeftToMain
from cffa_hf.errors import InputError, RunStopped, plain_error
from cffa_hf.files import complete, new_file, replace_folder
from cffa_hf.locks import check_still_there
from cffa_hf.names import STATE_FILE
from cffa_hf.training.resume import checkpoint_to_resume, newest_whole_checkpoint
from cffa_hf.training.resume_checks import CannotResume, check_model_to_resume, check_optimizer_to_resume
from cffa_hf.training.run_folder import refuse_earlier_run, run_lock

# Checkpoints are written in this folder within the run's and moved when they are complete. Uploads leave out "_*".
UNFINISHED = "_unfinished"


def last_good(output_dir: str | Path) -> str:
    """Say where the run can go on from, as the end of a message."""
    newest = newest_whole_checkpoint(output_dir)
    if newest is None:
        return "no checkpoint has been saved yet"
    return f"the last good checkpoint is {newest}, --resume_from_checkpoint auto goes on from it"


@contextmanager
def explained_writes(what: str, folder: str | Path, output_dir: str | Path) -> Iterator[None]:
    """Turn a failure to write into one sentence.

    Args:
        what: What is written.
        folder: Where to.
        output_dir: Folder of the run.

    Raises:
        RunStopped: With the reason, the space that is left and the last good checkpoint.
    """
    try:
        check_still_there(folder)
        yield
    except (RunStopped, InputError):
        raise
    # torch.save reports a full disk as RuntimeError, safetensors as its own error, the tokenizer as a plain Exception.
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError | SafetensorError) and "(os error " not in str(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if not isinstance(error, OSError):
            reason = f"not all of it was accepted: {reason}"
        existing = next(parent for parent in (Path(folder), *Path(folder).absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 2**20
        raise RunStopped(
            f"{what} could not be written to {folder} ({reason}; {free:,.0f} MiB are free there): make room; "
            f"{last_good(output_dir)}."
        ) from error


def awaits_evaluation(args: TrainingArguments, state: TrainerState) -> bool:
    """Tell whether this was the last step of an epoch, at whose end an evaluation is due."""
    return args.eval_strategy == IntervalStrategy.EPOCH and float(state.epoch or 0.5).is_integer()


class SaveAfterEvaluation(TrainerCallback):
    """Put a checkpoint of the last step of an epoch off until the evaluation of the epoch is in it.

    A run that goes on from there begins with the next epoch: it would never evaluate this one.
    """

    def __init__(self) -> None:
        self._put_off = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the checkpoint off."""
        if control.should_save and awaits_evaluation(args, state):
            control.should_save, self._put_off = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make up for it; the Trainer evaluates first."""
        control.should_save, self._put_off = control.should_save or self._put_off, False


class StopOnSignal(TrainerCallback):
    """Save at the end of the running step when SIGTERM or SIGINT comes, then stop; a second signal stops at once.

    With several processes all of them save at the same step, whichever of them got the signal. A signal in the last
    step of an epoch saves, and then waits for the evaluation at the end of the epoch.

    Attributes:
        received: The signal, on the process that got it.
        agreed: Whether all processes know that there was one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed = False
        self._stopped = self._epoch_ended = False
        self._group: Any = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Handle the signals from now on, where that is possible: in the main thread of a process."""
        try:
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            self._previous = {}

    def uninstall(self) -> None:
        """Handle the signals as before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # torchrun passes on a signal that has reached the whole process group before, and kills after 30 seconds.
            if dist.is_available() and dist.is_torchelastic_launched():
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: saving at the end of this step; a second signal quits at once\n".encode())

    def _agree(self) -> bool:
        """Tell whether any process got a signal; a collective of one number on the CPU, with several processes."""
        if self._group is None or self.agreed:
            self.agreed = self.agreed or self.received is not None
        else:
            vote = torch.tensor([float(self.received is not None)])
            dist.all_reduce(vote, group=self._group)
            self.agreed = bool(vote.item())
        return self.agreed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make a group in which the processes agree without waiting for their devices."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember that an epoch is running."""
        self._epoch_ended = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint if there was a signal."""
        if self._agree():
            control.should_save = control.should_log = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Skip what belongs to a whole epoch after a stop within it."""
        self._epoch_ended = True
        if self._stopped:
            control.should_save = control.should_evaluate = control.should_log = False
        elif self._agree():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop now that everything is saved, unless the evaluation at the end of this epoch comes next."""
        if self._agree() and (self._epoch_ended or not awaits_evaluation(args, state)):
            self._stopped = control.should_training_stop = True
            # It is in the checkpoint. Here it would have the best model loaded, and with save_total_limit 1 all other
            # checkpoints deleted.
            state.best_model_checkpoint = None
            if state.is_world_process_zero:
                print(f"saved {args.output_dir}/checkpoint-{state.global_step}")


class StopWithoutFolder(TrainerCallback):
    """Stop at the next step when the folder of the run has vanished: what is trained from then on could not be saved."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look whether it is there; only the process that holds the lock knows."""
        check_still_there(str(args.output_dir))


class SafeTrainer(Trainer):
    """A Trainer that loses no work.

    A checkpoint gets its name when it is complete and on the disk, and only then are older ones deleted. SIGTERM and
    SIGINT save before they end the process, with status 128 + number of the signal. Arguments as for `Trainer`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop_on_signal = StopOnSignal()
        self.add_callback(StopWithoutFolder)
        self.add_callback(SaveAfterEvaluation)
        self.add_callback(self.stop_on_signal)
        self._writing = self._started = False

    @property
    def run_folder(self) -> str:
        """Where the run keeps everything: its `output_dir`."""
        return str(self.args.output_dir)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on training.

        Args:
            resume_from_checkpoint: `auto`, `true` or True: the newest whole checkpoint of the run, if there is one; or
                the path of a checkpoint.
            *args: As for `Trainer`.
            **kwargs: As for `Trainer`.

        Raises:
            InputError: If the checkpoint is of another model or optimizer, it or an image cannot be read, another run uses
                the folder, or an earlier one is in it and neither resumed nor to be overwritten.
            RunStopped: If the disk is full or the loss is not finite.
            SystemExit: After SIGTERM (status 143) or SIGINT (130), when everything is saved.
        """
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.run_folder)
        if checkpoint is not None:
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            check_model_to_resume(checkpoint, self.model, sharded=sharded)
        if not self.is_world_process_zero():
            return self._train_safely(checkpoint, *args, **kwargs)
        with run_lock(self.run_folder):
            overwrite = self._started or getattr(self.args, "overwrite_output_dir", False)
            refuse_earlier_run(self.run_folder, resuming=checkpoint is not None, overwrite=overwrite)
            self._started = True
            shutil.rmtree(os.path.join(self.run_folder, UNFINISHED), ignore_errors=True)  # of a killed run
            if checkpoint is not None:
                print(f"going on from {checkpoint}")
            return self._train_safely(checkpoint, *args, **kwargs)

    def _train_safely(self, checkpoint: str | None, *args: Any, **kwargs: Any) -> Any:
        """Train with signals handled, and end in one sentence where an input or the world stops the run."""
        self.stop_on_signal.install()
        try:
            result = super().train(checkpoint, *args, **kwargs)
        except (InputError, RunStopped) as error:
            self.callback_handler.on_train_end(self.args, self.state, self.control)  # trackers write what they have
            if isinstance(error, RunStopped | CannotResume):
                raise
            sentence = str(plain_error(error)).rstrip(".")
            raise InputError(f"{sentence}; {last_good(self.run_folder)}.") from None
        finally:
            self.stop_on_signal.uninstall()
        if self.stop_on_signal.agreed:
            number = signal.Signals(self.stop_on_signal.received or signal.SIGTERM)
            if self.is_world_process_zero():
                print(f"stopped by {number.name} before the end; go on with --resume_from_checkpoint auto")
            raise SystemExit(128 + number)
        return result

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the state of the optimizer, if it is that of this one."""
        if checkpoint is not None:
            check_optimizer_to_resume(checkpoint, self.optimizer)
        super()._load_optimizer_and_scheduler(checkpoint)

    def get_train_dataloader(self) -> DataLoader:
        """Make the loader of the batches; its processes leave signals to this one."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps the loader
        inner.worker_init_fn = SignalsLeftToMain(inner.worker_init_fn)
        return loader

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._writing else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint under another name, move it when it is complete, and then delete older ones."""
        run_folder, name = self._get_output_dir(trial), f"checkpoint-{self.state.global_step}"
        unfinished, folder = os.path.join(run_folder, UNFINISHED), os.path.join(run_folder, name)
        with explained_writes(f"the checkpoint of step {self.state.global_step}", run_folder, run_folder):
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._writing = True
            try:
                super()._save_checkpoint(model, trial)
                if self.state.best_model_checkpoint == os.path.join(unfinished, name):
                    self.state.best_model_checkpoint = folder
                    if self.args.should_save:
                        self.state.save_to_json(os.path.join(unfinished, name, STATE_FILE))
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._save_records(os.path.join(unfinished, name))
                    self._save_division(os.path.join(unfinished, name))
                    complete(unfinished)
                    check_still_there(run_folder)
                    replace_folder(os.path.join(unfinished, name), folder)
            finally:
                self._writing = False
                if self.args.should_save:
                    shutil.rmtree(unfinished, ignore_errors=True)
        if self.args.should_save:
            rotate_checkpoints(run_folder, self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        if self.args.push_to_hub:
            self._push_from_checkpoint(folder)
        self.accelerator.wait_for_everyone()

    def _save_records(self, folder: str) -> None:
        """Write what else belongs beside the weights of a checkpoint; nothing here."""

    def _save_division(self, folder: str) -> None:
        """Write into a checkpoint which pairs count in its epoch; nothing here."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint once it has its name: uploads go on in the background."""
        if not self._writing:
            super()._push_from_checkpoint(checkpoint_folder)

    def save_state(self) -> None:
        """Save the log and the state of the run beside the model.

        Raises:
            RunStopped: If they cannot be written.
        """
        if self.is_world_process_zero():
            with (
                explained_writes("the state of the run", self.run_folder, self.run_folder),
                new_file(os.path.join(self.run_folder, STATE_FILE)) as partial,
            ):
                self.state.save_to_json(str(partial))
