"""How a model is trained."""

import copy
import difflib
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.integrations import is_tensorboard_available, is_trackio_available, is_wandb_available
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from cffa_hf.arguments.ranges import check_ranges
from cffa_hf.arguments.search_space import SearchSettings, SearchSpace, read_space
from cffa_hf.errors import InputError, keep_secret
from cffa_hf.losses import ALIGNMENT_LOSSES, LossSettings
from cffa_hf.names import IMAGE_TO_TEXT, METRICS
from cffa_hf.precision import computes_bfloat16

PRECISIONS = ("auto", "bfloat16", "float32", "published")
# The names under which the Trainer knows torch's Adam, fused or not.
ADAM = ("adamw_torch", "adamw_torch_fused")
SMALLEST_EPSILON = 1e-4
"""Of Adam on float16 weights: below it a second moment that fell to 0 makes a step ten times the learning rate or more."""
# What each tracker needs, and how it is installed.
TRACKERS = {
    "tensorboard": (is_tensorboard_available, "'cffa_hf[tracking]'"),
    "trackio": (is_trackio_available, "trackio"),
    "wandb": (is_wandb_available, "wandb"),
}
# Settings whose values are never written or printed.
SECRETS = ("hub_token", "push_to_hub_token")
AT_LEAST_ONE = (
    "cached_batch_size",
    "captions_per_identity",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass
class CorruptionSettings:
    """How pictures and captions are changed while training."""

    share_masked_captions: bool = field(
        default=True,
        metadata={
            "help": "All losses see the masked caption (published); false: matching sees it unmasked, twice the text"
        },
    )
    caption_corruption: float = field(
        default=0.2, metadata={"help": "Probability of each word to be masked, replaced or removed"}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the words that are predicted"})
    flip_probability: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip"})
    crop_padding: int = field(default=10, metadata={"help": "Pixels of border before the random crop"})
    erasing_probability: float = field(default=0.5, metadata={"help": "Probability that a rectangle is erased"})

    def check_corruption(self) -> None:
        """Refuse numbers outside their range.

        Raises:
            ValueError: Naming the setting and what it may be.
        """
        for name in ("caption_corruption", "mlm_probability", "flip_probability", "erasing_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must not be negative, got {self.crop_padding}")


# What a search may try. The seed is none of them: all trials start from the same weights.
SEARCHABLE: dict[str, type] = {
    **{name: kind for name, kind in get_type_hints(LossSettings).items() if kind in (float, int, bool, str)},
    **{name: kind for name, kind in get_type_hints(CorruptionSettings).items() if kind in (float, int, bool, str)},
    **dict.fromkeys(("learning_rate", "refinement_learning_rate", "bias_rate_factor", "head_rate_factor"), float),
    **dict.fromkeys(("weight_decay", "adam_epsilon", "max_grad_norm", "warmup_epochs", "warmup_start"), float),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "captions_per_identity"), int),
    **{"coupled_weight_decay": bool, "sampler": str},
}


