"""A model in evaluation, and back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from cffa_hf.cpu_layers import restore_layers, use_cpu_layers


@dataclass
class _Visit:
    """A model that somebody evaluates at the moment, and what it was before."""

    training: bool
    changed: list[tuple[nn.Module, type[nn.Module]]]
    visitors: int = 0


_LOCK = threading.Lock()
_VISITS: dict[int, _Visit] = {}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation without gradients, and back; on a CPU with the layers of `cffa_hf.cpu_layers`.

    Several threads may evaluate one model: the first one that comes switches, the last one that leaves switches back.
    """
    with _LOCK:
        visit = _VISITS.get(id(model)) or _begin(model)
        visit.visitors += 1
    try:
        with torch.inference_mode():
            yield
    finally:
        with _LOCK:
            visit.visitors -= 1
            if not visit.visitors:
                del _VISITS[id(model)]
                restore_layers(visit.changed)
                model.train(visit.training)


def _begin(model: nn.Module) -> _Visit:
    on_cpu = any(parameter.device.type == "cpu" for parameter in model.parameters())
    visit = _VISITS[id(model)] = _Visit(model.training, use_cpu_layers(model) if on_cpu else [])
    model.eval()
    return visit
