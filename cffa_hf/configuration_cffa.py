"""Configuration of CFFA. This file travels with published models: it imports only transformers."""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig, strict
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig

# Published: height and width of images in pixels, and tokens of the longest caption, start and end included.
IMAGE_SIZE = (384, 128)
CONTEXT_LENGTH = 77


@strict
class CFFAConfig(PreTrainedConfig):
    """Everything that changes the function a CFFA model computes.

    The two encoders are described by stock CLIP configurations; `vision_config.image_size` is a pair here. The text
    configuration is normalised to the layout of CLIP vocabularies of V tokens: mask V-3, start V-2, end V-1.

    Attributes:
        text_config: CLIP text encoder (default: ViT-B/16's).
        vision_config: CLIP vision encoder; `image_size` is (height, width) in pixels (default: ViT-B/16 at 384 x 128).
        projection_dim: Width D of the space that image and text tokens are projected to.
        stride: Step in pixels between patches; below the patch size, patches overlap. None: the patch size.
        select_ratio: Share of the patches, and of the context without start and end, that the local features keep.
        local_dim: Width F of the local features.
        use_flfr: Whether there are local features (fine-grained local feature refinement). Without, the embedding is the
            normalised global feature alone.
        use_mlm: Whether the training model has the cross-modal layers and the masked-language-modelling head.
        use_identity: Whether the training model has the identity classifier.
        num_identities: Classes C of the identity classifier.
        cross_modal_layers: Transformer layers after the cross attention.
        initializer_factor: Scale of all initial weights, as in CLIP.

    Raises:
        StrictDataclassError: If a field has the wrong type, or sizes, ratio and stride make no model.
    """

    model_type = "cffa"
    sub_configs_defaults = {  # noqa: RUF012 - the base class reads a plain class attribute
        "text_config": CLIPTextConfig,
        "vision_config": CLIPVisionConfig,
    }

    text_config: Any = None  # given as a mapping, a configuration or nothing; a configuration afterwards
    vision_config: Any = None
    projection_dim: int = 512
    stride: int | None = None
    select_ratio: float | int = 0.3
    local_dim: int = 1024
    use_flfr: bool = True
    use_mlm: bool = True
    use_identity: bool = True
    num_identities: int = 1
    cross_modal_layers: int = 4
    initializer_factor: float | int = 1.0

    def __post_init__(self, **kwargs):
        """Fill in the encoders' defaults and normalise sizes and special ids."""
        if self.vision_config is None:
            self.vision_config = {"image_size": list(IMAGE_SIZE), "patch_size": 16}
        # Old CLIP checkpoints carry end id 2, which stands for "pool at the largest id": name the real ones.
        text = self.text_config.to_dict() if isinstance(self.text_config, CLIPTextConfig) else self.text_config or {}
        vocabulary = text.get("vocab_size", CLIPTextConfig.vocab_size)
        start, end = vocabulary - 2, vocabulary - 1
        self.text_config = {**text, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
        super().__post_init__(**kwargs)
        size = self.vision_config.image_size
        self.vision_config.image_size = [size, size] if isinstance(size, int) else list(size)
        if self.stride is None:
            self.stride = self.vision_config.patch_size
        # Both training and published checkpoints name all three, so that AutoModel finds the trunk in either.
        self.auto_map = {
            "AutoConfig": "configuration_cffa.CFFAConfig",
            "AutoModel": "modeling_cffa.CFFAModel",
            "AutoModelForPreTraining": "modeling_cffa.CFFAForPreTraining",
        } | (getattr(self, "auto_map", None) or {})

    def validate_architecture(self):
        """Refuse sizes that cannot make a model."""
        patch, size = self.vision_config.patch_size, self.vision_config.image_size
        if len(size) != 2:
            raise ValueError(f"image_size must be a height and a width, got {size}")
        height, width = size
        if self.stride is None or not 1 <= self.stride <= patch:
            raise ValueError(f"stride must be between 1 and the patch size {patch}, got {self.stride}")
        if min(height, width) < patch:
            raise ValueError(f"image_size {height} x {width} is smaller than one patch of {patch} pixels")
        if not 0 < self.select_ratio <= 1:
            raise ValueError(f"select_ratio must be above 0 and at most 1, got {self.select_ratio}")
        if self.use_flfr and self.local_dim < 2:
            raise ValueError(f"local_dim must be at least 2, got {self.local_dim}")
        if self.cross_modal_layers < 0:
            raise ValueError(f"cross_modal_layers must not be negative, got {self.cross_modal_layers}")
        if self.use_mlm and self.projection_dim % self.cross_modal_heads:
            raise ValueError(f"projection_dim {self.projection_dim} must be a multiple of 64 for the cross-modal heads")
        if self.use_identity and self.num_identities < 1:
            raise ValueError("num_identities must be at least 1 when use_identity is on")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input images in pixels."""
        height, width = self.vision_config.image_size
        return height, width

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch, (height, width) = self.vision_config.patch_size, self.image_size
        return (height - patch) // self.stride + 1, (width - patch) // self.stride + 1

    @property
    def context_length(self) -> int:
        """Most tokens in a caption, start and end included."""
        return self.text_config.max_position_embeddings

    @property
    def selected_patches(self) -> int:
        """Patches that make a local image feature (57 of 192 at the published size)."""
        rows, columns = self.grid_size
        return max(1, int(self.select_ratio * rows * columns))

    @property
    def selected_words(self) -> int:
        """Words that make a local text feature at most (22 of 75 at the published size)."""
        return max(1, int(self.select_ratio * (self.context_length - 2)))

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding: D + F, or D without local features."""
        return self.projection_dim + (self.local_dim if self.use_flfr else 0)

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""
        return self.text_config.vocab_size - 3

    @property
    def cross_modal_heads(self) -> int:
        """Attention heads of the cross-modal layers: one for each 64 channels."""
        return max(1, self.projection_dim // 64)


__all__ = ["CFFAConfig"]
