"""Settings of a run: one YAML file gives the defaults, the command line wins, an unknown key is an error."""

import argparse
import difflib
import json
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from cffa_hf.command_line import without_values
from cffa_hf.errors import InputError
from cffa_hf.losses import LossSettings

# Settings whose values are never written or printed.
SECRETS = ("hub_token", "push_to_hub_token")


@dataclass
class ModelArguments:
    """Where the weights come from, and what the model computes."""

    init_from: str | None = field(
        default="openai/clip-vit-base-patch16",
        metadata={
            "help": "Weights to start from: a CLIP or CFFA model (name on the Hub or folder), or a .pt or .pth file of "
            "CLIP, open_clip, IRRA, RDE or CFFA. null: random weights"
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "CLIP tokenizer, needed where the weights are a file: a name on the Hub, a folder, or CLIP's "
            "merges file bpe_simple_vocab_16e6.txt.gz. null: the one beside the weights"
        },
    )
    image_size: list[int] = field(
        default_factory=lambda: [384, 128], metadata={"help": "Height and width of the images in pixels"}
    )
    stride: int | None = field(
        default=None, metadata={"help": "Step between patches in pixels; null: the patch size. Smaller: overlapping"}
    )
    context_length: int = field(default=77, metadata={"help": "Most tokens in a caption, start and end included"})
    select_ratio: float = field(default=0.3, metadata={"help": "Share of patches and words that local features keep"})
    local_dim: int = field(default=1024, metadata={"help": "Width of the local features"})
    text_attention_dropout: float = field(default=0.05, metadata={"help": "Dropout in the text encoder's attention"})
    use_flfr: bool = field(default=True, metadata={"help": "Local features beside the global ones"})
    use_mlm: bool = field(default=True, metadata={"help": "Masked language modelling across modalities"})
    use_identity: bool = field(default=True, metadata={"help": "Identity classifier"})
    cross_modal_layers: int = field(default=4, metadata={"help": "Layers after the cross attention"})
    patch_size: int = field(default=16, metadata={"help": "Only for random weights: patch size in pixels"})
    hidden_size: int = field(default=768, metadata={"help": "Only for random weights: width of both encoders"})
    num_layers: int = field(default=12, metadata={"help": "Only for random weights: layers of both encoders"})
    projection_dim: int = field(default=512, metadata={"help": "Only for random weights: width of the global features"})
    vocabulary_size: int = field(
        default=1000, metadata={"help": "Only for random weights: size of the tokenizer trained on the train captions"}
    )
    lora: dict | str | None = field(
        default=None,
        metadata={
            "help": "LoRA beside the frozen encoders: fields of peft.LoraConfig, for instance '{\"r\": 8}' (JSON on "
            "the command line, a mapping in a config). null: the encoders are trained whole"
        },
    )

    def __post_init__(self) -> None:
        """Refuse an image size that is no pair, and read `lora` from JSON where it came from the command line."""
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be a height and a width, got {self.image_size}")
        if isinstance(self.lora, str):
            try:
                self.lora = json.loads(self.lora)
            except json.JSONDecodeError as error:
                raise ValueError(f'lora must be JSON like {{"r": 8}}, got {self.lora!r}') from error
        if self.lora is not None and not isinstance(self.lora, dict):
            raise ValueError(f'lora must be a mapping of settings like {{"r": 8}}, got {self.lora!r}')


