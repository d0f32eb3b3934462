"""Where the weights come from, and what the model computes."""

from dataclasses import dataclass, field

from cffa_hf.arguments.ranges import check_ranges
from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.json_files import parse_json


@dataclass
class RandomWeightsArguments:
    """Sizes that a checkpoint brings with it: they count where `init_from` is null, and nowhere else."""

    patch_size: int = field(default=16, metadata={"help": "Patch size in pixels; only for random weights"})
    hidden_size: int = field(default=768, metadata={"help": "Width of both encoders; only for random weights"})
    num_layers: int = field(default=12, metadata={"help": "Layers of both encoders; only for random weights"})
    projection_dim: int = field(default=512, metadata={"help": "Width of the global features; only for random weights"})
    vocabulary_size: int = field(
        default=1000,
        metadata={"help": "Size of the tokenizer trained on the train captions; only for random weights"},
    )


@dataclass
class ModelArguments(RandomWeightsArguments):
    """Where the weights come from, and what the model computes."""

    init_from: str | None = field(
        default="openai/clip-vit-base-patch16",
        metadata={
            "help": "Weights to start from: a CLIP or CFFA model (name on the Hub or folder), or a .pt or .pth file of "
            "CLIP, open_clip, IRRA, RDE or CFFA. null: random weights"
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "CLIP tokenizer, needed where the weights are a file: a name on the Hub, a folder, or CLIP's "
            "merges file bpe_simple_vocab_16e6.txt.gz. null: the one beside the weights"
        },
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Height and width of the images in pixels; null: those of the weights, or "
            f"{IMAGE_SIZE[0]} {IMAGE_SIZE[1]} for random weights and for a general CLIP"
        },
    )
    stride: int | None = field(
        default=None, metadata={"help": "Step between patches in pixels; null: the patch size. Smaller: overlapping"}
    )
    context_length: int = field(
        default=CONTEXT_LENGTH, metadata={"help": "Most tokens in a caption, start and end included"}
    )
    select_ratio: float = field(default=0.3, metadata={"help": "Share of patches and words that local features keep"})
    local_dim: int = field(default=1024, metadata={"help": "Width of the local features"})
    text_attention_dropout: float = field(default=0.05, metadata={"help": "Dropout in the text encoder's attention"})
    use_flfr: bool = field(default=True, metadata={"help": "Local features beside the global ones"})
    use_mlm: bool = field(default=True, metadata={"help": "Masked language modelling across modalities"})
    use_identity: bool = field(default=True, metadata={"help": "Identity classifier"})
    cross_modal_layers: int = field(default=4, metadata={"help": "Layers after the cross attention"})
    lora: dict | str | None = field(
        default=None,
        metadata={
            "help": "LoRA beside the frozen encoders: fields of peft.LoraConfig, for instance '{\"r\": 8}' (JSON on "
            "the command line, a mapping in a config). null: the encoders are trained whole"
        },
    )

    def __post_init__(self) -> None:
        """Refuse an image size that is no pair, and read `lora` from JSON where it came from the command line."""
        if self.image_size is not None and len(self.image_size) != 2:
            raise ValueError(f"image_size must be a height and a width, got {self.image_size}")
        check_ranges(self)
        if isinstance(self.lora, str):
            try:
                self.lora = parse_json(self.lora)
            except ValueError as error:
                raise ValueError(f'lora must be JSON like {{"r": 8}}, got {self.lora[:80]!r}') from error
        if self.lora is not None and not isinstance(self.lora, dict):
            raise ValueError(f'lora must be a mapping of settings like {{"r": 8}}, got {self.lora!r}')
