"""Config and weights of a folder in Hugging Face format, read without running anything that it may hold."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import CLIPConfig, PreTrainedModel

from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.names import quote
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError, one_line
from cffa_hf.json_files import read_object

CONFIG = "config.json"
CONFIG_CLASSES = {"cffa": CFFAConfig, "clip": CLIPConfig}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Either may be split into shards, which `NAME.index.json` lists; the first one that is there is read."""
HEADS = ("identity_classifier", "cross_modal", "mlm_head")
"""Modules that only the training model has."""

MOST_LAYERS = 1000
MOST_UNITS = 10**7  # of anything else that a config counts: widths, ids, pixels
DTYPES = ("float32", "float16", "bfloat16", "float64")
ATTENTIONS = ("eager", "sdpa", "flex_attention")
# They make the library read other files, replace layers or load compiled code.
FOREIGN_SETTINGS = ("quantization_config", "fusion_config", "kernel_config", "distributed_config", "per_layer_config")


@dataclass
class FolderCheckpoint:
    """What a folder in Hugging Face format holds.

    Attributes:
        folder: Where its files lie.
        commit: Commit on the Hub; None for a folder of this machine.
        config: Its configuration.
        weights: By the names in its files, as they are stored.
    """

    folder: Path
    commit: str | None
    config: Any
    weights: dict[str, Tensor]


def read_checkpoint(name: str | Path, kinds: Sequence[str] = ("cffa",)) -> FolderCheckpoint:
    """Read config and weights of a folder, or of a model on the Hub, whose weights are fetched if it is of a known kind.

    Args:
        name: Folder, or name on the Hub.
        kinds: The `model_type` that may be in its config.

    Raises:
        InputError: If it is not there, of another kind, damaged, or asks for code.
    """
    folder, commit = find_folder(name)
    config = read_config(folder, kinds)
    if commit is not None:
        fetch_weights(str(name), commit)
    return FolderCheckpoint(folder, commit, config, read_weights(folder))


def find_folder(name: str | Path) -> tuple[Path, str | None]:
    """Return the folder of a model or tokenizer and, if it is on the Hub, its commit; weights are not downloaded.

    Raises:
        InputError: If it is neither here nor there.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    try:
        downloaded = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.txt"]))
    except LocalEntryNotFoundError as error:
        forbidden = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE forbids to ask the Hub" if forbidden else "the Hub could not be reached"
        remedy = "name a folder, or download it once while there is a network"
        raise InputError(f"{name}: no folder here, not in the cache, and {why}; {remedy}.") from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise InputError(f"{name}: neither a folder here nor a model that the Hub has.") from error
    return downloaded, downloaded.name


def fetch_weights(name: str, commit: str) -> None:
    """Download the weights of a model on the Hub beside its config: safetensors, or else what torch pickled.

    Raises:
        InputError: If they cannot be downloaded.
    """
    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=["model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            snapshot_download(name, revision=commit, allow_patterns=["pytorch_model*.bin"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{name}: its weights cannot be downloaded from the Hub; try again later.") from error


def read_config(folder: Path, kinds: Sequence[str] = ("cffa",)) -> Any:
    """Read the configuration of a model, whose code is this package's or the library's own in any case.

    Args:
        folder: With a `config.json`; files of code beside it, and an `auto_map` that names them, play no role.
        kinds: The `model_type` that may be in it.

    Returns:
        A CFFAConfig, or a CLIPConfig where that is allowed.

    Raises:
        InputError: If there is none, or it is of another model, makes none, or asks for code.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}, so this is no checkpoint; give the folder that has one.")
    values = read_object(folder / CONFIG)
    kind: Any = values.get("model_type")
    if kind not in kinds:
        held = f"a {re.sub(r'[^a-zA-Z0-9_.-]', '?', kind)[:60]} model" if isinstance(kind, str) else "no model"
        known = " or ".join(name.upper() for name in kinds)
        raise InputError(f"{folder} holds {held} by its {CONFIG}, and no {known} model; give the folder of one.")
    for problem in _problems(values):
        raise InputError(f"{folder}: the {CONFIG} is refused, because {problem}; get the file again.")
    try:
        return CONFIG_CLASSES[kind].from_dict(values)
    except Exception as error:  # whatever a wrong value may raise in the library
        raise _no_model(folder, error) from error


