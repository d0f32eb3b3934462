"""Embed and search on a device, and compare with the same model on the CPU: the same vectors, the same images found.

`lowest cosine` compares each vector with that of the CPU in float32, `same first` is the share of sentences whose best image
is the same. The model is ViT-B/16 at 384 x 128 with random weights. Ends with 1 if a vector differs or answers do.

    python benchmarks/gpu_search.py demo-data --device cuda
"""

import argparse
import copy
import os
import sys
import time
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from encoding import VOCABULARY, make_model
from torch import Tensor

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.errors import InputError
from cffa_hf.inference import Embedder
from cffa_hf.inputs import build_processor, train_tokenizer
from cffa_hf.search import Gallery

PRECISIONS = ("float32", "bfloat16")
MOST, SEARCHES = 64, 50  # images and captions that the CPU embeds, too; searches that are timed
# Lowest cosine of a vector with that of the CPU, and share of the same best images: those of random weights are all near.
ALLOWED = {"float32": (0.999, 0.9), "bfloat16": (0.98, 0.3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of a demo dataset in the layout of CUHK-PEDES")
    parser.add_argument("--device", default="cuda", help="cuda or cpu; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a toy model, to try the script")
    options = parser.parse_args()
    rows = load_person_dataset("cuhk_pedes", options.root)["train"]
    paths = [image["path"] for image in rows["image"][:]]
    texts = list(chain(*rows["captions"]))
    image_size = (64, 32) if options.quick else IMAGE_SIZE
    processor = build_processor(train_tokenizer(texts, VOCABULARY), image_size, CONTEXT_LENGTH)
    model = make_model(len(processor.tokenizer), image_size, options.quick)
    expected = Embedder(copy.deepcopy(model), processor, precision="float32")
    wanted = {"images": expected.images(paths[:MOST]), "captions": expected.captions(texts[:MOST])}
    best = best_images(expected, paths[:MOST], wanted)
    model = model.to(options.device)
    print("| precision | images/s | lowest cosine | captions/s | lowest cosine | same first | ms a search | |")
    print("| --- " * 8 + "|")
    right = [report(precision, model, processor, paths, texts, wanted, best) for precision in PRECISIONS]
    if not all(right):
        sys.exit("error: the device embeds or finds other things than the CPU")


def report(precision: str, model, processor, paths: list[str], texts: list[str], wanted: dict, best: list[int]) -> bool:
    """Print the row of a precision; returns whether all is as on the CPU."""
    try:
        embedder = Embedder(model, processor, precision=precision)
    except InputError as error:
        print(f"| {precision} | | | | | | | not run: {error} |")
        return True
    cells, lowest, found = [precision], 1.0, {}
    for name, embed, sources in (("images", embedder.images, paths), ("captions", embedder.captions, texts)):
        embed(sources[:MOST])  # what only the first call costs is not measured
        start = time.perf_counter()
        vectors = embed(sources)
        speed = len(sources) / (time.perf_counter() - start)
        found[name] = vectors[:MOST]
        cosine = float(F.cosine_similarity(found[name], wanted[name]).min())
        cells += [f"{speed:.0f}", f"{cosine:.5f}"]
        lowest = min(lowest, cosine)
    places = best_images(embedder, paths[:MOST], found)
    same = sum(one == other for one, other in zip(places, best, strict=True)) / len(best)
    cosine_allowed, same_allowed = ALLOWED[precision]
    right = lowest >= cosine_allowed and same >= same_allowed
    milliseconds = time_searches(embedder, paths[:MOST], texts)
    print(f"| {' | '.join(cells)} | {same:.0%} | {milliseconds:.1f} | {'ok' if right else 'FAILED'} |", flush=True)
    return right


def best_images(embedder: Embedder, paths: list[str], vectors: dict[str, Tensor]) -> list[int]:
    """Search a gallery of images by caption vectors; returns the id of the best image for each."""
    gallery = Gallery.from_images(embedder, paths, paths, progress=False)
    found = gallery.search_vectors(vectors["captions"], 1)
    gallery.close()
    return [results[0].id for results in found]


def time_searches(embedder: Embedder, paths: list[str], texts: list[str]) -> float:
    """Return the milliseconds of one search by a sentence."""
    gallery = Gallery.from_images(embedder, paths, paths, progress=False)
    gallery.search(texts[0])
    start = time.perf_counter()
    for text in islice(texts, SEARCHES):
        gallery.search(text)
    milliseconds = (time.perf_counter() - start) / min(SEARCHES, len(texts)) * 1000
    gallery.close()
    return milliseconds


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_grad_enabled(False)
    main()
