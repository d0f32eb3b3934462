"""Big batches on small devices: the exact gradient of a whole batch at the memory of a small part of it.

The encoders run chunk by chunk, first without a graph. The tokens that they choose are small: refinement (whose batch
norm wants the whole batch) and alignment losses run once on all of them, which gives a gradient for every token. Then
each chunk is encoded again, with a graph and the same dropout, and passes that gradient on. Identity loss and masked
language modelling are sums over pairs and need no cache.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021 (GradCache), which
caches final features; here it is the tokens before the refinement, so that batch norm stays exact.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cffa_hf.modeling_cffa import CFFAOutput, ChosenTokens
from cffa_hf.training.batch_loss import of_the_model
from cffa_hf.training.lora import training_model

Pair = tuple[Tensor, Tensor]
GLOBAL, CHOSEN = ("text_global", "image_global"), ("text_chosen", "image_chosen")
"""Fields of the model's output: together all that the alignment of a batch depends on."""


def random_state(device: torch.device) -> list[Tensor]:
    """Read the generators that dropout on a device draws from."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def set_random_state(device: torch.device, states: list[Tensor]) -> None:
    """Restore what `random_state` read."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


def joined(parts: list[ChosenTokens]) -> ChosenTokens:
    """Concatenate the chosen tokens of chunks `(b, k, D)`; where one has fewer, they are padded."""

    def padded(name: str) -> Tensor:
        return pad_sequence([row for part in parts for row in getattr(part, name)], batch_first=True)

    kept = None if parts[0].kept is None else padded("kept")
    return ChosenTokens(padded("tokens"), padded("positions"), kept)


def with_gradient(features: Mapping[str, Any]) -> list[Tensor]:
    """List what a gradient flows through: global features and chosen tokens, those of texts first."""
    return [*(features[name] for name in GLOBAL), *(features[name].tokens for name in CHOSEN if name in features)]


def encoded_without_graph(
    model: nn.Module, chunks: list[dict[str, Any]], device: torch.device
) -> tuple[list[Any], dict[str, Any]]:
    """Encode all chunks.

    Returns:
        The random state before each chunk, and the fields `GLOBAL` and `CHOSEN` of the whole batch, as leaves of a graph.
    """
    states, parts = [], []
    names = ("input_ids", "attention_mask", "pixel_values")
    for chunk in chunks:
        states.append(random_state(device))
        with torch.no_grad():
            output = model(**{name: chunk[name] for name in names if name in chunk}, refine=False)
        parts.append({name: output[name] for name in (*GLOBAL, *CHOSEN) if name in output})
    whole = {
        name: torch.cat([part[name] for part in parts]) if name in GLOBAL else joined([part[name] for part in parts])
        for name in parts[0]
    }
    for tensor in with_gradient(whole):
        tensor.requires_grad_()
    return states, whole


def cached_backward(
    model: nn.Module,
    inputs: dict[str, Any],
    chunk_size: int,
    *,
    alignment: Callable[[Pair, Pair | None], dict[str, Tensor]],
    predictions: Callable[[CFFAOutput, dict[str, Any]], dict[str, Tensor]],
    accelerator: Accelerator,
    divisor: float,
) -> dict[str, Tensor]:
    """Add the gradient of a whole batch to the parameters, holding the graph of one chunk at a time.

    Args:
        model: The training model, perhaps wrapped for distributed training.
        inputs: What its forward takes, each `(B, ...)`, and what `predictions` and the loss take.
        chunk_size: Pairs encoded at once.
        alignment: Terms of the loss that need the whole batch, from global and local features of texts and images.
        predictions: Terms that add up over chunks, from a chunk's output and its slice of `inputs`.
        accelerator: Knows precision, scale of the gradient and other processes.
        divisor: What the terms are divided by before the gradient is computed: batches accumulated in one step.

    Returns:
        The terms of the whole batch, detached.
    """
    chunks = [
        {name: value[start : start + chunk_size] for name, value in inputs.items()}
        for start in range(0, len(inputs["input_ids"]), chunk_size)
    ]
    device = inputs["input_ids"].device
    states, whole = encoded_without_graph(model, chunks, device)
    trunk = training_model(accelerator.unwrap_model(model)).cffa
    refinements = [part for part in (trunk.text_refinement, trunk.image_refinement) if part is not None]
    with accelerator.autocast():
        local = [refine(whole[name]) for refine, name in zip(refinements, CHOSEN, strict=False)]
    terms = alignment((whole["text_global"], whole["image_global"]), (local[0], local[1]) if local else None)
    with accelerator.no_sync(model):
        accelerator.backward(torch.stack(list(terms.values())).sum() / divisor)
    terms = {name: value.detach() for name, value in terms.items()}

    scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
    lengths = [len(chunk["input_ids"]) for chunk in chunks]
    gradients = [
        (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.float() / scale).split(lengths)
        for tensor in with_gradient(whole)
    ]
    for index, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        set_random_state(device, state)
        with nullcontext() if index == len(chunks) - 1 else accelerator.no_sync(model):
            output = model(**of_the_model(chunk), refine=False)
            # Distributed training waits for the gradient of every parameter in the backward pass of the last chunk.
            surrogate = sum(0.0 * weight.sum() for part in refinements for weight in part.parameters())
            for tensor, gradient in zip(with_gradient(output), gradients, strict=True):
                # Words behind the longest caption of the chunk are padding of the whole batch.
                surrogate = surrogate + (tensor.float() * gradient[index][:, : tensor.shape[1]]).sum()
            of_chunk = predictions(output, chunk)
            accelerator.backward(sum(of_chunk.values(), start=torch.zeros((), device=device)) / divisor + surrogate)
        for name, value in of_chunk.items():
            terms[name] = terms.get(name, 0.0) + value.detach()
        del output, surrogate, of_chunk, tensor
    return terms