@dataclass
class CFFATrainingArguments(TrainingArguments, LossSettings, CorruptionSettings, SearchSettings):
    """TrainingArguments with CFFA's losses, corruption, rates and schedule, and the search for settings.

    Defaults that differ from `TrainingArguments` (published recipe): `learning_rate` 1e-5, `weight_decay` 4e-5 (added to the
    gradient, as Adam does), `adam_epsilon` 1e-3, `num_train_epochs` 60, `per_device_train_batch_size` 64,
    `per_device_eval_batch_size` 256, `lr_scheduler_type` cosine (per epoch fraction, from `warmup_start` over `warmup_epochs`),
    `max_grad_norm` 0 (no clipping), `eval_strategy` and `save_strategy` epoch, `save_total_limit` 2,
    `load_best_model_at_end` true with `metric_for_best_model` eval_rank1, `dataloader_drop_last` true,
    `remove_unused_columns` false (raw columns are the collator's), `ddp_find_unused_parameters` false, `logging_steps` 50,
    `hub_strategy` end, `logging_nan_inf_filter` false (a loss that is not finite stops the run).
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the encoders' weights"})
    weight_decay: float = field(default=4e-5, metadata={"help": "Weight decay of all but biases"})
    adam_epsilon: float = field(default=1e-3, metadata={"help": "Epsilon of Adam"})
    num_train_epochs: float = field(default=60.0, metadata={"help": "Epochs"})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs in a batch, per device"})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Items in an evaluation batch, per device"})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "cosine: the published schedule; any other name: as in TrainingArguments"}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient norm to clip at; 0: no clipping"})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate on validation"})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best is one of them"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model on validation"})
    metric_for_best_model: str | None = field(default="eval_rank1", metadata={"help": "What best means"})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of it is better"})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out the last short batch of an epoch"})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must stay false here"})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All parameters are used here"})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two log entries"})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite; false: they stop the run, and no step waits"}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Where to go on: auto (also without a value): the newest whole checkpoint in output_dir, if any; "
            "or the path of a checkpoint",
            "nargs": "?",
            "const": "auto",
        },
    )

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in a folder that holds an earlier run, and overwrite that one"}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "When to push, with push_to_hub: at the end, in one commit", "choices": ["end"]},
    )
    coupled_weight_decay: bool = field(
        default=True, metadata={"help": "Adam with the decay in the gradient (published) instead of AdamW"}
    )
    bias_rate_factor: float = field(default=2.0, metadata={"help": "Learning rate of biases, times the encoders'"})
    head_rate_factor: float = field(
        default=5.0,
        metadata={"help": "Learning rate of cross-modal layers, classifier and MLM head, times the encoders'"},
    )
    refinement_learning_rate: float = field(
        default=1e-3, metadata={"help": "Learning rate of the local features' layers"}
    )
    warmup_epochs: float = field(default=5.0, metadata={"help": "Epochs of linear warm-up"})
    warmup_start: float = field(default=0.1, metadata={"help": "Factor of the learning rate at the first step"})
    cached_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Pairs encoded at once; the loss is still that of the whole batch (gradient caching). null: all"
        },
    )
    sync_batch_norm: bool = field(
        default=True, metadata={"help": "Batch norm of the local features over the batch of all processes"}
    )
    sampler: str = field(
        default="random",
        metadata={
            "help": "random: every pair once (published); identity: some captions each of different identities",
            "choices": ["random", "identity"],
        },
    )
    captions_per_identity: int = field(
        default=4, metadata={"help": "Only for the identity sampler: captions of each identity in a batch"}
    )
    noisy_pairs: str = field(
        default="none",
        metadata={
            "help": "none: every pair counts; consensus: before each epoch the costs of the pairs decide which ones do (RDE)",
            "choices": ["none", "consensus"],
        },
    )
    consensus_much_noise: bool = field(
        default=False,
        metadata={
            "help": "Only for noisy_pairs consensus: the closer fit that RDE takes for much noise and for RSTPReid"
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "bfloat16: autocast over float32 weights; float32; auto: bfloat16 where the device computes in it; "
            "published: float16 weights, updated in place",
            "choices": list(PRECISIONS),
        },
    )

    def __post_init__(self) -> None:
        """Check the settings and choose the precision before TrainingArguments sees them."""
        keep_secret(*(getattr(self, name, None) for name in SECRETS))
        self.check_settings()
        self.check_metric()
        self.check_search()
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        device = "cuda" if on_gpu else "cpu"
        if self.precision == "bfloat16" or (self.precision == "auto" and not self.fp16 and computes_bfloat16(device)):
            self.bf16 = True
            self.use_cpu = self.use_cpu or not on_gpu  # TrainingArguments allows bf16 on a CPU only when told so
        super().__post_init__()
        if self.use_cpu or not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # of no use, and PyTorch warns of it
        for tracker, (is_there, install) in TRACKERS.items():
            if tracker in self.report_to and not is_there():
                raise ValueError(f"report_to {tracker} needs the package {tracker}: pip install {install}")
        if self.precision == "published":
            self.check_published_precision()

    def check_settings(self) -> None:
        """Refuse what no run can be trained with.

        Raises:
            ValueError: Naming the setting and what it may be.
        """
        check_ranges(self)
        self.check_losses()
        self.check_corruption()
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be auto, bfloat16, float32 or published, got {self.precision!r}")
        if str(self.hub_strategy) not in ("end", "HubStrategy.END"):
            raise ValueError(f"hub_strategy must be end: checkpoints are not pushed, got {self.hub_strategy!r}")
        if self.enable_jit_checkpoint:
            raise ValueError(
                "enable_jit_checkpoint must be false: training saves and stops at SIGTERM and SIGINT anyway, and two handlers "
                "of one signal would replace each other"
            )
        if self.sampler not in ("random", "identity"):
            raise ValueError(f"sampler must be random or identity, got {self.sampler!r}")
        self.check_noisy_pairs()
        for name in AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check_metric(self) -> None:
        """Refuse a metric that no evaluation has, and a tracker that does not exist.

        Raises:
            InputError: Naming the setting and what it may be.
        """
        name = str(self.metric_for_best_model or "eval_rank1")
        if name not in METRICS and not name.endswith(tuple(f"_{metric}" for metric in METRICS)):
            close = difflib.get_close_matches(name.removeprefix("eval_"), METRICS, n=1, cutoff=0.4)
            known = ", ".join(f"eval_{metric}" for metric in METRICS)
            hint = (
                f"did you mean 'eval_{close[0]}'?" if close else f"there are {known}, and eval_{IMAGE_TO_TEXT}rank1 ..."
            )
            raise InputError(f"metric_for_best_model is {name[:80]!r}, which no evaluation has ({hint}).")
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        for tracker in trackers:
            if tracker not in ("all", "none", *INTEGRATION_TO_CALLBACK):
                raise InputError(
                    f"report_to is {str(tracker)[:80]!r}, but must be none or one of {', '.join(INTEGRATION_TO_CALLBACK)}."
                )

    def check_search(self) -> None:
        """Refuse a search that cannot be.

        Raises:
            InputError: If its space or another setting does not fit.
        """
        if self.search_trials < 1:
            raise InputError(f"search_trials must be at least 1, got {self.search_trials}.")
        if self.search is None:
            return
        self.search_space()
        if str(self.resume_from_checkpoint).lower() not in ("none", "false", "no"):
            raise InputError(
                "search and resume_from_checkpoint do not go together: started again in the same output_dir, a search goes "
                "on by itself."
            )
        if self.push_to_hub:
            raise InputError(
                "search and push_to_hub do not go together: a search ends with settings, not with a model."
            )
        if self.metric_for_best_model is None:
            raise InputError("search needs metric_for_best_model, by which trials are compared.")

    def search_space(self) -> SearchSpace:
        """Read `search`.

        Raises:
            InputError: If it makes no sense.
        """

        def check(name: str, value: Any) -> None:
            tried = copy.copy(self)
            setattr(tried, name, value)
            tried.check_settings()

        return read_space(self.search, SEARCHABLE, check)

    def check_noisy_pairs(self) -> None:
        """Refuse a way with noisy pairs that there is not, or that cannot be gone.

        Raises:
            ValueError: Naming the setting and what it needs.
        """
        if self.noisy_pairs not in ("none", "consensus"):
            raise ValueError(f"noisy_pairs must be none or consensus, got {self.noisy_pairs!r}")
        if self.noisy_pairs == "none":
            return
        if not ALIGNMENT_LOSSES[self.alignment_loss].is_pairwise:
            raise ValueError(
                f"noisy_pairs consensus weighs pairs by their cost, and alignment_loss {self.alignment_loss} gives none"
            )
        if self.alignment_weight == 0:
            raise ValueError(
                "noisy_pairs consensus weighs the alignment of pairs, and alignment_weight 0 takes it away"
            )
        if find_spec("sklearn") is None:
            raise ValueError("noisy_pairs consensus needs the package scikit-learn: pip install 'cffa_hf[noise]'")

    def check_published_precision(self) -> None:
        """Refuse what cannot be right where Adam updates float16 weights in place.

        Raises:
            ValueError: Naming the setting and what it may be.
        """
        if self.mixed_precision != "no":
            raise ValueError(
                "precision published computes in float16 without autocast or loss scaling: leave out fp16, bf16 and "
                "--mixed_precision, or take precision bfloat16."
            )
        if str(getattr(self.optim, "value", self.optim)) not in ADAM or not self.coupled_weight_decay:
            raise ValueError(
                "precision published is Adam with the weight decay in the gradient, on float16 weights: leave out optim "
                "and coupled_weight_decay, or take precision auto."
            )
        if self.adam_epsilon < SMALLEST_EPSILON:
            raise ValueError(
                f"adam_epsilon must be at least {SMALLEST_EPSILON} with precision published, since second moments fall to 0 "
                f"in float16, got {self.adam_epsilon}: take the published 1e-3."
            )
        if self.cached_batch_size is not None:
            raise ValueError(
                "cached_batch_size adds up gradients of chunks, which float16 rounds, so that precision published would be "
                "another one: leave it out, or take precision auto."
            )
        if self.torch_compile:
            raise ValueError(
                "torch_compile rounds to float16 less often than precision published does: leave it out, or take "
                "precision auto."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave tokens out of what is pickled: the Trainer writes its arguments beside every checkpoint."""
        return {name: None if name in SECRETS else value for name, value in self.__dict__.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CFFATrainingArguments":
        """Keep the tokens in a copy within the process."""
        clone = self.__class__.__new__(self.__class__)
        clone.__dict__ = copy.deepcopy(self.__dict__, memo)
        return clone
