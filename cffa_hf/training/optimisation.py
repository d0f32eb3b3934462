"""Which parameters learn at which rate, and when."""

import math
from typing import Any

from torch import nn

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.modeling_cffa import CFFAForPreTraining
from cffa_hf.training.lora import training_model


def parameter_groups(model: CFFAForPreTraining, args: CFFATrainingArguments) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups of one learning rate and weight decay each.

    Encoders: the base rate, biases twice that. Cross-modal attention and layers: five times, their biases twice. Classifier
    and MLM head: five times, biases too. Local features: a rate of their own. No bias decays.

    Args:
        model: The training model, not wrapped except by PEFT.
        args: Rates, factors and the decay.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name` (which part of the model, weights or biases).
    """
    model = training_model(model)
    cross_modal: set[int] = set()
    if model.cross_modal is not None:
        norms = (model.cross_modal.text_norm, model.cross_modal.image_norm, model.cross_modal.post_norm)
        cross_modal = {id(parameter) for parameter in model.cross_modal.parameters()}
        cross_modal -= {id(parameter) for norm in norms for parameter in norm.parameters()}
    refinement = parameters_of(model.cffa.image_refinement, model.cffa.text_refinement)
    heads = parameters_of(model.identity_classifier, model.mlm_head)

    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.rpartition(".")[2] == "bias"
        part, rate = "encoders", args.learning_rate * (args.bias_rate_factor if is_bias else 1.0)
        if id(parameter) in refinement:
            part, rate = "refinement", args.refinement_learning_rate
        elif id(parameter) in heads:
            part, rate = "heads", args.learning_rate * args.head_rate_factor
        elif id(parameter) in cross_modal:
            factor = args.bias_rate_factor if is_bias else args.head_rate_factor
            part, rate = "cross_modal", args.learning_rate * factor
        kind = f"{part}_{'biases' if is_bias else 'weights'}"
        decay = 0.0 if is_bias else args.weight_decay
        group = groups.setdefault(kind, {"params": [], "lr": rate, "weight_decay": decay, "name": kind})
        group["params"].append(parameter)
    return list(groups.values())


def parameters_of(*modules: nn.Module | None) -> set[int]:
    """Identify the parameters of modules, some of which may be switched off."""
    return {id(parameter) for module in modules if module is not None for parameter in module.parameters()}


def warmup_cosine_factor(epoch: float, *, warmup_epochs: float, total_epochs: float, warmup_start: float) -> float:
    """Factor of the learning rate: linear from `warmup_start` to 1, then a half cosine to 0.

    Args:
        epoch: Epochs done, fractions included.
        warmup_epochs: Length of the linear part.
        total_epochs: Where the cosine reaches 0.
        warmup_start: Factor at the first step.
    """
    if epoch < warmup_epochs:
        return warmup_start + (1 - warmup_start) * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / max(total_epochs - warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
