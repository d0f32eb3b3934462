"""Which type of number a device computes in: decided here for training and for inference."""

import torch

from cffa_hf.errors import InputError
from cffa_hf.names import INFERENCE_PRECISIONS


def computes_bfloat16(device: str | torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16; emulating them would be slow.

    Args:
        device: As torch names it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(precision: str, weights: torch.dtype, device: str | torch.device) -> str:
    """Say what inference computes in.

    Args:
        precision: "auto", "float32" or "bfloat16".
        weights: Type of the model's weights.
        device: Where they are.

    Returns:
        "bfloat16" where that is asked for, or for "auto" where the device computes in it; else the type of the weights:
        "float32", but for models that were saved in half precision.

    Raises:
        InputError: If there is no such precision, or these weights or this device do not go with it.
    """
    if precision not in INFERENCE_PRECISIONS:
        raise InputError(f"The precision must be auto, float32 or bfloat16, not {precision!r}.")
    own = str(weights).removeprefix("torch.")
    if weights != torch.float32:
        if precision == "bfloat16" and precision != own:
            raise InputError(f"This model has {own} weights and does not compute in bfloat16; set precision to auto.")
        return own
    if precision == "bfloat16" and not torch.amp.is_autocast_available(torch.device(device).type):
        raise InputError(f"The device {str(device)!r} has no bfloat16; set precision to float32.")
    return "bfloat16" if precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device)) else own
