"""CFFA: Cross-Modal Fine-grained Feature Alignment on CLIP. This file travels with published models.

Letters in shape comments: B batch, P patches, L text length, D projection width, F local width, C identities, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.models.clip.configuration_clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.models.clip.modeling_clip import (
    CLIPEncoder,
    CLIPEncoderLayer,
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextEmbeddings,
    CLIPVisionEmbeddings,
)
from transformers.utils import ModelOutput, logging

from .configuration_cffa import IMAGE_SIZE, CFFAConfig

logger = logging.get_logger(__name__)


@dataclass
class ChosenTokens:
    """The tokens of each row that its pooled token attends to most: all that a local feature is made of.

    Attributes:
        tokens: `(B, k, D)`.
        positions: Which tokens of a caption, or which patches of an image, they are, `(B, k)`.
        kept: Which of them are real, `(B, k)`; None if all are.
    """

    tokens: Tensor
    positions: Tensor
    kept: Tensor | None = None


@dataclass
class Encoding:
    """What an encoder makes of images or captions of N tokens: 1 + P, or the length of the longest caption.

    Attributes:
        pooled: Global features, `(B, D)`.
        tokens: All tokens, `(B, N, D)`.
        saliency: Attention of the pooled token to every token, `(B, N)`.
        mask: True up to and with the end token, `(B, N)`; None for images.
        chosen: What local features are made of; None without FLFR.
        local: Local features, `(B, F)`; None without FLFR, and where they were not asked for.
    """

    pooled: Tensor
    tokens: Tensor
    saliency: Tensor
    mask: Tensor | None = None
    chosen: ChosenTokens | None = None
    local: Tensor | None = None

    def embeds(self) -> Tensor:
        """Join global and local features as `combine_features` does."""
        return combine_features(self.pooled, self.local)


@dataclass
class CFFAOutput(ModelOutput):
    """What CFFA makes of images, captions or both.

    Args:
        image_embeds: Unit embeddings of the images, `(images, D + F)`, float32.
        text_embeds: Unit embeddings of the captions, `(captions, D + F)`, float32.
        similarity: Dot products of the embeddings, `(captions, images)`, in [-1, 1].
        image_global: Projected CLS tokens, not normalised, `(images, D)`.
        image_local: Refined local image features, not normalised, `(images, F)`; None without FLFR.
        text_global: Projected end-of-text tokens, not normalised, `(captions, D)`.
        text_local: Refined local text features, not normalised, `(captions, F)`; None without FLFR.
        image_chosen: What local image features are made of; training model only, in their place, with `refine=False`.
        text_chosen: What local text features are made of, likewise.
        image_identity_logits: Identity scores of the images, `(images, C)`; training model only.
        text_identity_logits: Identity scores of the captions, `(captions, C)`; training model only.
        mlm_logits: Scores of the vocabulary at the masked positions in row-major order, `(masked, V)`; when asked for.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    similarity: Tensor | None = None
    image_global: Tensor | None = None
    image_local: Tensor | None = None
    text_global: Tensor | None = None
    text_local: Tensor | None = None
    image_chosen: ChosenTokens | None = None
    text_chosen: ChosenTokens | None = None
    image_identity_logits: Tensor | None = None
    text_identity_logits: Tensor | None = None
    mlm_logits: Tensor | None = None


def combine_features(global_features: Tensor, local_features: Tensor | None) -> Tensor:
    """Join global and local features into the embedding whose dot product is the mean of both cosines (float32).

    Args:
        global_features: `(batch, D)`.
        local_features: `(batch, F)`, or None for a model without FLFR.

    Returns:
        Unit vectors, `(batch, D + F)` or `(batch, D)`.
    """
    parts = [features.float() for features in (global_features, local_features) if features is not None]
    return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1) / len(parts) ** 0.5


