"""What a run prints: a line for each log entry, with the time that is left, and where the model is at the end."""

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from cffa_hf.names import LOSS_TERM, METRICS


def entry_line(logs: dict[str, float], state: TrainerState, seconds_left: float | None = None) -> str:
    """Put a log entry of training on one line; what only trackers need is left out.

    Args:
        logs: The entry.
        state: Of the run.
        seconds_left: Until the last step; None: not known.
    """
    terms = ", ".join(
        f"{name.removeprefix(LOSS_TERM)} {value:.3g}" for name, value in logs.items() if name.startswith(LOSS_TERM)
    )
    parts = [f"loss {logs['loss']:.4g}" + (f" ({terms})" if terms else "")]
    for name, form in (
        ("mlm_accuracy", "words guessed {:.1f}%"),
        ("grad_norm", "gradient {:.3g}"),
        ("images_per_second", "{:,.3g} images/s"),
        ("data_time_share", "{:.0f}% of it waiting for data"),
    ):
        if name in logs:
            parts.append(form.format(logs[name]))
    place = f"step {state.global_step:,} of {state.max_steps:,}, epoch {state.epoch or 0:.1f}"
    left = "" if seconds_left is None else f"; {duration(seconds_left)} left"
    return f"{place}: {', '.join(parts)}{left}"


def duration(seconds: float) -> str:
    """Say how long something takes, as a person would.

    Example:
        >>> duration(42), duration(400), duration(7400)
        ('42 s', '7 min', '2 h 3 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class EntryLines(TrainerCallback):
    """Print the entries of a training readably; evaluations have lines of their own."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._began = (time.monotonic(), state.global_step)
        if begin := getattr(super(), "on_train_begin", None):
            begin(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print one line for an entry with a loss, and one for other numbers that are no evaluation's."""
        if not state.is_world_process_zero or not logs:
            return
        began, first = getattr(self, "_began", (time.monotonic(), state.global_step))
        if "loss" in logs:
            done = state.global_step - first
            left = (time.monotonic() - began) / done * (state.max_steps - state.global_step) if done > 0 else None
            tqdm.write(entry_line(logs, state, left))
        elif "train_runtime" in logs:
            steps = state.global_step - first  # of a resumed run the rest
            tqdm.write(f"trained {steps:,} steps in {duration(logs['train_runtime'])}")
        elif not any(name.startswith("eval_") for name in logs):
            shown = (
                f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, float) and name != "epoch"
            )
            tqdm.write(f"epoch {state.epoch or 0:.1f}: {', '.join(shown)}")


class ProgressWithLines(EntryLines, ProgressCallback):
    """The Trainer's progress bar, with readable lines above it."""


class PrintedLines(EntryLines, PrinterCallback):
    """Readable lines alone, for runs without a progress bar and for log files."""


def use_readable_lines(trainer: Any) -> None:
    """Take readable lines in place of what the Trainer prints; a progress bar only where somebody sees it.

    Args:
        trainer: A `Trainer`, changed in place. The table of a notebook stays.
    """
    for plain in (ProgressCallback, PrinterCallback):
        if trainer.pop_callback(plain) is not None:
            shows_bar = plain is ProgressCallback and sys.stderr.isatty()
            trainer.add_callback(ProgressWithLines if shows_bar else PrintedLines)


def best_sentence(state: TrainerState, folder: str, metric: str) -> str:
    """Say which model a finished run has kept, and where.

    Args:
        state: Of the run.
        folder: Where the model is saved.
        metric: By which the best was chosen, `eval_rank1`.
    """
    if state.best_metric is None or state.best_model_checkpoint is None:
        return f"The model of the last epoch is in {folder}."
    kept = state.best_model_checkpoint.rpartition("-")[2]
    steps = {str(entry["step"]): entry.get("epoch") for entry in state.log_history}
    epoch = f"epoch {steps[kept]:.0f}" if steps.get(kept) is not None else f"step {kept}"
    name = METRICS.get(metric.removeprefix("eval_").removeprefix("test_"), metric)
    return f"The best model, of {epoch} ({name} {state.best_metric:.2f}), is in {folder}."
