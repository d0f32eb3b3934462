"""Time a training step of CFFA against a plain implementation of the same equations, on the same weights and captions.

The plain step is what most codes of the field do: attention weights computed and kept in all layers, quick GELU as
x * sigmoid(1.702 x), captions always at the full context and encoded twice, vocabulary scores at all places. Ours is
the forward pass of CFFAForPreTraining with loss_terms.loss_terms. Both run forward and backward, without optimizer and
without text dropout, so that their losses must agree (checked in float32, 1e-4 relative). Weights and images are
random; captions have lengths like real ones, 20 to 40 tokens, 30 on average.

Times: all variants take turns in one process, the fastest step of each counts; on a CPU the process keeps freed memory,
as CFFATrainer lets it, which helps both. `CPU s` is processor time, which tells
more on a machine that does other work besides; `CPU ratio` compares it with the plain step's in the same precision.
Memory: each variant runs in a process of its own; the peak of one step above weights and gradients, `memory` compares
it with the plain step's. Arithmetic: floating-point operations of matrix products, attention and convolution, counted
while a step runs. `peak` is the share of the fastest large matrix product measured in the same run and precision.
`ratio` is images/s over those of the plain step in the same precision, `to f32` over those of the plain float32 step.

    python benchmarks/training.py --batch-sizes 8 16 --precision float32 bf16
    python benchmarks/training.py --device cuda --batch-sizes 64 256
"""

import argparse
import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.cpu_layers import Linear, use_cpu_layers
from cffa_hf.loss_terms import loss_terms
from cffa_hf.losses import LossSettings
from cffa_hf.matrix_product import ONEDNN
from cffa_hf.modeling_cffa import CFFAForPreTraining
from cffa_hf.training.cpu_memory import kept_memory

WAYS = ("plain", "ours")
SETTINGS = LossSettings()
Batch = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="default: 8 16, with CUDA 64 256")
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each variant; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a model of toy size, to try the script")
    parser.add_argument("--measure-memory", nargs=3, metavar=("WAY", "PRECISION", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure_memory:
        way, precision, size = options.measure_memory
        print(json.dumps(measure_memory(way, precision, int(size), options)))
        return
    model = make_model(options)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    size = "x".join(map(str, model.config.image_size))
    print(f"{where}, torch {torch.__version__}, images {size}, {model.num_parameters() / 1e6:.1f} M weights")
    with kept_memory() if options.device == "cpu" else nullcontext():
        for batch_size in options.batch_sizes or ([64, 256] if options.device == "cuda" else [8, 16]):
            compare(model, batch_size, options)


def compare(model: CFFAForPreTraining, batch_size: int, options: argparse.Namespace) -> None:
    """Measure and print all variants at one batch size."""
    batch = make_batch(model.config, batch_size, options.device)
    variants = [(way, precision) for precision in options.precision for way in WAYS]
    memory = {variant: memory_in_process(*variant, batch_size, options) for variant in variants}
    losses, gradients, operations = check_equal(model, batch)
    peaks = {precision: matrix_peak(precision, options) for precision in options.precision}
    seconds: dict[tuple[str, str], float] = dict.fromkeys(variants, math.inf)
    processor = dict.fromkeys(variants, math.inf)
    for step in range(options.steps + 1):
        for variant in variants:
            elapsed, used = time_step(model, batch, *variant)
            if step:  # the first is a warm-up
                seconds[variant] = min(seconds[variant], elapsed)
                processor[variant] = min(processor[variant], used)
    for precision in options.precision:  # the machine may have been busy before
        peaks[precision] = max(peaks[precision], matrix_peak(precision, options))

    tokens = batch["attention_mask"].sum().item() / batch_size
    print(f"\nbatch {batch_size}, captions of {tokens:.1f} tokens, padded to {batch['input_ids'].shape[1]}")
    shown = ", ".join(f"{way} {value:.6f}" for way, value in losses.items())
    print(f"losses equal in float32: {shown}; gradient norms differ by {gradients:.0e} (relative)")
    print("matrix product peak: " + ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items()))
    titles = ["precision", "way", "images/s", "ratio", "to f32", "s/step", "CPU s", "CPU ratio"]
    titles += ["GFLOP/pair", "GFLOP/s", "peak", "MiB", "memory"]
    print(f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles), sep="\n")
    for way, precision in variants:
        variant, plain = (way, precision), ("plain", precision)
        rate = operations[way] / seconds[variant]
        cells = [
            *(precision, way, f"{batch_size / seconds[variant]:.2f}", f"{seconds[plain] / seconds[variant]:.2f}x"),
            f"{seconds['plain', 'float32'] / seconds[variant]:.2f}x" if "float32" in options.precision else "-",
            *(f"{seconds[variant]:.3f}", f"{processor[variant]:.3f}", f"{processor[plain] / processor[variant]:.2f}x"),
            *(f"{operations[way] / batch_size / 1e9:.1f}", f"{rate / 1e9:.0f}", f"{rate / peaks[precision]:.0%}"),
            *(f"{memory[variant] / 2**20:.0f}", f"{memory[variant] / memory[plain]:.2f}x"),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def make_model(options: argparse.Namespace) -> CFFAForPreTraining:
    """Build ViT-B/16 at 384 x 128 with CUHK-PEDES' identities, or a toy of it, with random weights."""
    torch.manual_seed(0)
    config = CFFAConfig(num_identities=11003)
    if options.tiny:
        sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128}
        text = {**sizes, "vocab_size": 600}
        vision = {**sizes, "patch_size": 16, "image_size": [64, 32]}
        widths = {"projection_dim": 64, "local_dim": 32, "cross_modal_layers": 1}
        config = CFFAConfig(text_config=text, vision_config=vision, num_identities=40, **widths)
    config.text_config.attention_dropout = 0.0  # the losses are compared
    model = CFFAForPreTraining(config).to(options.device).train()
    if options.device == "cpu":
        use_cpu_layers(model)  # as CFFATrainer does; the plain way uses the weights alone
    return model