@dataclass
class DataArguments:
    """What is read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "cuhk_pedes, icfg_pedes or rstpreid; a folder with metadata.jsonl, .csv or .parquet; or a name on the Hub"
        },
    )
    dataset_root: str | None = field(default=None, metadata={"help": "Folder that holds the benchmark's folder"})
    annotation_file: str | None = field(default=None, metadata={"help": "Annotation JSON, if it has another name"})
    validation_identities: int | None = field(
        default=None,
        metadata={"help": "Identities held out of train for validation, where there is no validation split; 0: none"},
    )
    test_identities: int | None = field(
        default=None, metadata={"help": "Identities held out for the test, in one's own data without splits"}
    )
    split_seed: int = field(default=0, metadata={"help": "Chooses the identities that are held out"})
    allow_shared_people: bool = field(
        default=False,
        metadata={
            "help": "Go on where validation or test people are among those that the weights have seen; results are marked"
        },
    )
    check_images: bool = field(default=True, metadata={"help": "Decode every image once before training starts"})
    cache_images: bool = field(
        default=False, metadata={"help": "Keep all images, resized, in the cache of datasets: no decoding in training"}
    )

    def __post_init__(self) -> None:
        """Refuse a run without data."""
        if self.dataset is None:
            raise ValueError("no data: set 'dataset' in a config (--config configs/demo.yaml) or on the command line")


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


@dataclass
class CFFATrainingArguments(TrainingArguments, LossSettings, CorruptionSettings):
    """TrainingArguments with CFFA's losses, corruption, rates and schedule.

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
    precision: str = field(
        default="auto",
        metadata={
            "help": "bfloat16: autocast over float32 weights; float32; auto: bfloat16 where the device computes in it",
            "choices": ["auto", "bfloat16", "float32"],
        },
    )

    def __post_init__(self) -> None:
        """Check the losses' settings and choose the precision before TrainingArguments sees them."""
        self.check_losses()
        self.check_corruption()
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"precision must be auto, bfloat16 or float32, got {self.precision!r}")
        if str(self.hub_strategy) not in ("end", "HubStrategy.END"):
            raise ValueError(f"hub_strategy must be end: checkpoints are not pushed, got {self.hub_strategy!r}")
        if self.sampler not in ("random", "identity"):
            raise ValueError(f"sampler must be random or identity, got {self.sampler!r}")
        for name in ("cached_batch_size", "captions_per_identity"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.precision == "bfloat16" or (self.precision == "auto" and not self.fp16 and computes_bfloat16(on_gpu)):
            self.bf16 = True
            self.use_cpu = self.use_cpu or not on_gpu  # TrainingArguments allows bf16 on a CPU only when told so
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Leave tokens out of what is pickled: the Trainer writes its arguments beside every checkpoint."""
        return {name: None if name in SECRETS else value for name, value in self.__dict__.items()}


def computes_bfloat16(on_gpu: bool) -> bool:
    """Tell whether the GPU, or else the CPU, has instructions for bfloat16 (emulating them would be slow)."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class QuietArgumentParser(HfArgumentParser):
    """A parser whose errors are one sentence instead of three hundred lines of usage."""

    def error(self, message: str):
        """Raise InputError.

        Raises:
            InputError: Always. Of options that nobody knows only the names are told: their values may be secret.
        """
        if any(f"--{name}" in message for name in SECRETS):
            message = re.sub(r": .*", ": its value is not accepted", message, count=1, flags=re.DOTALL)
        raise InputError(f"{without_values(message, list(self._option_string_actions))} (--help lists all settings)")


def read_config(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file of settings.

    Args:
        path: The file.
        known: Names of all settings there are.

    Raises:
        InputError: If the file is missing, is no mapping, or has a key that nobody knows.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"the config {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the config {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"the config {path} must be a list of 'setting: value' lines")
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; --help lists all settings"
            raise InputError(f"the config {path} has an unknown setting '{name}'{hint}")
    return content


def config_default(path: str | Path, action: argparse.Action, hint: Any, value: Any) -> Any:
    """Turn a YAML value into what the command line would have made of it.

    Args:
        path: The config, for messages.
        action: What the command line does with the setting.
        hint: Type of the setting.
        value: As the YAML file has it.

    Raises:
        InputError: If a list stands where one value is wanted, or the other way round, a value has the wrong type, or
            there is none where one is needed.
    """
    shown = "a value" if action.dest in SECRETS else repr(value)

    def convert(item: Any) -> Any:
        if action.type is None:
            return item
        try:
            return action.type(str(item))  # type: ignore[operator]
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            kind = getattr(action.type, "__name__", "value").replace("string_to_bool", "true or false")
            raise InputError(f"the config {path} sets {action.dest} to {item!r}, which is not {kind}") from error

    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hint) or (hint,)]
    if isinstance(value, dict) and dict in kinds:
        return value
    if value is None:
        if type(None) in kinds:
            return None
        raise InputError(f"the config {path} leaves {action.dest} empty, but it needs a value")
    wants_list = action.nargs in ("+", "*")
    if isinstance(value, list) != wants_list or isinstance(value, dict):
        wanted = "a list" if wants_list else "one value"
        raise InputError(f"the config {path} sets {action.dest} to {shown}, but it must be {wanted}")
    converted = [convert(item) for item in value] if wants_list else convert(value)
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"the config {path} sets {action.dest} to {value!r}, which is not one of {choices}")
    return converted


def parse_arguments(
    arguments: Sequence[str] | None = None,
    classes: Sequence[Any] = (ModelArguments, DataArguments, CFFATrainingArguments),
) -> tuple[Any, ...]:
    """Read `--config FILE` and the command line into the argument classes.

    Args:
        arguments: Command line without the program's name; None: that of the process.
        classes: Dataclasses to fill.

    Returns:
        One instance of each class.

    Raises:
        InputError: One sentence that names the setting and the file.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = QuietArgumentParser((), add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    config, rest = first.parse_known_args(words)
    parser = QuietArgumentParser(classes, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with settings; the command line wins")
    if config.config is not None:
        actions = {action.dest: action for action in reversed(parser._actions)}
        settings = read_config(config.config, [name for name in actions if name not in ("help", "config")])
        hints = {name: hint for kind in classes for name, hint in typing.get_type_hints(kind).items()}
        values = {
            name: config_default(config.config, actions[name], hints[name], value) for name, value in settings.items()
        }
        parser.set_defaults(**values)
        for name in values:
            actions[name].required = False
    try:
        *filled, unknown = parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return tuple(filled[: len(classes)])
    except (ValueError, ImportError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(" ".join(str(error).split())) from error
