"""What a run reports between evaluations: loss terms, accuracy, rates, speed, and the first loss that is not finite."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from cffa_hf.names import LEARNING_RATE, LOSS_TERM


class TrainingMonitor(TrainerCallback):
    """Collect values on the device, and read them only when a log entry is due: no step waits for them.

    A checkpoint or an evaluation closes a log entry: a run that goes on from there logs the same values as one that was
    never interrupted, and no checkpoint is written from a loss that is not finite.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._hits: Tensor | float = 0.0
        self._targets = 0
        self._first_bad: tuple[Tensor, Tensor] | None = None
        self._rates: dict[str, Any] = {}
        self._started: float | None = None
        self._waited = self._paused = 0.0
        self._images = self._steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what an earlier training of the same trainer left, which may have broken off."""
        self._begin()

    def add_terms(self, step: int, terms: dict[str, Tensor]) -> None:
        """Add the weighted terms of one batch, and remember the first ones that are not finite.

        Args:
            step: Number of the running step, from 1.
            terms: Scalars, always with the same names.
        """
        values = torch.stack([value.detach().float() for value in terms.values()])
        for name, value in zip(terms, values, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._batches += 1
        here = values.new_full((), step, dtype=torch.int64)  # a fill on the device, not a copy that waits for it
        if self._first_bad is None:
            self._first_bad = (torch.zeros_like(here), torch.zeros_like(values))
        first, kept = self._first_bad
        is_first = ~values.isfinite().all() & (first == 0)
        self._first_bad = (torch.where(is_first, here, first), torch.where(is_first, values, kept))

    def add_accuracy(self, logits: Tensor, labels: Tensor) -> None:
        """Count the masked words that are predicted right.

        Args:
            logits: At the masked positions in row-major order, `(masked, vocabulary)`.
            labels: Ids where a token was chosen, -100 elsewhere, `(batch, length)`.
        """
        predicted = logits.detach().argmax(dim=-1)
        self._hits = self._hits + (predicted == labels[labels != -100]).sum()
        self._targets += len(predicted)

    def add_images(self, count: int) -> None:
        """Count the images of a batch."""
        self._images += count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the wait for the batches of a step; the first one starts the clock."""
        begin = time.perf_counter()
        if self._started is None:
            self._started = begin
        yield
        self._waited += time.perf_counter() - begin

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Leave out the time of an evaluation or a checkpoint."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the learning rates of this step; the schedule changes them before they are logged."""
        groups = optimizer.param_groups if optimizer is not None else []
        self._rates = {f"{LEARNING_RATE}{group.get('name', index)}": group["lr"] for index, group in enumerate(groups)}
        self._steps += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the log entry where a checkpoint or an evaluation is due."""
        control.should_log = control.should_log or control.should_save or control.should_evaluate

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the log entry where a checkpoint or an evaluation is due."""
        control.should_log = control.should_log or control.should_save or control.should_evaluate

    def read(self, mean_over_processes: Callable[[Tensor], Tensor], processes: int) -> dict[str, float]:
        """Return what was collected since the last call, and start anew.

        Args:
            mean_over_processes: Averages a tensor of every process.
            processes: How many there are.

        Returns:
            Mean `loss_*` of each term, which sum to the loss; `mlm_accuracy` in percent; `learning_rate_*` of each
            group; `images_per_second` of all processes; `data_time`, seconds that a step waited for its batches, and
            `data_time_share`, in percent of the step. Empty if there was no batch.
        """
        if not self._batches:
            return {}
        device = next(iter(self._sums.values())).device
        hits = torch.as_tensor(self._hits, device=device, dtype=torch.float32)
        counts = torch.tensor([self._targets, self._images, self._waited], device=device, dtype=torch.float32)
        means = torch.stack([value / self._batches for value in self._sums.values()])
        values = mean_over_processes(torch.cat([means, hits[None], counts])).tolist()  # waits for the device
        elapsed = max(time.perf_counter() - (self._started or 0.0) - self._paused, 1e-9)
        *terms, hit, targets, images, waited = values
        logs = {f"{LOSS_TERM}{name}": value for name, value in zip(self._sums, terms, strict=True)}
        if targets:
            logs["mlm_accuracy"] = 100 * hit / targets
        logs |= {name: float(rate) for name, rate in self._rates.items()}
        if self._started is not None:
            logs["images_per_second"] = images * processes / elapsed
            logs["data_time"] = waited / max(self._steps, 1)
            logs["data_time_share"] = 100 * waited / elapsed
        self._sums, self._batches, self._hits, self._targets = {}, 0, 0.0, 0
        self._waited, self._paused, self._images, self._steps = 0.0, 0.0, 0, 0
        self._started = time.perf_counter() if self._started is not None else None
        return logs

    def complaint(self, logs: dict[str, float], *, check_gradient: bool = True) -> str | None:
        """Say in which step which loss was not finite.

        Args:
            logs: A training entry as it is logged.
            check_gradient: Whether its `grad_norm` must be finite too.

        Returns:
            The beginning of a message, or None if all is well so far.
        """
        names = [name for name in logs if name.startswith(LOSS_TERM)]
        if any(not math.isfinite(logs[name]) for name in (*names, "loss") if name in logs):
            step, values = 0, []
            if self._first_bad is not None:
                step, values = int(self._first_bad[0]), self._first_bad[1].tolist()
            where = f"in step {step}" if step else "on another process"
            terms = dict(zip(names, values, strict=True)) if step else {name: logs[name] for name in names}
            return f"the loss is not finite {where} ({', '.join(f'{name} {terms[name]:.4g}' for name in names)})"
        if check_gradient and not math.isfinite(logs.get("grad_norm", 0.0)):
            return f"the gradient is not finite (norm {logs['grad_norm']}, loss {logs.get('loss', math.nan):.4g})"
        return None
