"""What exporting a model to ONNX costs and gives: Rank-1, mAP, sizes, and images and captions a second.

With a checkpoint, every way embeds the test split, and each is compared with PyTorch in float32 on the same queries
(confidence interval of Rank-1, and the p value of the paired test). Without one, a ViT-B/16 at 384 x 128 of random weights
is measured on noise, for speed and size alone. Speed is per second of the processor, on one thread, the best of `--rounds`
that alternate between the ways; images are decoded beforehand.

    python benchmarks/exports.py outputs/demo --dataset cuhk_pedes --dataset-root demo-data
    python benchmarks/exports.py
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from transformers.utils import logging

from cffa_hf.checkpoints import open_checkpoint
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.inference import Embedder, export_onnx
from cffa_hf.inference.onnx_format import IMAGE_TOWER, TEXT_TOWER
from cffa_hf.inputs.images import load_pixels
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks, match_ranks
from cffa_hf.metrics.significance import bootstrap_confidence, paired_test
from cffa_hf.modeling_cffa import CFFAModel
from cffa_hf.precision import computes_bfloat16

BATCH, NOISE_IMAGES = 16, 32
SENTENCE = "A woman with long dark hair in a red coat and black trousers carries a brown bag over her left shoulder."


@dataclass
class Way:
    """One way to embed, what it made and the best time it took."""

    name: str
    embedder: Embedder
    sizes: tuple[int, int]
    images: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    captions: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    image_seconds: float = float("inf")
    caption_seconds: float = float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder of a model; none: random weights, speed and size alone")
    parser.add_argument("--dataset", default="cuhk_pedes", help="default: %(default)s")
    parser.add_argument("--dataset-root", default="demo-data", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--tiny", action="store_true", help="without a checkpoint: a model of a second, to try this script"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    if arguments.checkpoint:
        checkpoint = open_checkpoint(arguments.checkpoint, device="cpu")
        model, processor = checkpoint.model, checkpoint.processor
        rows = load_person_dataset(arguments.dataset, arguments.dataset_root)["test"]
        pixels = torch.stack([load_pixels(image, model.config.image_size) for image in rows["image"]])
        texts = list(chain(*rows["captions"]))
    else:
        model, processor = random_model(arguments.tiny)
        pixels = torch.randint(256, (NOISE_IMAGES, 3, *model.config.image_size), dtype=torch.uint8)
        texts = [SENTENCE] * len(pixels)
    with tempfile.TemporaryDirectory() as folder:
        ways = all_ways(model, processor, Path(folder))
        for _ in range(arguments.rounds):
            for way in ways:
                embed(way, pixels, texts)
    ranks = None
    if arguments.checkpoint:
        caption_ids = [
            person for person, captions in zip(rows["person_id"], rows["captions"], strict=True) for _ in captions
        ]
        ids = torch.tensor(caption_ids), torch.tensor(rows["person_id"])
        ranks = [match_ranks(way.captions, way.images, *ids) for way in ways]
    print(f"{len(pixels):,} images of {' x '.join(map(str, pixels.shape[2:]))}, {len(texts):,} captions")
    print_table(ways, len(pixels), len(texts), ranks)


def random_model(tiny: bool) -> tuple[CFFAModel, object]:
    """Make a ViT-B/16 at 384 x 128, or a tiny one, with random weights; its tokenizer knows one sentence."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([SENTENCE], 600)
    size = (64, 32) if tiny else (384, 128)
    text = {"vocab_size": len(tokenizer)}
    vision = {"patch_size": 16, "image_size": list(size)}
    layers = (
        {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128} if tiny else {}
    )
    wide = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072}
    config = CFFAConfig(text_config={**text, **layers}, vision_config={**vision, **(layers or wide)})
    return CFFAModel(config).eval(), build_processor(tokenizer, size)


def all_ways(model: CFFAModel, processor, folder: Path) -> list[Way]:
    parts = dict(model.named_children())
    towers = [[part for name, part in parts.items() if name.startswith(start)] for start in (("vis", "image"), "text")]
    weights = tuple(sum(value.numel() * 4 for part in tower for value in part.parameters()) for tower in towers)
    ways = [Way("PyTorch float32", Embedder(model, processor, batch_size=BATCH, precision="float32"), weights)]
    if computes_bfloat16("cpu"):
        ways.append(
            Way("PyTorch bfloat16", Embedder(model, processor, batch_size=BATCH, precision="bfloat16"), weights)
        )
    for name in ("float32", "int8"):
        out = folder / name
        export_onnx(model, processor, out, weights_sha256="0" * 64, int8=name == "int8")
        sizes = (out / IMAGE_TOWER).stat().st_size, (out / TEXT_TOWER).stat().st_size
        ways.append(Way(f"ONNX {name}", Embedder.from_onnx(out, batch_size=BATCH), sizes))
    return ways


def embed(way: Way, pixels: torch.Tensor, texts: list[str]) -> None:
    start = time.process_time()
    way.images = way.embedder.encode({"pixel_values": part} for part in pixels.split(BATCH))
    middle = time.process_time()
    way.captions = way.embedder.captions(texts)
    way.image_seconds = min(way.image_seconds, middle - start)
    way.caption_seconds = min(way.caption_seconds, time.process_time() - middle)


def print_table(ways: list[Way], images: int, captions: int, ranks: list[MatchRanks] | None) -> None:
    titles = ["way", "image tower MB", "text tower MB", "images/s", "captions/s", "lowest cosine", "mean cosine"]
    print("| " + " | ".join(titles + (["Rank-1 (95%)", "p", "mAP", "p"] if ranks else [])) + " |")
    print("| " + " | ".join("---" for _ in range(len(titles) + (4 if ranks else 0))) + " |")
    first = ways[0]
    for place, way in enumerate(ways):
        cosines = torch.cat([(way.images * first.images).sum(dim=1), (way.captions * first.captions).sum(dim=1)])
        cells = [way.name, *(f"{size / 1e6:.1f}" for size in way.sizes)]
        cells += [f"{images / way.image_seconds:.1f}", f"{captions / way.caption_seconds:.1f}"]
        cells += [f"{cosines.min():.4f}", f"{cosines.mean():.5f}"]
        if ranks:
            interval, metrics = bootstrap_confidence(ranks[place])["rank1"], retrieval_metrics(ranks[place])
            paired = paired_test(ranks[0], ranks[place])
            p_values = [f"{paired[name].p_value:.2f}" if place else "" for name in ("rank1", "mAP")]
            cells += [f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})", p_values[0]]
            cells += [f"{metrics['mAP']:.2f}", p_values[1]]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