def resize_positions(table: Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Resize a table of position embeddings from one grid to another, bilinearly, `align_corners=False`.

    Args:
        table: `(extra + rows * columns, width)`; leading extra rows (CLS) are kept as they are.
        old_grid: Rows and columns of the table.
        new_grid: Rows and columns wanted.

    Returns:
        `(extra + new rows * new columns, width)`.
    """
    if tuple(old_grid) == tuple(new_grid):
        return table
    extra = table.shape[0] - old_grid[0] * old_grid[1]
    grid = table[extra:].float().T.reshape(1, -1, *old_grid)  # (1, width, rows, columns)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bilinear", align_corners=False)
    return torch.cat([table[:extra], grid.flatten(2)[0].T.to(table.dtype)])


class CFFAVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embedding on a rectangle, with a stride that may be smaller than the patch."""

    def __init__(self, config: CFFAConfig):
        nn.Module.__init__(self)
        self.config = config.vision_config
        self.embed_dim = self.config.hidden_size
        self.image_size = config.image_size
        self.patch_size = self.config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(self.embed_dim))
        patches = {"kernel_size": self.patch_size, "stride": config.stride or self.patch_size}
        self.patch_embedding = nn.Conv2d(self.config.num_channels, self.embed_dim, **patches, bias=False)
        rows, columns = config.grid_size
        self.num_patches = rows * columns
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed normalised images `(B, 3, height, width)` as tokens `(B, 1 + P, width)`.

        Raises:
            ValueError: If the images do not have the configured size.
        """
        if tuple(pixel_values.shape[-2:]) != self.image_size:
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"images of {height} x {width} pixels were given to a model of {self.image_size[0]} x "
                f"{self.image_size[1]}; use the processor that was saved with the model"
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)  # (B, P, width)
        tokens = torch.cat([self.class_embedding.expand(patches.shape[0], 1, -1), patches], dim=1)
        return tokens + self.position_embedding(self.position_ids)


class PooledAttentionLayer(CLIPEncoderLayer):
    """The last encoder layer: besides its output it tells how much the pooled token attends to every token.

    Only that one attention row is computed beside the fused attention; it selects tokens and carries no gradient.
    """

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, pooled: Tensor, **kwargs):
        """Return the layer's output `(B, N, width)` and the attention of the pooled token `(B, N)`, mean over heads.

        Args:
            hidden_states: `(B, N, width)`.
            attention_mask: Causal mask for attention that is not fused; None otherwise.
            pooled: Position of the pooled token in each row, `(B,)`.
            **kwargs: `is_causal=True` lets the pooled token see only itself and what stands before it.
        """
        with torch.no_grad():
            saliency = self.pooled_attention(hidden_states, pooled, causal=kwargs.get("is_causal", False))
        return super().forward(hidden_states, attention_mask, **kwargs), saliency

    def pooled_attention(self, hidden_states: Tensor, pooled: Tensor, causal: bool) -> Tensor:
        """Compute the attention row of the pooled token, `(B, N)`, float32, each row summing to 1."""
        attention = self.self_attn
        normalised = self.layer_norm1(hidden_states)
        rows = torch.arange(pooled.shape[0], device=pooled.device)
        query = attention.q_proj(normalised[rows, pooled]).unflatten(-1, (attention.num_heads, -1))  # (B, heads, d)
        keys = attention.k_proj(normalised).unflatten(-1, (attention.num_heads, -1))  # (B, N, heads, d)
        scores = torch.einsum("bhd,bnhd->bhn", query, keys).float() * attention.scale
        if causal:
            future = torch.arange(keys.shape[1], device=pooled.device) > pooled[:, None]  # (B, N)
            scores = scores.masked_fill(future[:, None], float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1)


class QuickGELU(nn.Module):
    """CLIP's activation `x * sigmoid(1.702 x)`, written with the fused SiLU.

    The stock one keeps three tensors for the backward pass and makes twice as many passes over memory.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the activation to a tensor of any shape."""
        return F.silu(hidden_states * 1.702).mul_(1 / 1.702)


def encoder_layer(
    config: CLIPTextConfig | CLIPVisionConfig, layer_class: type[CLIPEncoderLayer] = CLIPEncoderLayer
) -> CLIPEncoderLayer:
    """Build a CLIP encoder layer with the fused activation."""
    layer = layer_class(config)
    if config.hidden_act == "quick_gelu":
        layer.mlp.activation_fn = QuickGELU()
    return layer


def clip_encoder(config) -> CLIPEncoder:
    """Build CLIP's encoder with the pooled attention row read in its last layer."""
    encoder = CLIPEncoder(config)
    classes = [CLIPEncoderLayer] * (config.num_hidden_layers - 1) + [PooledAttentionLayer]
    encoder.layers = nn.ModuleList([encoder_layer(config, layer_class) for layer_class in classes])
    return encoder


