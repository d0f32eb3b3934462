"""What each number of a run's settings may be, checked before anything is built or read."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included.

    Attributes:
        low: The least one.
        high: The largest one; infinite: any finite number.
        above: The least one itself is out of range.
    """

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:,} to {self.high:,}"
        return f"above {self.low}" if self.above else f"at least {self.low}"


FINITE, SEED = Range(0), Range(0, 2**32 - 1)
WIDTH, LAYERS, PIXELS = Range(1, 65_536), Range(0, 1000), Range(1, 8192)
RANGES: dict[str, Range] = {
    **dict.fromkeys(("hidden_size", "projection_dim", "local_dim"), WIDTH),
    **{"num_layers": Range(1, 1000), "cross_modal_layers": LAYERS},
    **dict.fromkeys(("image_size", "patch_size", "stride"), PIXELS),
    **{"context_length": Range(3, 100_000), "text_attention_dropout": Range(0, 1)},
    **dict.fromkeys(("seed", "data_seed", "split_seed", "caption_noise_seed"), SEED),
    **dict.fromkeys(("learning_rate", "refinement_learning_rate", "bias_rate_factor", "head_rate_factor"), FINITE),
    **dict.fromkeys(("weight_decay", "adam_epsilon", "max_grad_norm", "warmup_epochs", "neftune_noise_alpha"), FINITE),
    **{"warmup_start": Range(0, 1), "adam_beta1": Range(0, 0.9999999), "adam_beta2": Range(0, 0.9999999)},
    **{"num_train_epochs": Range(0, 1_000_000, above=True), "logging_steps": Range(0, above=True)},
    **dict.fromkeys(("per_device_eval_batch_size", "save_total_limit"), Range(1)),
    **dict.fromkeys(("save_steps", "eval_steps"), Range(0, above=True)),
    **{"dataloader_num_workers": Range(0, 1000), "crop_padding": Range(0, 8192)},
}


def check_ranges(arguments: Any) -> None:
    """Refuse the first number of a dataclass of settings that is outside its range; None is no number.

    Raises:
        ValueError: Naming the setting and what it may be.
    """
    for field in dataclasses.fields(arguments):
        allowed, value = RANGES.get(field.name), getattr(arguments, field.name)
        if allowed is None or value is None:
            continue
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and number not in allowed:
                raise ValueError(f"{field.name} must be {allowed}, got {number:,}")
    steps = getattr(arguments, "max_steps", -1)
    if steps != -1 and steps < 1:
        raise ValueError(f"max_steps must be at least 1, or -1 for all epochs, got {steps:,}")