def make_batch(config: CFFAConfig, size: int, device: str) -> Batch:
    """Draw random images and captions of natural length, masked at 15% of their words."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = config.text_config.vocab_size
    lengths = (30 + 6 * torch.randn(size, generator=generator)).round().long().clamp(20, 40)
    places = torch.arange(int(lengths.max()))
    ids = torch.randint(1, vocabulary - 3, (size, len(places)), generator=generator)
    ids[:, 0] = vocabulary - 2
    ids[places >= lengths[:, None] - 1] = vocabulary - 1
    words = (places > 0) & (places < lengths[:, None] - 1)
    chosen = words & (torch.rand(ids.shape, generator=generator) < 0.15)
    chosen[:, 1] = True
    batch = {
        "input_ids": ids.masked_fill(chosen, config.mask_token_id),
        "attention_mask": (places < lengths[:, None]).long(),
        "mlm_labels": ids.masked_fill(~chosen, -100),
        "pixel_values": torch.randn(size, 3, *config.image_size, generator=generator),
        "person_labels": torch.randint(0, max(2, size // 2), (size,), generator=generator),  # some appear twice
    }
    return {name: value.to(device) for name, value in batch.items()}


def our_loss(model: CFFAForPreTraining, batch: Batch) -> Tensor:
    """Compute the loss as CFFATrainer does."""
    output = model(**{name: value for name, value in batch.items() if name != "person_labels"})
    terms = loss_terms(
        SETTINGS,
        batch["person_labels"],
        global_features=(output.text_global, output.image_global),
        local_features=(output.text_local, output.image_local),
        identity_logits=(output.text_identity_logits, output.image_identity_logits),
        mlm_logits=output.mlm_logits,
        mlm_labels=batch["mlm_labels"],
    )
    return torch.stack(list(terms.values())).sum()


class PlainStep:
    """The same equations, written down without care for time and memory, over the same weights."""

    def __init__(self, model: CFFAForPreTraining):
        self.weights, self.config = dict(model.named_parameters()), model.config
        self.attentions: list[Tensor] = []  # of all layers, kept as the published implementation does

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Linear layer by the name of its weights."""
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Layer norm by the name of its weights."""
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def attend(self, queries: Tensor, context: Tensor, name: str, heads: int, mask: Tensor | None) -> Tensor:
        """Multi-head attention that keeps its weights, `(B, heads, N, M)`."""
        q, k, v = (
            self.linear(x, f"{name}.{part}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, part in ((queries, "q"), (context, "k"), (context, "v"))
        )
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask
        attention = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        self.attentions.append(attention)
        return self.linear((attention @ v).transpose(1, 2).flatten(2), f"{name}.out_proj")

    def layers(self, x: Tensor, name: str, count: int, heads: int, mask: Tensor | None = None) -> Tensor:
        """Pre-norm transformer layers with quick GELU."""
        for layer in (f"{name}.{index}" for index in range(count)):
            normalised = self.norm(x, f"{layer}.layer_norm1")
            x = x + self.attend(normalised, normalised, f"{layer}.self_attn", heads, mask)
            hidden = self.linear(self.norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            x = x + self.linear(hidden * torch.sigmoid(1.702 * hidden), f"{layer}.mlp.fc2")
        return x

    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens `(B, 1 + P, D)` and the attention of CLS `(B, 1 + P)`."""
        w, name, sizes = self.weights, "cffa.vision_model", self.config.vision_config
        x = F.conv2d(pixels, w[f"{name}.embeddings.patch_embedding.weight"], stride=self.config.stride)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([w[f"{name}.embeddings.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        x = self.norm(x + w[f"{name}.embeddings.position_embedding.weight"], f"{name}.pre_layrnorm")
        x = self.layers(x, f"{name}.encoder.layers", sizes.num_hidden_layers, sizes.num_attention_heads)
        tokens = self.linear(self.norm(x, f"{name}.post_layernorm"), "cffa.visual_projection")
        return tokens, self.attentions[-1].detach().mean(dim=1)[:, 0]

    def captions(self, ids: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens `(B, 77, D)` and the attention of the end token `(B, 77)`."""
        w, name, sizes = self.weights, "cffa.text_model", self.config.text_config
        x = F.embedding(ids, w[f"{name}.embeddings.token_embedding.weight"])
        x = x + w[f"{name}.embeddings.position_embedding.weight"]
        mask = torch.full((ids.shape[1], ids.shape[1]), -math.inf, device=ids.device).triu(1)
        x = self.layers(x, f"{name}.encoder.layers", sizes.num_hidden_layers, sizes.num_attention_heads, mask)
        tokens = self.linear(self.norm(x, f"{name}.final_layer_norm"), "cffa.text_projection")
        return tokens, self.attentions[-1].detach().mean(dim=1)[torch.arange(len(ids)), end]

    def refine(self, tokens: Tensor, saliency: Tensor, allowed: Tensor, count: int, name: str) -> Tensor:
        """Local feature of the most salient allowed tokens, `(B, F)`."""
        w = self.weights
        chosen = saliency.float().masked_fill(~allowed, -1.0).topk(min(count, saliency.shape[1]), dim=1).indices
        kept = allowed.gather(1, chosen)
        tokens = F.normalize(tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1])), dim=-1)[kept]
        hidden = self.linear(tokens, f"{name}.mlp_in")
        scale, shift = w[f"{name}.batch_norm.weight"], w[f"{name}.batch_norm.bias"]
        hidden = F.relu(F.batch_norm(hidden, None, None, scale, shift, training=True))
        refined = self.linear(tokens, f"{name}.linear") + self.linear(hidden, f"{name}.mlp_out")
        spread = refined.new_full((*chosen.shape, refined.shape[-1]), -math.inf)
        return spread.masked_scatter(kept[..., None], refined).amax(dim=1)

    def vocabulary(self, text: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Scores of the vocabulary at all places, `(B, 77, V)`."""
        heads, count = self.config.cross_modal_heads, self.config.cross_modal_layers
        text, image = self.norm(text, "cross_modal.text_norm"), self.norm(image, "cross_modal.image_norm")
        x = self.attend(text, image, "cross_modal", heads, None)
        bias = torch.zeros(mask.shape, device=x.device).masked_fill(~mask, -math.inf)[:, None, None]
        x = self.layers(x, "cross_modal.layers", count, heads, bias)
        x = self.linear(self.norm(x, "cross_modal.post_norm"), "mlm_head.dense")
        return self.linear(self.norm(x * torch.sigmoid(1.702 * x), "mlm_head.norm"), "mlm_head.decoder")

    def alignment(self, text: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """MAL in both directions, from its definition."""
        tau = SETTINGS.temperature
        with torch.autocast(text.device.type, enabled=False):
            cosines = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T
        same, total = labels[:, None] == labels, cosines.new_zeros(())
        for scores in (cosines, cosines.T):
            share = (scores / tau).masked_fill(~same, -math.inf).softmax(dim=1).detach()
            negatives = (scores / tau).masked_fill(same, -math.inf).logsumexp(dim=1)
            total = total + F.relu(SETTINGS.margin - (share * scores).sum(dim=1) + tau * negatives).sum()
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Compute the weighted loss; every caption is padded to the full context and encoded twice."""
        self.attentions.clear()
        padding = self.config.context_length - batch["input_ids"].shape[1]
        ids = F.pad(batch["input_ids"], (0, padding), value=self.config.text_config.pad_token_id)
        mask = F.pad(batch["attention_mask"], (0, padding)).bool()
        mlm_labels = F.pad(batch["mlm_labels"], (0, padding), value=-100)
        labels, rows, end = batch["person_labels"], torch.arange(len(ids)), mask.sum(dim=1) - 1
        image, image_saliency = self.images(batch["pixel_values"])
        text, text_saliency = self.captions(ids, end)
        masked_text, _ = self.captions(ids, end)  # masked captions are shared: the same, once more
        places = torch.arange(ids.shape[1], device=ids.device)
        words, patches = (places > 0) & (places < end[:, None]), torch.ones_like(image_saliency[:, 1:]).bool()
        sizes = self.config.selected_patches, self.config.selected_words
        image_local = self.refine(image[:, 1:], image_saliency[:, 1:], patches, sizes[0], "cffa.image_refinement")
        text_local = self.refine(text, text_saliency, words, sizes[1], "cffa.text_refinement")
        text_global, image_global = text[rows, end], image[:, 0]
        loss = self.alignment(text_global, image_global, labels) + self.alignment(text_local, image_local, labels)
        for features in (text_global, image_global):
            loss = loss + F.cross_entropy(self.linear(features, "identity_classifier").float(), labels) / 2
        scores = self.vocabulary(masked_text, image, mask).float()
        return loss + SETTINGS.mlm_weight * F.cross_entropy(scores.flatten(0, 1), mlm_labels.flatten())


def run_step(model: CFFAForPreTraining, batch: Batch, way: str, precision: str) -> Tensor:
    """Run forward and backward; gradients are added to those that exist."""
    device = batch["input_ids"].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss = PlainStep(model).loss(batch) if way == "plain" else our_loss(model, batch)
    loss.backward()
    return loss.detach()


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_step(model: CFFAForPreTraining, batch: Batch, way: str, precision: str) -> tuple[float, float]:
    """Time one step: seconds, and seconds of all processors."""
    device = batch["input_ids"].device.type
    model.zero_grad(set_to_none=True)
    synchronize(device)
    start, used = time.perf_counter(), time.process_time()
    run_step(model, batch, way, precision)
    synchronize(device)
    return time.perf_counter() - start, time.process_time() - used


def check_equal(model: CFFAForPreTraining, batch: Batch) -> tuple[dict[str, float], float, dict[str, float]]:
    """Compare losses and gradients in float32, and count the arithmetic.

    Returns:
        Losses, relative difference of the gradient norms, and operations of a step, by way.
    """
    losses, norms, operations = {}, {}, {}
    for way in WAYS:
        model.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False, custom_mapping=FLOP_COUNTS) as counter:
            losses[way] = run_step(model, batch, way, "float32").item()
        operations[way] = float(counter.get_total_flops())
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms[way] = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    if not math.isclose(*losses.values(), rel_tol=1e-4):
        raise SystemExit(f"the losses differ: {losses}")
    return losses, abs(norms["ours"] / norms["plain"] - 1), operations


def attention_operations(queries: tuple[int, ...], keys: tuple[int, ...], products: int) -> int:
    """Count the products of one attention, each `(B, heads, N, d)` by `(B, heads, d, M)` or as large."""
    return 2 * math.prod(queries) * keys[-2] * products


def attention_forward(queries, keys, values, *args, out_shape=None, **kwargs) -> int:
    return attention_operations(queries, keys, 2)


def attention_backward(gradient, queries, keys, values, *args, out_shape=None, **kwargs) -> int:
    return attention_operations(queries, keys, 5)  # scores are computed once more


def linear_forward(x, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x) * weight[0]


def linear_weight_gradient(gradient, x, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(gradient) * x[-1]


# What torch's counter does not know.
FLOP_COUNTS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}
if ONEDNN:
    FLOP_COUNTS[torch.ops.mkldnn._linear_pointwise] = linear_forward
    FLOP_COUNTS[torch.ops.aten.mkldnn_linear_backward_weights] = linear_weight_gradient


def matrix_peak(precision: str, options: argparse.Namespace) -> float:
    """Measure the fastest large matrix product, operations a second."""
    size = 256 if options.tiny else 8192 if options.device == "cuda" else 2048
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    a, b = (torch.randn(size, size, device=options.device).to(dtype) for _ in range(2))
    layer = Linear(size, size, bias=False, device=options.device, dtype=dtype).requires_grad_(False)
    best = math.inf
    for product in (lambda: a @ b, lambda: layer(a)) * 8:  # torch's own library, and ours
        synchronize(options.device)
        start = time.perf_counter()
        product()
        synchronize(options.device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory_in_process(way: str, precision: str, batch_size: int, options: argparse.Namespace) -> int:
    """Run `measure_memory` in a process of its own."""
    command = [sys.executable, __file__, "--device", options.device, "--threads", str(options.threads)]
    command += ["--measure-memory", way, precision, str(batch_size)] + ["--tiny"] * options.tiny
    return int(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def measure_memory(way: str, precision: str, batch_size: int, options: argparse.Namespace) -> int:
    """Return the peak bytes of a step above weights and gradients, which exist before it."""
    model = make_model(options)
    batch = make_batch(model.config, batch_size, options.device)
    run_step(model, batch, way, precision)
    gc.collect()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_step(model, batch, way, precision)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = resident_bytes("VmRSS")
    with kept_memory() if way == "ours" else nullcontext():
        run_step(model, batch, way, precision)
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Read a size of this process from the Linux kernel."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