class CFFAVisionEncoder(nn.Module):
    """CLIP's vision transformer, read per token. Submodules are named as in CLIPModel."""

    def __init__(self, config: CFFAConfig):
        super().__init__()
        width, eps = config.vision_config.hidden_size, config.vision_config.layer_norm_eps
        self.embeddings = CFFAVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps=eps)
        self.encoder = clip_encoder(config.vision_config)
        self.post_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images to normalised tokens `(B, 1 + P, width)` and the CLS token's attention `(B, 1 + P)`."""
        hidden = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in self.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        pooled = torch.zeros(hidden.shape[0], dtype=torch.long, device=hidden.device)
        hidden, saliency = self.encoder.layers[-1](hidden, None, pooled)
        return self.post_layernorm(hidden), saliency


class CFFATextEncoder(nn.Module):
    """CLIP's text transformer, read per token. Submodules are named as in CLIPModel."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = clip_encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Encode captions to normalised tokens `(B, L, width)` and the end token's attention `(B, L)`.

        Attention is causal and nothing is read behind the end token, so padding needs no mask.

        Args:
            input_ids: `(B, L)`.
            end: Position of the pooled end-of-text token, `(B,)`.
        """
        hidden = self.embeddings(input_ids=input_ids)
        # None under fused attention, which needs no mask to be causal. No padding, no cache, whatever its name.
        mask = create_causal_mask(self.config, hidden, None, None)
        for layer in self.encoder.layers[:-1]:
            hidden = layer(hidden, mask, is_causal=True)
        hidden, saliency = self.encoder.layers[-1](hidden, mask, end, is_causal=True)
        return self.final_layer_norm(hidden), saliency


def choose_tokens(tokens: Tensor, saliency: Tensor, count: int, mask: Tensor | None = None) -> ChosenTokens:
    """Choose the most salient tokens of each row.

    Args:
        tokens: Candidates, `(B, N, D)`.
        saliency: The higher, the sooner a token is chosen, `(B, N)`.
        count: Most tokens chosen.
        mask: True where a token may be chosen, `(B, N)`, at least one a row; None if all may.
    """
    saliency = saliency if mask is None else saliency.masked_fill(~mask, -1.0)
    positions = saliency.topk(torch.sym_min(count, saliency.shape[1]), dim=1).indices  # (B, k)
    chosen = tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))
    return ChosenTokens(chosen, positions, None if mask is None else mask.gather(1, positions))


