"""The precision of the published results: float16 weights that Adam updates in place, without loss scaling.

At a learning rate of 1e-5 many weights never move then, since float16 has no number between them and their neighbour, while
others, whose second moment falls to 0, move further than in float32: it is another optimiser. The layers here round where the
published implementation rounds, in the order of its operations. That is seen in the weights after a dozen steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPAttention

from cffa_hf.errors import InputError
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAVisionEmbeddings, FineGrainedRefinement, QuickGELU
from cffa_hf.training.lora import is_adapted


class Float32LayerNorm(nn.LayerNorm):
    """Layer norm that is computed in float32 and returns the type of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(..., width)`."""
        return super().forward(input.float()).to(input.dtype)


class Float16Embedding(nn.Embedding):
    """Float32 vectors that are read as float16."""

    def forward(self, input: Tensor) -> Tensor:
        """Look up ids of any shape, `(...)` to `(..., width)`."""
        return super().forward(input).half()


class Float16VisionEmbeddings(CFFAVisionEmbeddings):
    """Patch embedding whose tokens are float16; the class token and the positions are float32 weights."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed normalised images `(B, 3, height, width)` as tokens `(B, 1 + P, width)`."""
        return super().forward(pixel_values).half()


class TwoStepQuickGELU(QuickGELU):
    """CLIP's activation as it is written down, `x * sigmoid(1.702 x)`, with the sigmoid rounded."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the activation to a tensor of any shape."""
        return hidden_states * torch.sigmoid(1.702 * hidden_states)


class FusedProjectionAttention(CLIPAttention):
    """Attention with one product for queries, keys and values, whose gradient is rounded once; the rest is fused too."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, is_causal: bool = False, **kwargs
    ) -> tuple[Tensor, None]:
        """Return attended states `(B, N, width)` of states `(B, N, width)`, and no weights.

        Args:
            hidden_states: `(B, N, width)`.
            attention_mask: Added to the scores, `(B or 1, 1, N or 1, N)`; None: all tokens are seen.
            is_causal: Without a mask: no token sees those behind it.
            **kwargs: Not used.
        """
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        fused = F.linear(hidden_states, weight, bias).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, d)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        attended = self.attend(queries, keys, values, attention_mask, is_causal and attention_mask is None)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attend, each `(B, heads, N, d)`."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout, causal)


class RoundedAttention(FusedProjectionAttention):
    """Attention of the encoders, whose weights the published implementation reads: they are rounded to float16."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attend, each `(B, heads, N, d)`."""
        scores = (queries * self.scale) @ keys.transpose(-1, -2)  # (B, heads, N, N)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        return F.dropout(scores.softmax(dim=-1), self.dropout, self.training) @ values


class RoundedRefinement(FineGrainedRefinement):
    """FLFR whose norms are rounded to float16, and whose maximum among equal values is one of them."""

    @staticmethod
    def normalise(tokens: Tensor, dim: int) -> Tensor:  # type: ignore[override]
        """Scale tokens to unit length along a dimension; zeros stay zeros."""
        length = tokens.pow(2).sum(dim=dim, keepdim=True).sqrt()
        return tokens / length.clamp(min=torch.finfo(tokens.dtype).tiny)

    @staticmethod
    def maximum(refined: Tensor, dim: int) -> Tensor:  # type: ignore[override]
        """Take the maximum along a dimension. In float16 many are equal: one of them gets the gradient."""
        return refined.topk(1, dim=dim).values.squeeze(dim)


LAYERS = {
    nn.LayerNorm: Float32LayerNorm,
    nn.Embedding: Float16Embedding,
    CFFAVisionEmbeddings: Float16VisionEmbeddings,
    QuickGELU: TwoStepQuickGELU,
    CLIPAttention: FusedProjectionAttention,
    FineGrainedRefinement: RoundedRefinement,
}
"""The layer that stands in for each kind; all have the weights and the names of the one they stand for."""


def use_published_precision(model: CFFAForPreTraining) -> None:
    """Give a training model the types of the published weights, and layers that compute with them, in place.

    Float16 are the weights and biases of all linear layers and convolutions, attention and projections among them; norms,
    embeddings and the class token stay float32.

    Raises:
        InputError: If the model has adapters.
    """
    if is_adapted(model):
        raise InputError(
            "lora does not go with precision published, which is about training all weights in float16; leave out lora, or "
            "take precision auto."
        )
    for module in model.modules():
        if type(module) in LAYERS:
            module.__class__ = LAYERS[type(module)]
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
    for encoder in (model.cffa.vision_model, model.cffa.text_model):
        for module in encoder.modules():
            if type(module) is FusedProjectionAttention:
                module.__class__ = RoundedAttention


def float32_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model with float16 weights as float32: every number is kept as it is."""
    return {
        name: value.float() if value.dtype == torch.float16 else value for name, value in model.state_dict().items()
    }
