"""Layers for a CPU: they compute what the stock ones do, in less time. Published models do without them.

All have the weights, the names and the results of the layers they stand for; where a fast road is not open (another
device, another type, a compiler at work), they take the stock one.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPAttention

from cffa_hf.matrix_product import ONEDNN, ONEDNN_OPERATIONS, onednn_linear


class OneDNNLinear(torch.autograd.Function):
    """Linear map whose three matrix products, forward and backward, run in oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute `x @ weight.T + bias`."""
        x = x.contiguous()  # CLS tokens, for one, are rows that lie apart
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias that are wanted."""
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        to_x = onednn_linear(gradient, weight.T) if for_x else None
        to_weight = to_bias = None
        if for_weight:
            rows, inputs = gradient.flatten(0, -2).to_mkldnn(), x.flatten(0, -2).to_mkldnn()
            to_weight, bias = torch.ops.aten.mkldnn_linear_backward_weights(rows, inputs, weight, for_bias)
            to_bias = bias if for_bias else None
        elif for_bias:
            to_bias = gradient.flatten(0, -2).sum(dim=0)
        return to_x, to_weight, to_bias


class Linear(nn.Linear):
    """A linear layer; large float32 products on the CPU run in oneDNN instead of MKL."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in)` to `(..., out)`."""
        if (
            ONEDNN
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.dim() > 1
            and x.numel() * self.out_features >= ONEDNN_OPERATIONS
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
        ):
            return OneDNNLinear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class RecomputedAttention(torch.autograd.Function):
    """Attention without mask whose weights are computed again for the backward pass instead of being kept.

    Shapes: queries, keys and values `(B, heads, N, d)`.
    """

    @staticmethod
    def weights(queries: Tensor, keys: Tensor) -> Tensor:
        """Compute attention weights `(B, heads, N, N)`; queries are scaled."""
        return (queries @ keys.transpose(-1, -2)).softmax(dim=-1)

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return `(B, heads, N, d)`."""
        with torch.autocast("cpu", enabled=False):
            queries = queries * queries.shape[-1] ** -0.5
            ctx.save_for_backward(queries, keys, values)
            return RecomputedAttention.weights(queries, keys) @ values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values."""
        queries, keys, values = ctx.saved_tensors
        weights = RecomputedAttention.weights(queries, keys)
        to_weights = gradient @ values.transpose(-1, -2)
        to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_queries = (to_scores @ keys) * queries.shape[-1] ** -0.5
        return to_queries, to_scores.transpose(-1, -2) @ queries, weights.transpose(-1, -2) @ gradient


class ImageAttention(CLIPAttention):
    """CLIP's attention among image tokens, recomputed under bf16 autocast on the CPU, where the fused one is slow."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs):
        """Return attended states `(B, N, width)`, and the weights if the chosen implementation keeps them."""
        if (
            hidden_states.device.type != "cpu"
            or not torch.is_autocast_enabled("cpu")
            or torch.get_autocast_dtype("cpu") != torch.bfloat16
            or self.config._attn_implementation != "sdpa"
            or attention_mask is not None
            or (self.training and self.dropout)
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return super().forward(hidden_states, attention_mask, **kwargs)
        heads = [
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        return self.out_proj(RecomputedAttention.apply(*heads).transpose(1, 2).flatten(2)), None


def use_cpu_layers(model: nn.Module) -> list[tuple[nn.Module, type[nn.Module]]]:
    """Let the linear layers and the image attention of a model take the fast roads of this file, in place.

    Returns:
        Each layer that was changed, with the class that it had; `restore_layers` takes them.
    """
    changed: list[tuple[nn.Module, type[nn.Module]]] = []
    for module in model.modules():
        stock = type(module)
        if stock is nn.Linear:
            module.__class__ = Linear
        elif stock is CLIPAttention and isinstance(module.config, CLIPVisionConfig):
            module.__class__ = ImageAttention
        if type(module) is not stock:
            changed.append((module, stock))
    return changed


def restore_layers(changed: Iterable[tuple[nn.Module, type[nn.Module]]]) -> None:
    """Undo `use_cpu_layers`.

    Args:
        changed: What it returned.
    """
    for module, stock in changed:
        module.__class__ = stock
