"""Embed images and captions with `Embedder`, against the plain way of research code, on the same weights and files.

The plain way encodes every item twice, once for the global and once for the local features, in the order of the files,
in float32, in one process that decodes and computes in turn; captions are padded to the full context; attention computes
its weights in every layer (the library's eager attention), and quick GELU is x * sigmoid(1.702 x). Ours is
`Embedder.images` and `Embedder.captions`. Both include the reading of JPEG files and the tokenising.

The model is ViT-B/16 at 384 x 128 with CLIP's text encoder, random weights; people and captions are rendered. Ways take
turns, and the fastest of `--repeats` counts. The CPU ratio is that of the processor seconds, which depends less on what else
the machine does.

    python benchmarks/encoding.py [--people 32] [--repeats 2] [--threads 2]
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPProcessor
from transformers.activations import QuickGELUActivation

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE, CFFAConfig
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.inference import Embedder
from cffa_hf.inputs import build_processor, encode_captions, load_pixels, normalise_images, train_tokenizer
from cffa_hf.modeling_cffa import CFFAModel, QuickGELU, choose_tokens, combine_features

PLAIN_BATCH, VOCABULARY = 64, 800
PRECISIONS = ("float32", "bfloat16")
TOY = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128}


@dataclass
class Measured:
    """One way: seconds, seconds of all processors, and embeddings, of the images and of the captions."""

    seconds: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def time(self, what: str, work: Callable[[], Tensor]) -> None:
        """Run some work and keep its result, and the least time that it took."""
        start, used = time.perf_counter(), time.process_time()
        self.vectors[what] = work()
        for kept, taken in ((self.seconds, time.perf_counter() - start), (self.processor, time.process_time() - used)):
            kept[what] = min(taken, kept.get(what, taken))


class PlainEncoder:
    """The plain way over a model's own weights.

    Args:
        model: It is copied.
        processor: Its processor.
    """

    def __init__(self, model: CFFAModel, processor: CLIPProcessor):
        self.model, self.tokenizer = copy.deepcopy(model).eval(), processor.tokenizer
        config = self.model.config
        for part in (config.text_config, config.vision_config):
            part._attn_implementation = "eager"
        for module in self.model.modules():
            for name, child in module.named_children():
                if isinstance(child, QuickGELU):
                    setattr(module, name, QuickGELUActivation())

    @torch.inference_mode()
    def images(self, paths: list[str]) -> Tensor:
        """Embed image files, `(images, width)`."""
        passes = []
        for wanted in ("pooled", "local"):
            parts = []
            for start in range(0, len(paths), PLAIN_BATCH):
                pixels = [
                    load_pixels(path, self.model.config.image_size) for path in paths[start : start + PLAIN_BATCH]
                ]
                parts.append(getattr(self.model.encode_images(normalise_images(torch.stack(pixels))), wanted))
            passes.append(torch.cat(parts))
        return combine_features(*passes)

    @torch.inference_mode()
    def captions(self, texts: list[str]) -> Tensor:
        """Embed captions, `(captions, width)`."""
        context = self.tokenizer.model_max_length
        passes = []
        for wanted in (0, 1):
            parts = []
            for start in range(0, len(texts), PLAIN_BATCH):
                rows = encode_captions(self.tokenizer, texts[start : start + PLAIN_BATCH], context)
                ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (context - len(row)) for row in rows])
                parts.append(self._encode_padded(ids)[wanted])
            passes.append(torch.cat(parts))
        return combine_features(*passes)

    def _encode_padded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode captions at their full padded length; the model itself would cut the padding."""
        _, end = self.model.trim_captions(ids)
        hidden, saliency = self.model.text_model(ids, end)
        tokens = self.model.text_projection(hidden)
        positions = torch.arange(ids.shape[1])
        words = (positions > 0) & (positions < end[:, None])
        chosen = choose_tokens(tokens, saliency, self.model.config.selected_words, words)
        return tokens[torch.arange(len(ids)), end], self.model.text_refinement(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=32, help="people, of four images and eight captions each")
    parser.add_argument("--repeats", type=int, default=2, help="how often everything is measured")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--quick", action="store_true", help="a toy model, to see that the benchmark runs")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_demo_dataset(folder, identities=(1, 1, arguments.people))
        rows = load_person_dataset("cuhk_pedes", folder)["test"]
        paths, texts = [image["path"] for image in rows["image"][:]], list(chain(*rows["captions"]))
        measured, lengths = measure(paths, texts, arguments)
    height, width = (64, 32) if arguments.quick else IMAGE_SIZE
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, the fastest of {arguments.repeats}")
    print(
        f"{len(paths):,} images of {height} x {width}, {len(texts):,} captions of {sum(lengths) / len(lengths):.1f} tokens"
    )
    print_table(measured)


def measure(paths: list[str], texts: list[str], arguments: argparse.Namespace) -> tuple[dict[str, Measured], list[int]]:
    """Embed everything in every way: what was measured, and the lengths of the captions in tokens."""
    image_size = (64, 32) if arguments.quick else IMAGE_SIZE
    processor = build_processor(train_tokenizer(texts, VOCABULARY), image_size, CONTEXT_LENGTH)
    model = make_model(len(processor.tokenizer), image_size, arguments.quick)
    ways: dict[str, PlainEncoder | Embedder] = {"plain, float32": PlainEncoder(model, processor)}
    ways |= {f"ours, {name}": Embedder(model, processor, precision=name) for name in PRECISIONS}
    measured = {way: Measured() for way in ways}
    for encoder in ways.values():  # what only the first call costs is not measured
        encoder.images(paths[:2])
        encoder.captions(texts[:2])
    for _ in range(arguments.repeats):
        for way, encoder in ways.items():
            measured[way].time("images", lambda encoder=encoder: encoder.images(paths))
            measured[way].time("captions", lambda encoder=encoder: encoder.captions(texts))
    return measured, [len(ids) for ids in encode_captions(processor.tokenizer, texts, CONTEXT_LENGTH)]


def make_model(vocabulary: int, image_size: tuple[int, int], quick: bool) -> CFFAModel:
    """Build ViT-B/16 with CLIP's text encoder, or a toy of it, with random weights."""
    torch.manual_seed(0)
    sizes, widths = (TOY, {"projection_dim": 64, "local_dim": 32}) if quick else ({}, {})
    text, vision = {**sizes, "vocab_size": vocabulary}, {**sizes, "patch_size": 16, "image_size": list(image_size)}
    return CFFAModel(CFFAConfig(text_config=text, vision_config=vision, **widths)).eval()


def print_table(measured: dict[str, Measured]) -> None:
    """Print speeds, ratios to the plain way and the smallest cosine with its embeddings."""
    plain = measured["plain, float32"]
    print(
        "\n| way | images/s | ratio | CPU ratio | smallest cosine | captions/s | ratio | CPU ratio | smallest cosine |"
    )
    print(f"|{' --- |' * 9}")
    for way, found in measured.items():
        cells = [way]
        for what, vectors in found.vectors.items():
            cosine = float(F.cosine_similarity(vectors, plain.vectors[what]).min())
            speed, ratio = len(vectors) / found.seconds[what], plain.seconds[what] / found.seconds[what]
            used = plain.processor[what] / found.processor[what]
            cells += [f"{speed:.1f}", f"{ratio:.2f}x", f"{used:.2f}x", f"{cosine:.5f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