def _problems(values: Mapping[str, Any], part: str = "") -> Iterator[str]:
    """Say which settings of a config are absurd or would load something outside it."""
    for name, value in values.items():
        label = f"{part}{str(name)[:60]!r}"
        if isinstance(value, Mapping) and name.startswith(("text_config", "vision_config")):
            yield from _problems(value, f"{name} ")
        elif name in FOREIGN_SETTINGS and value is not None:
            yield f"it sets {label}, which no model of this package has"
        elif "attn_implementation" in name or "experts_implementation" in name:
            if value is not None and not isinstance(value, bool) and value not in ATTENTIONS:
                yield f"{label} is none of {', '.join(ATTENTIONS)} and could load code"
        elif name in ("dtype", "torch_dtype"):
            if value is not None and str(value).removeprefix("torch.") not in DTYPES:
                yield f"{label} is none of {', '.join(DTYPES)}"
        elif name == "layer_norm_eps" and not (isinstance(value, float | int) and 0 < value < 1):
            yield f"{label} is not between 0 and 1"
        elif name == "num_channels" and value != 3:
            yield f"{label} is not 3, the colours of an image"
        else:
            numbers = value if isinstance(value, list) else [value]
            most = MOST_LAYERS if "layers" in name else MOST_UNITS
            if any(isinstance(number, float | int) and not abs(number) <= most for number in numbers):
                yield f"{label} is beyond {most:,}"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder; those of safetensors files are mapped, and read when they are used.

    Raises:
        InputError: If there are none, or they are damaged, incomplete, a pickle that wants more, or not finite.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_state_dict(path)
    check_finite(weights, folder)
    return weights


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights of a folder: one, or its shards.

    Raises:
        InputError: If there are none, or one of them is missing.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise InputError(f"{folder}: there are no weights ({WEIGHT_FILES[0]}); train first, or give another folder.")


def _shards(index: Path) -> list[Path]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} names no files of weights; get the file again.")
    shards = [index.parent / name for name in sorted(set(places.values()))]
    for shard in shards:
        if shard.parent != index.parent or shard.suffix not in (".safetensors", ".bin"):
            raise InputError(
                f"{index} names {shard.name!r}, which is no file of weights beside it; get the file again."
            )
        if not shard.is_file():
            raise InputError(f"{index.parent}: the weights are incomplete, {shard.name} is missing; get that file.")
    return shards


def check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        weights: By name.
        source: What the message calls their checkpoint.

    Raises:
        InputError: If a weight is NaN or infinite.
    """
    for name, value in weights.items():
        if not value.is_floating_point() or not value.numel():
            continue
        # The extremes carry NaN along; they take a thirtieth of the time that a test of every number takes.
        ends = (value if value.element_size() > 1 else value.float()).aminmax()
        if not all(math.isfinite(end) for end in ends):
            raise InputError(
                f"{source}: the weight {quote([name])} is not finite (NaN or infinite), so the model was broken when it "
                "was saved; give an earlier checkpoint."
            )


def check_weights(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are not exactly those that a config asks for.

    Args:
        wanted: Those of the model; only their shapes and types count.
        found: Those of the checkpoint.
        source: What the message calls the checkpoint.

    Raises:
        InputError: If one is missing, unknown, or of another size or type.
    """
    if differences := weight_differences(wanted, found):
        raise InputError(f"{source}: the weights do not fit its {CONFIG}: {differences}; give a complete checkpoint.")


def weight_differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say which weights are missing, of another size or type, and unknown; nothing if there are none."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    others = [name for name in wanted if name in found and not _fits(wanted[name], found[name])]
    told = [f"{len(missing)} of {len(wanted)} missing ({quote(missing)})"] if missing else []
    if others:
        sizes = " instead of ".join(_size(weights[others[0]]) for weights in (found, wanted))
        told.append(f"{len(others)} of another size or type ({quote(others)}, the first {sizes})")
    told += [f"{len(unknown)} unknown ({quote(unknown)})"] if unknown else []
    return ", ".join(told)


def _fits(wanted: Tensor, found: Tensor) -> bool:
    """Tell whether a weight has the shape wanted and is of a like type; floats of 8 bits are scaled elsewhere."""
    alike = wanted.is_floating_point() == found.is_floating_point() and found.element_size() > 1
    return alike and wanted.shape == found.shape


def _size(weight: Tensor) -> str:
    return f"{' x '.join(map(str, weight.shape)) or 'a number'} of {str(weight.dtype).removeprefix('torch.')}"


def empty_weights(model_class: type[PreTrainedModel], config: Any, folder: Path) -> dict[str, Tensor]:
    """Name the weights of a model, with their shapes; no memory is taken for them.

    Raises:
        InputError: If the configuration makes no model.
    """
    try:
        with torch.device("meta"):
            return model_class(config).state_dict()
    except Exception as error:  # whatever a wrong value may raise in the library
        raise _no_model(folder, error) from error


def _no_model(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: its {CONFIG} makes no model ({one_line(error.__cause__ or error, 200)}); get the file again."
    )
