"""Big batches on small devices: the exact gradient of a whole batch at the memory of a small part of it.

The encoders run chunk by chunk, first without a graph. The tokens that they choose are small: refinement (whose batch
norm wants the whole batch) and alignment losses run once on all of them, which gives a gradient for every token. Then
each chunk is encoded again, with a graph and the same dropout, and passes that gradient on. Identity loss and masked
language modelling are sums over pairs and need no cache.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021 (GradCache), which
caches final features; here it is the tokens before the refinement, so that batch norm stays exact.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAOutput, FineGrainedRefinement
from cffa_hf.training.batch_loss import of_the_model


@dataclass
class ChosenTokens:
    """What the encoders hand on to refinement and losses: all that the alignment of a batch depends on.

    Args:
        text_global: `(B, D)`.
        image_global: `(B, D)`.
        text_tokens: Most salient words, `(B, k, D)`; None without FLFR.
        image_tokens: Most salient patches, `(B, k, D)`; None without FLFR.
        text_kept: Which of the words are real, `(B, k)`; None without FLFR.
    """

    text_global: Tensor
    image_global: Tensor
    text_tokens: Tensor | None = None
    image_tokens: Tensor | None = None
    text_kept: Tensor | None = None

    def with_gradient(self) -> list[Tensor]:
        """List the tensors that a gradient flows through."""
        tensors = (self.text_global, self.image_global, self.text_tokens, self.image_tokens)
        return [tensor for tensor in tensors if tensor is not None]

    def refined(self, model: CFFAForPreTraining) -> tuple[Tensor, Tensor] | None:
        """Make the local features of texts and images, each `(B, F)`, with the model's refinement."""
        refine_text, refine_image = model.cffa.text_refinement, model.cffa.image_refinement
        if self.text_tokens is None or self.image_tokens is None or self.text_kept is None:
            return None
        if refine_text is None or refine_image is None:
            return None
        # All tokens here were chosen already: with equal saliency, all are chosen again.
        text = refine_text(self.text_tokens, self.text_kept.float(), self.text_kept)
        image = refine_image(self.image_tokens, self.image_tokens.new_zeros(self.image_tokens.shape[:2]))
        return text, image


