"""Encode a split: one pass per item, short captions together, images decoded in workers, against the plain way.

The plain way is that of research code: all items are encoded twice, once for the global and once for the local
features, captions stand in the order of the file and are padded to the full context, and one process both decodes and
computes. Both are measured in this run, on rendered people and a model with random weights, and must give the same
embeddings.

    python benchmarks/encoding.py [--people 100] [--workers 2]
"""

import argparse
import tempfile
import time
from itertools import chain

import torch

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.collator import PairCollator
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.evaluation.evaluator import RetrievalEvaluator
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inputs.images import normalise_images
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.modeling_cffa import CFFAModel, choose_tokens, combine_features

CONTEXT, IMAGE_SIZE, PLAIN_BATCH = 77, (192, 64), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100, help="people, of four images and eight captions each")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_demo_dataset(folder, identities=(1, 1, arguments.people))
        rows = load_person_dataset("cuhk_pedes", folder)["test"]
        processor = build_processor(train_tokenizer(chain(*rows["captions"]), 800), IMAGE_SIZE, CONTEXT)
        model = make_model(len(processor.tokenizer))
        plain_time, plain = timed(lambda: plain_embeddings(model, processor, rows))
        evaluator = RetrievalEvaluator(
            rows, processor, batch_size=PLAIN_BATCH, num_workers=arguments.workers, progress=False
        )
        time_taken, embeddings = timed(lambda: evaluator.embed(model))
    difference = max(float((plain[0] - embeddings.image).abs().max()), float((plain[1] - embeddings.text).abs().max()))
    print(f"{len(plain[0]):,} images of {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]}, {len(plain[1]):,} captions")
    print(f"plain: {plain_time:.1f} s, this package: {time_taken:.1f} s, {plain_time / time_taken:.1f} times as fast")
    print(f"largest difference between the embeddings: {difference:.1e}")


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def make_model(vocabulary: int) -> CFFAModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 4, "intermediate_size": 768}
    text = {**sizes, "vocab_size": vocabulary, "max_position_embeddings": CONTEXT}
    vision = {**sizes, "patch_size": 16, "image_size": list(IMAGE_SIZE)}
    return CFFAModel(CFFAConfig(text_config=text, vision_config=vision, projection_dim=192, local_dim=256)).eval()


def plain_embeddings(model: CFFAModel, processor, rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode everything twice, in order, padded, in one process."""
    evaluator = RetrievalEvaluator(rows, processor, progress=False)  # tokenises and reads
    collator = PairCollator(processor.tokenizer.pad_token_id)
    images, texts = [], []
    with evaluation_mode(model):
        for wanted in ("global", "local"):
            parts = []
            for start in range(0, len(evaluator.images), PLAIN_BATCH):
                stop = min(start + PLAIN_BATCH, len(evaluator.images))
                batch = collator([evaluator.images[index] for index in range(start, stop)])
                features = model.encode_images(normalise_images(batch["pixel_values"]))
                parts.append(features.pooled if wanted == "global" else features.local)
            images.append(torch.cat(parts))
        for wanted in ("global", "local"):
            parts = []
            for start in range(0, len(evaluator.captions), PLAIN_BATCH):
                stop = min(start + PLAIN_BATCH, len(evaluator.captions))
                ids = torch.full((stop - start, CONTEXT), processor.tokenizer.pad_token_id)
                for row, index in enumerate(range(start, stop)):
                    words = torch.tensor(evaluator.captions.input_ids(index))
                    ids[row, : len(words)] = words
                parts.append(encode_padded(model, ids)[0 if wanted == "global" else 1])
            texts.append(torch.cat(parts))
    return combine_features(*images), combine_features(*texts)


def encode_padded(model: CFFAModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode captions at their full padded length; the model itself would cut the padding."""
    _, end = model.trim_captions(ids)
    hidden, saliency = model.text_model(ids, end)
    tokens = model.text_projection(hidden)
    positions = torch.arange(ids.shape[1])
    words = (positions > 0) & (positions < end[:, None])
    chosen = choose_tokens(tokens, saliency, model.config.selected_words, words)
    return tokens[torch.arange(len(ids)), end], model.text_refinement(chosen)


if __name__ == "__main__":
    main()
