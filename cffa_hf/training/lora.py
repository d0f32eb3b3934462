"""LoRA through PEFT: small trained matrices beside the frozen encoders; local features and heads are trained whole."""

import copy
import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cffa_hf.errors import InputError, one_line
from cffa_hf.files import write_tensors
from cffa_hf.modeling_cffa import CFFAForPreTraining

TARGETS = ("q_proj", "v_proj")
"""Linear layers of both encoders that get an adapter unless `target_modules` says otherwise."""
TRAINED_WHOLE = ("image_refinement", "text_refinement", "identity_classifier", "cross_modal", "mlm_head")
ADAPTER_FOLDER = "adapter"
"""Where a published folder holds the adapter that was merged into its weights."""


def add_lora(model: CFFAForPreTraining, settings: dict[str, Any], base_name: str | None = None) -> nn.Module:
    """Freeze the encoders and put LoRA beside their projections.

    Args:
        model: The training model.
        settings: Fields of `peft.LoraConfig`. `target_modules` are names of linear layers within the encoders (default:
            q_proj and v_proj), or a regular expression over all names as PEFT takes it; `modules_to_save` are trained
            whole (default: local features and heads).
        base_name: Where the frozen weights came from; the adapter remembers it.

    Returns:
        A `peft.PeftModel`.

    Raises:
        InputError: If peft is missing, a setting is unknown, or no layer has a target's name.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("lora needs the package peft: pip install 'cffa_hf[lora]'.") from error
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    if unknown := sorted(set(settings) - known):
        raise InputError(f"lora has an unknown setting '{unknown[0]}'; peft.LoraConfig lists all.")
    targets = settings.get("target_modules", TARGETS)
    if not isinstance(targets, str):
        names = "|".join(re.escape(name) for name in targets)
        targets = rf".*(vision|text)_model\.(.*\.)?({names})"
    whole = [name for name in TRAINED_WHOLE if any(key.endswith(name) for key, _ in model.named_modules())]
    fields = {"modules_to_save": whole, **settings, "target_modules": targets}
    try:
        # PEFT asks for a property that transformers has renamed; no user can change that.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = peft.get_peft_model(model, peft.LoraConfig(**fields))
    except (TypeError, ValueError) as error:
        raise InputError(f"lora: {one_line(error)}.") from error
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def is_adapted(model: nn.Module) -> bool:
    """Tell whether a model carries adapters of PEFT."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def training_model(model: nn.Module) -> CFFAForPreTraining:
    """Return the training model itself, or the one inside PEFT's wrapper."""
    return model.get_base_model() if is_adapted(model) else model  # type: ignore[operator, return-value]


def save_embedding_model(model: nn.Module, output_dir: str | Path, weights: dict[str, Tensor] | None = None) -> None:
    """Save the embedding model without the training heads; adapters are merged, and saved beside it in `adapter/`.

    The adapter fits the embedding model that the run started from: `PeftModel.from_pretrained(CFFAModel..., folder)`.

    Args:
        model: The training model, perhaps with adapters, not wrapped otherwise.
        output_dir: A folder.
        weights: Those of the training model where it does not hold them whole itself (FSDP).
    """
    if not is_adapted(model):
        trunk = training_model(model).cffa
        if weights is not None:
            weights = {name.removeprefix("cffa."): value for name, value in weights.items() if name.startswith("cffa.")}
        trunk.save_pretrained(output_dir, state_dict=weights)
        return
    merged = copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]
    merged.cffa.save_pretrained(output_dir)
    save_embedding_adapter(model, Path(output_dir) / ADAPTER_FOLDER)


def save_embedding_adapter(model: nn.Module, folder: Path) -> None:
    """Save the part of an adapter that belongs to the embedding model, in PEFT's format."""
    import peft

    inner, outer = "base_model.model.cffa.", "base_model.model."
    weights = {
        outer + name.removeprefix(inner): value.contiguous().cpu()
        for name, value in peft.get_peft_model_state_dict(model).items()
        if name.startswith(inner)
    }
    config: Any = copy.deepcopy(model.peft_config["default"])  # type: ignore[index]
    names = {name for name, _ in training_model(model).cffa.named_modules()}
    config.modules_to_save = [name for name in config.modules_to_save or [] if name in names]
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    write_tensors(folder / "adapter_model.safetensors", weights, metadata={"format": "pt"})