class FineGrainedRefinement(nn.Module):
    """FLFR: refine the chosen tokens, each of width D, and take the maximum as the local feature of width F."""

    normalise, maximum = staticmethod(F.normalize), staticmethod(torch.amax)  # training in float16 rounds otherwise

    def __init__(self, input_dim: int, local_dim: int):
        super().__init__()
        self.linear = nn.Linear(input_dim, local_dim)
        self.mlp_in = nn.Linear(input_dim, local_dim // 2)
        self.batch_norm = nn.BatchNorm1d(local_dim // 2)
        self.mlp_out = nn.Linear(local_dim // 2, local_dim)

    def forward(self, chosen: ChosenTokens) -> Tensor:
        """Make one local feature of each row, `(B, F)`."""
        tokens, kept = self.normalise(chosen.tokens, dim=-1), chosen.kept
        if kept is None:
            return self.maximum(self.refine(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]), dim=1)
        # Only kept tokens are refined: padding must not enter the statistics of the batch norm.
        refined = self.refine(tokens[kept])  # (kept, F)
        spread = refined.new_full((*kept.shape, refined.shape[-1]), float("-inf"))
        return self.maximum(spread.masked_scatter(kept[..., None], refined), dim=1)

    def refine(self, tokens: Tensor) -> Tensor:
        """Map unit tokens `(n, D)` to `(n, F)`."""
        hidden = self.mlp_in(tokens)
        norm = self.batch_norm
        if self.training and len(hidden) == 1 and type(norm) is nn.BatchNorm1d:
            # One token has no variance: use the running statistics. (A norm over several processes has more tokens.)
            hidden = F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            hidden = norm(hidden)
        return self.linear(tokens) + self.mlp_out(F.relu(hidden))


class CrossModalReasoning(nn.Module):
    """Implicit relation reasoning: masked text tokens query the image, then read each other."""

    def __init__(self, config: CFFAConfig):
        super().__init__()
        width = config.projection_dim
        layer_config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=config.cross_modal_heads,
            num_hidden_layers=max(1, config.cross_modal_layers),
            vocab_size=config.text_config.vocab_size,
            bos_token_id=config.text_config.bos_token_id,
            eos_token_id=config.text_config.eos_token_id,
            hidden_act="quick_gelu",
        )
        layer_config._attn_implementation = "sdpa"  # which takes the mask below; no attention is read here
        self.num_heads = config.cross_modal_heads
        self.text_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.layers = nn.ModuleList([encoder_layer(layer_config) for _ in range(config.cross_modal_layers)])
        self.post_norm = nn.LayerNorm(width)

    def forward(self, text_tokens: Tensor, image_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Return text tokens that have seen the image, `(B, L, D)`.

        Args:
            text_tokens: `(B, L, D)`.
            image_tokens: `(B, 1 + P, D)`.
            text_mask: True up to and with the end token, `(B, L)`.
        """
        queries, keys = self.text_norm(text_tokens), self.image_norm(image_tokens)
        heads = [
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, 64)
            for states in (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys))
        ]
        hidden = self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        mask = torch.zeros(text_mask.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~text_mask, torch.finfo(hidden.dtype).min)[:, None, None]  # (B, 1, 1, L)
        mask = mask.expand(-1, 1, text_mask.shape[1], -1)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.post_norm(hidden)


class MaskedLanguageModellingHead(nn.Module):
    """Predict vocabulary ids from the tokens of the cross-modal layers."""

    def __init__(self, width: int, vocabulary_size: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = QuickGELU()
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(masked, D)` to `(masked, V)`."""
        return self.decoder(self.norm(self.activation(self.dense(tokens))))


class CFFAPreTrainedModel(CLIPPreTrainedModel):
    """Weights' initialisation, and starting from CLIP."""

    config: CFFAConfig
    config_class = CFFAConfig
    base_model_prefix = "cffa"
    main_input_name = "pixel_values"
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CFFAVisionEmbeddings", "PooledAttentionLayer"]  # noqa: RUF012

    def __init__(self, config: CFFAConfig):
        super().__init__(config)
        # The encoders are plain modules: hand them the attention implementation that was chosen for the whole.
        config._attn_implementation = config._attn_implementation

    @classmethod
    def is_custom_code(cls) -> bool:
        """Say no: for custom code the loader skips the rules of modules without weights of their own.

        That check is for code that overwrites loaded weights. Ours goes through `transformers.initialization`, which does not.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        factor = self.config.initializer_factor
        if isinstance(module, CFFAModel):
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5 * factor)
            init.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5 * factor)
        elif isinstance(module, FineGrainedRefinement):
            for linear in (module.linear, module.mlp_in, module.mlp_out):
                bound = linear.in_features**-0.5
                init.uniform_(linear.weight, -bound, bound)
                init.uniform_(linear.bias, -bound, bound)
        elif isinstance(module, CrossModalReasoning):
            width = module.q_proj.in_features
            for linear in (module.q_proj, module.k_proj, module.v_proj):
                init.normal_(linear.weight, std=width**-0.5 * factor)
            layers = max(1, len(module.layers))
            init.normal_(module.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5 * factor)
        elif isinstance(module, MaskedLanguageModellingHead):
            width = module.dense.in_features
            init.normal_(module.dense.weight, std=(2 * width) ** -0.5 * factor)
            layers = max(1, self.config.cross_modal_layers)
            init.normal_(module.decoder.weight, std=width**-0.5 * (2 * layers) ** -0.5 * factor)
        elif isinstance(module, CFFAForPreTraining) and module.identity_classifier is not None:
            init.normal_(module.identity_classifier.weight, std=0.001)

    @classmethod
    def from_clip_pretrained(
        cls,
        name_or_path: str = "openai/clip-vit-base-patch16",
        *,
        image_size: tuple[int, int] = IMAGE_SIZE,
        stride: int | None = None,
        context_length: int | None = None,
        text_attention_dropout: float = 0.05,
        dtype: torch.dtype = torch.float32,
        **config,
    ):
        """Start from a CLIP checkpoint in Hugging Face format; local features and heads are fresh.

        Args:
            name_or_path: Name on the Hub or folder of a CLIPModel of any size.
            image_size: Height and width of the images in pixels. Square positions are resized once, here.
            stride: Step between patches in pixels; None: the patch size.
            context_length: Most tokens in a caption; None: as in the checkpoint. Positions are cut or stretched to it.
            text_attention_dropout: Dropout in the text encoder's attention, in training.
            dtype: Type of the weights.
            **config: More fields of CFFAConfig (`select_ratio`, `local_dim`, `num_identities`, ...).
        """
        source = CLIPModel.from_pretrained(name_or_path, dtype=dtype, trust_remote_code=False)
        sizes = image_size, stride, context_length
        model = cls(clip_to_cffa_config(source.config, *sizes, text_attention_dropout, config))
        load_clip_weights(model.base_model, source.state_dict())
        return model.to(dtype)


def clip_to_cffa_config(
    source: CLIPConfig,
    image_size: tuple[int, int],
    stride: int | None,
    context_length: int | None,
    text_attention_dropout: float,
    overrides: dict,
) -> CFFAConfig:
    """Describe the CFFA model that a CLIP checkpoint becomes; arguments as in `from_clip_pretrained`."""
    text, vision = source.text_config.to_dict(), source.vision_config.to_dict()
    text["attention_dropout"] = text_attention_dropout
    text["max_position_embeddings"] = context_length or text["max_position_embeddings"]
    vision["image_size"] = list(image_size)
    return CFFAConfig(
        text_config=text, vision_config=vision, projection_dim=source.projection_dim, stride=stride, **overrides
    )


@torch.no_grad()
def load_clip_weights(model: "CFFAModel", weights: dict[str, Tensor]) -> None:
    """Copy the weights of a CLIPModel into a CFFAModel, fitting both position tables.

    Raises:
        ValueError: If a weight that both should have is missing or has another shape.
    """
    config = model.config
    weights = {name: value for name, value in weights.items() if not name.endswith(("position_ids", "logit_scale"))}
    square = "vision_model.embeddings.position_embedding.weight"
    side = round((len(weights[square]) - 1) ** 0.5)
    weights[square] = resize_positions(weights[square], (side, side), config.grid_size)
    text = "text_model.embeddings.position_embedding.weight"
    old, new = len(weights[text]), config.context_length  # in a shorter context the words keep their positions
    weights[text] = weights[text][:new] if new <= old else resize_positions(weights[text], (old, 1), (new, 1))
    fresh, unexpected = model.load_state_dict(weights, strict=False)
    lost = [name for name in fresh if not name.startswith(("image_refinement.", "text_refinement."))]
    if lost or unexpected:
        raise ValueError(f"the CLIP checkpoint does not fit: missing {lost[:5]}, unexpected {unexpected[:5]}")
    logger.info(f"CLIP weights copied; fresh: {len(fresh)} weights of the local features")


class CFFAModel(CFFAPreTrainedModel):
    """Embed images and captions of persons in one space. This is what is published.

    Example:
        ```python
        model = CFFAModel.from_clip_pretrained("openai/clip-vit-base-patch16")
        embeddings = model.get_image_features(processor(images=images, return_tensors="pt").pixel_values)
        ```
    """

    def __init__(self, config: CFFAConfig):
        super().__init__(config)
        self.vision_model = CFFAVisionEncoder(config)
        self.text_model = CFFATextEncoder(config.text_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.image_refinement = self.text_refinement = None
        if config.use_flfr:
            self.image_refinement = FineGrainedRefinement(config.projection_dim, config.local_dim)
            self.text_refinement = FineGrainedRefinement(config.projection_dim, config.local_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the text encoder."""
        return self.text_model.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of the text encoder."""
        self.text_model.embeddings.token_embedding = value

    def trim_captions(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cut padding behind the longest caption and find the pooled tokens.

        Args:
            input_ids: `(B, L)`, padding on the right. The first end-of-text token is the pooled one.
            attention_mask: 1 for tokens, 0 for padding, `(B, L)`. Only a caption without an end token needs it.

        Returns:
            Ids `(B, longest)` and the position of the pooled token in each row `(B,)`.
        """
        is_end = input_ids == self.config.text_config.eos_token_id
        last = torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
        if attention_mask is not None:
            last = (attention_mask.sum(dim=1) - 1).clamp(min=0)
        end = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), last)
        return input_ids[:, : int(end.max()) + 1], end

    def encode_images(self, pixel_values: Tensor, refine: bool = True) -> Encoding:
        """Encode normalised images `(B, 3, height, width)`, with local features if `refine`; the first token is CLS."""
        hidden, saliency = self.vision_model(pixel_values)
        tokens = self.visual_projection(hidden)  # (B, 1 + P, D)
        encoding = Encoding(tokens[:, 0], tokens, saliency)
        if self.image_refinement is not None:
            encoding.chosen = choose_tokens(tokens[:, 1:], saliency[:, 1:], self.config.selected_patches)
            encoding.local = self.image_refinement(encoding.chosen) if refine else None
        return encoding

    def encode_captions(self, input_ids: Tensor, attention_mask: Tensor | None = None, refine: bool = True) -> Encoding:
        """Encode captions `(B, L)`, with local features if `refine`; ids and mask as in `trim_captions`."""
        input_ids, end = self.trim_captions(input_ids, attention_mask)
        hidden, saliency = self.text_model(input_ids, end)
        tokens = self.text_projection(hidden)  # (B, longest, D)
        positions = torch.arange(tokens.shape[1], device=end.device)
        rows = torch.arange(tokens.shape[0], device=end.device)
        encoding = Encoding(tokens[rows, end], tokens, saliency, positions <= end[:, None])
        if self.text_refinement is not None:
            words = (positions > 0) & (positions < end[:, None])
            # A caption without words has only its end token to offer.
            words |= (positions == end[:, None]) & (end[:, None] <= 1)
            encoding.chosen = choose_tokens(tokens, saliency, self.config.selected_words, words)
            encoding.local = self.text_refinement(encoding.chosen) if refine else None
        return encoding

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embed normalised images `(B, 3, height, width)` as unit vectors `(B, D + F)`, float32."""
        return self.encode_images(pixel_values).embeds()

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed captions `(B, L)`, padded on the right, as unit vectors `(B, D + F)`, float32."""
        return self.encode_captions(input_ids, attention_mask).embeds()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> CFFAOutput | tuple[Tensor, ...]:
        """Embed captions, images or both; given both, score every caption against every image.

        Args:
            input_ids: Captions, `(captions, L)`, padded on the right.
            pixel_values: Normalised images, `(images, 3, height, width)`.
            attention_mask: 1 for tokens, 0 for padding, `(captions, L)`.
            return_dict: False: a tuple of what is not None.

        Raises:
            ValueError: If neither captions nor images are given.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("give input_ids (captions), pixel_values (images) or both")
        image_embeds = image_global = image_local = text_embeds = text_global = text_local = similarity = None
        if pixel_values is not None:
            images = self.encode_images(pixel_values)
            image_embeds, image_global, image_local = images.embeds(), images.pooled, images.local
        if input_ids is not None:
            captions = self.encode_captions(input_ids, attention_mask)
            text_embeds, text_global, text_local = captions.embeds(), captions.pooled, captions.local
        if image_embeds is not None and text_embeds is not None:
            similarity = text_embeds @ image_embeds.T
        output = CFFAOutput(image_embeds, text_embeds, similarity, image_global, image_local, text_global, text_local)
        if similarity is None:
            output["pooler_output"] = output[0]  # what pipelines call the one embedding
        return output if return_dict is not False else output.to_tuple()


class CFFAForPreTraining(CFFAPreTrainedModel):
    """CFFAModel with the heads that training needs: identity classifier and masked language modelling."""

    def __init__(self, config: CFFAConfig):
        super().__init__(config)
        self.cffa = CFFAModel(config)
        self.identity_classifier = self.cross_modal = self.mlm_head = None
        if config.use_identity:
            self.identity_classifier = nn.Linear(config.projection_dim, config.num_identities)
        if config.use_mlm:
            self.cross_modal = CrossModalReasoning(config)
            self.mlm_head = MaskedLanguageModellingHead(config.projection_dim, config.text_config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the text encoder."""
        return self.cffa.get_input_embeddings()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embed images, as `CFFAModel.get_image_features`."""
        return self.cffa.get_image_features(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed captions, as `CFFAModel.get_text_features`."""
        return self.cffa.get_text_features(input_ids, attention_mask)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        masked_input_ids: Tensor | None = None,
        masked_attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        refine: bool = True,
    ) -> CFFAOutput | tuple[Tensor, ...]:
        """Compute everything that the losses need, for B pairs of caption and image.

        Args:
            input_ids: Captions that are matched and classified, `(B, L)`, padded on the right.
            pixel_values: Normalised images, `(B, 3, height, width)`.
            attention_mask: 1 for tokens, 0 for padding, `(B, L)`.
            mlm_labels: The id to be predicted where a token was chosen, -100 elsewhere, `(B, L)`. None: no MLM logits.
            masked_input_ids: The masked captions that MLM reads, `(B, L)`. None: `input_ids` are masked already, and
                the text is encoded once.
            masked_attention_mask: Attention mask of `masked_input_ids`.
            return_dict: False: a tuple of what is not None.
            refine: False: no local features, but the chosen tokens that they are made of.

        Raises:
            ValueError: If MLM is asked of a model without it.
        """
        images = self.cffa.encode_images(pixel_values, refine=refine)
        captions = self.cffa.encode_captions(input_ids, attention_mask, refine=refine)
        image_embeds, text_embeds = images.embeds(), captions.embeds()
        features = images.pooled, images.local, captions.pooled, captions.local
        chosen = (None, None) if refine else (images.chosen, captions.chosen)
        # Optional fields are added in their order, which is that of the tuple.
        output = CFFAOutput(image_embeds, text_embeds, text_embeds @ image_embeds.T, *features, *chosen)
        if self.identity_classifier is not None:
            output.image_identity_logits = self.identity_classifier(images.pooled)
            output.text_identity_logits = self.identity_classifier(captions.pooled)
        if mlm_labels is not None:
            if self.cross_modal is None or self.mlm_head is None:
                raise ValueError("mlm_labels were given to a model with use_mlm=False")
            if masked_input_ids is not None:
                captions = self.cffa.encode_captions(masked_input_ids, masked_attention_mask, refine=False)
            tokens = self.cross_modal(captions.tokens, images.tokens, captions.mask)
            output.mlm_logits = self.mlm_head(tokens[mlm_labels[:, : tokens.shape[1]] != -100])
        return output if return_dict is not False else output.to_tuple()


__all__ = ["CFFAForPreTraining", "CFFAModel", "CFFAOutput", "CFFAPreTrainedModel"]