@dataclass
class Recorder:
    """Takes the place of refinement in a chunk and keeps the tokens that it would have refined.

    Args:
        tokens: Of images and then of texts, `(b, k, D)` each.
        kept: Which of them are real, `(b, k)`, or None where all are.
        untouched: Sums of nothing that keep the parameters of the refinement in the graph.
    """

    tokens: list[Tensor] = field(default_factory=list)
    kept: list[Tensor | None] = field(default_factory=list)
    untouched: list[Tensor] = field(default_factory=list)

    def __call__(
        self, refinement: FineGrainedRefinement, tokens: Tensor, saliency: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Choose tokens as `FineGrainedRefinement` does and return a local feature of zeros, `(b, F)`."""
        chosen, kept = refinement.select(saliency, mask)
        self.tokens.append(tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1])))
        self.kept.append(kept)
        # Distributed training waits for the gradient of every parameter in the backward pass of the last chunk.
        nothing = [0.0 * parameter.sum() for parameter in refinement.parameters()]
        self.untouched.append(torch.stack(nothing).sum())
        return tokens.new_zeros(len(tokens), refinement.linear.out_features)

    def chosen(self, output: CFFAOutput) -> ChosenTokens:
        """Collect what a chunk hands on; `output` is that of the model."""
        if output.text_global is None or output.image_global is None:
            raise ValueError("the model gave no features")
        if not self.tokens:
            return ChosenTokens(output.text_global, output.image_global)
        return ChosenTokens(output.text_global, output.image_global, self.tokens[1], self.tokens[0], self.kept[1])


@contextmanager
def recorded_refinement(model: nn.Module) -> Iterator[Recorder]:
    """Put a recorder in the place of a model's refinement modules, and them back afterwards."""
    recorder = Recorder()
    modules = [module for module in model.modules() if isinstance(module, FineGrainedRefinement)]
    for module in modules:
        module.forward = partial(recorder, module)  # type: ignore[method-assign]
    try:
        yield recorder
    finally:
        for module in modules:
            del module.forward


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
    """Concatenate the chunks of a batch as leaves of a new graph; captions' words are padded to the longest."""
    whole = ChosenTokens(
        torch.cat([part.text_global for part in parts]), torch.cat([part.image_global for part in parts])
    )
    images = [part.image_tokens for part in parts if part.image_tokens is not None]
    texts = [(part.text_tokens, part.text_kept) for part in parts]
    words = [(tokens, kept) for tokens, kept in texts if tokens is not None and kept is not None]
    if images:
        longest = max(tokens.shape[1] for tokens, _ in words)
        whole.image_tokens = torch.cat(images)
        whole.text_tokens = torch.cat([F.pad(tokens, (0, 0, 0, longest - tokens.shape[1])) for tokens, _ in words])
        whole.text_kept = torch.cat([F.pad(kept, (0, longest - kept.shape[1])) for _, kept in words])
    for tensor in whole.with_gradient():
        tensor.requires_grad_()
    return whole


def encoded_without_graph(
    model: nn.Module, chunks: list[dict[str, Any]], device: torch.device
) -> tuple[list[Any], ChosenTokens]:
    """Encode all chunks, keeping what the encoders hand on and the random state before each chunk."""
    states, parts = [], []
    names = ("input_ids", "attention_mask", "pixel_values")
    for chunk in chunks:
        states.append(random_state(device))
        with torch.no_grad(), recorded_refinement(model) as recorder:
            output = model(**{name: chunk[name] for name in names if name in chunk})
        parts.append(recorder.chosen(output))
    return states, joined(parts)


def cached_backward(
    model: nn.Module,
    inputs: dict[str, Any],
    chunk_size: int,
    *,
    batch_terms: Callable[[ChosenTokens], dict[str, Tensor]],
    chunk_terms: Callable[[CFFAOutput, dict[str, Any]], dict[str, Tensor]],
    backward: Callable[[Tensor], None],
    backward_scale: Callable[[], float],
    divisor: float,
    without_sync: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """Add the gradient of a whole batch to the parameters, holding the graph of one chunk at a time.

    Args:
        model: The training model, perhaps wrapped for distributed training.
        inputs: What its forward takes, each `(B, ...)`, and what `chunk_terms` and the loss take.
        chunk_size: Pairs encoded at once.
        batch_terms: Terms of the loss that need the whole batch, from what the encoders hand on.
        chunk_terms: Terms that add up over chunks, from a chunk's output and its slice of `inputs`.
        backward: Computes the gradient of a scalar; it may scale it.
        backward_scale: By how much it scales.
        divisor: What the terms are divided by before the gradient is computed: batches accumulated in one step.
        without_sync: Context in which gradients are not exchanged with other processes.

    Returns:
        The terms of the whole batch, detached.
    """
    chunks = [
        {name: value[start : start + chunk_size] for name, value in inputs.items()}
        for start in range(0, len(inputs["input_ids"]), chunk_size)
    ]
    device = inputs["input_ids"].device
    states, whole = encoded_without_graph(model, chunks, device)
    terms = batch_terms(whole)
    with without_sync():
        backward(torch.stack(list(terms.values())).sum() / divisor)
    terms = {name: value.detach() for name, value in terms.items()}

    scale = backward_scale()
    lengths = [len(chunk["input_ids"]) for chunk in chunks]
    gradients = [
        (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.float() / scale).split(lengths)
        for tensor in whole.with_gradient()
    ]
    for index, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        set_random_state(device, state)
        with nullcontext() if index == len(chunks) - 1 else without_sync():
            with recorded_refinement(model) as recorder:
                output = model(**of_the_model(chunk))
            surrogate = sum(recorder.untouched, start=torch.zeros((), device=device))
            for tensor, gradient in zip(recorder.chosen(output).with_gradient(), gradients, strict=True):
                # Words behind the longest caption of the chunk are padding of the whole batch.
                surrogate = surrogate + (tensor.float() * gradient[index][:, : tensor.shape[1]]).sum()
            of_chunk = chunk_terms(output, chunk)
            backward(sum(of_chunk.values(), start=torch.zeros((), device=device)) / divisor + surrogate)
        for name, value in of_chunk.items():
            terms[name] = terms.get(name, 0.0) + value.detach()
        del output, recorder, surrogate, of_chunk, tensor
    return terms
