"""What this package writes and reads again, other people's weights, large sets and shards."""

import io
import json
import random
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import datasets
import torch

from cffa_hf.data.collator import PairCollator
from cffa_hf.data.loading import load_person_dataset
from tests.fuzz.mutations import damage
from tests.fuzz.target import Target, checked, damage_file, void
from tests.shards import write_shards
from tests.tiny import IMAGE_SIZE, person_rows, tiny_model, tiny_processor
from tests.trainers import QUIET, fitting_model, tiny_trainer


def write_checkpoint(folder: Path) -> None:
    """A published model."""
    tiny_model().cffa.save_pretrained(folder)
    tiny_processor(person_rows()).save_pretrained(folder)


def use_cache(folder: Path) -> None:
    """Keep what loading writes beside the files of the case."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"


# Large sets and shards


def write_layout(name: str, folder: Path) -> None:
    """A tiny set in one of the layouts of pre-training."""
    from PIL import Image

    from tests.data.test_layouts import write

    for path in write(name, folder).rglob("*"):
        if path.suffix in (".jpg", ".png"):
            Image.new("RGB", (8, 16), (90, 60, 30)).save(path)


def read_layout(name: str, folder: Path) -> None:
    """Load it, and read its images."""
    use_cache(folder)
    no_validation = {"validation_identities": 0} if name.startswith("tbps") else {}
    with redirect_stderr(io.StringIO()):
        checked(load_person_dataset(name, folder, **no_validation))


def layout(name: str) -> Target:
    """The annotation files of a set."""
    return Target(name, partial(write_layout, name), damage_file("**/*.json"), partial(read_layout, name))


def read_token_ids(folder: Path) -> None:
    """Encode its captions, and look every one up."""
    from unittest.mock import patch

    from cffa_hf.data import token_ids

    use_cache(folder)
    rows = person_rows()
    with patch.object(token_ids, "CACHED_CAPTIONS", 1), patch.object(token_ids, "PART_CAPTIONS", 4):
        ids = token_ids.encode_rows(rows, tiny_processor(rows).tokenizer, 77)
    assert all(ids[number] for number in range(sum(map(len, rows["captions"]))))


def damage_cache(read: Callable[[Path], None]) -> Callable[[Path, random.Random], str]:
    """Read something, so that its cache is there, and damage a file of the cache."""

    def change(folder: Path, rng: random.Random) -> str:
        read(folder)
        files = [path for path in folder.glob("cache/**/*") if path.is_file()]
        return damage(rng.choice(sorted(files, key=lambda path: (path.suffix, path.name))), rng)

    return change


def write_packed(folder: Path) -> None:
    """Tars and Parquet files of different sizes."""
    write_shards(folder / "shards")


def read_shards(folder: Path) -> None:
    """Read tars and Parquet files at random, as an evaluation does."""
    use_cache(folder)
    checked(load_person_dataset(folder / "shards", validation_identities=0, test_identities=0))


def read_stream(folder: Path) -> None:
    """Read them one after the other, as a training does that streams; a few damaged samples are passed over."""
    from cffa_hf.data.shards import open_shards
    from cffa_hf.data.stream import StreamBatches

    use_cache(folder)
    tokenizer = tiny_processor(person_rows()).tokenizer
    collate = PairCollator(tokenizer.pad_token_id)
    stream = StreamBatches(
        open_shards(folder / "shards"), tokenizer, collate, image_size=IMAGE_SIZE, batch_size=4, failure_limit=6
    )
    assert sum(len(batch["input_ids"]) for batch in stream) == 4 * len(stream)


# Galleries


def write_gallery(folder: Path) -> None:
    """A gallery of six images and the checkpoint that made it."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.inference import Embedder
    from cffa_hf.search.gallery import Gallery

    write_checkpoint(folder / "model")
    for row in person_rows(3):
        path = folder / "images" / row["file_path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    lines = ["file_name,camera", *(f"{number}.png,cam{number % 2}" for number in range(6))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    embedder = Embedder.from_checkpoint(open_checkpoint(folder / "model", device="cpu"), precision="float32")
    table = folder / "metadata.csv"
    Gallery.from_folder(embedder, folder / "images", folder / "gallery", metadata=table, progress=False)


def read_gallery(folder: Path) -> None:
    """Open it, answer a sentence, and bring it up to date."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.inference import Embedder
    from cffa_hf.search.gallery import Gallery

    embedder = Embedder.from_checkpoint(open_checkpoint(folder / "model", device="cpu"), precision="float32")
    gallery = Gallery.open(folder / "gallery", embedder)
    gallery.check()
    results = gallery.search("a person in a red shirt", 6, where={"camera": "cam1"})
    assert all(result.metadata["camera"] == "cam1" and abs(result.score) < 1.01 for result in results)
    table = folder / "metadata.csv"
    Gallery.from_folder(embedder, folder / "images", folder / "gallery", metadata=table, progress=False)


# Runs and what is published of them


def write_run(folder: Path) -> None:
    """The folder of a finished run with its records, and an earlier dry run."""
    from cffa_hf.publishing.model import dry_run_model
    from tests.publishing.test_cards import DEMO_TEST, results, run_record

    run = folder / "run"
    tiny_model().save_pretrained(run)
    tiny_processor(person_rows()).save_pretrained(run)
    history = [{"epoch": 1.0, "loss": 3.0, "loss_identity": 1.0}, {"epoch": 1.0, "eval_rank1": 20.0}, {"epoch": 2.0}]
    state = {"log_history": history, "global_step": 8, "best_model_checkpoint": None, "best_metric": 20.0}
    splits = {"name": "cuhk_pedes", "rendered": True, "splits": {"train": DEMO_TEST}}
    records = {
        "trainer_state.json": state,
        "run.json": run_record(dataset=splits, init_from=None),
        "results.json": results(DEMO_TEST, rendered=True),
    }
    for name, record in records.items():
        (run / name).write_text(json.dumps(record))
    dry_run_model(run, folder / "published", "owner/model")


def read_run(folder: Path) -> None:
    """Publish it into a folder, over the earlier one, and read what an evaluation would add to."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.publishing.model import dry_run_model
    from cffa_hf.records.results import read_splits

    checkpoint = open_checkpoint(folder / "run", device="cpu")
    read_splits(folder / "run", checkpoint)
    dry_run_model(folder / "run", folder / "published", "owner/model")


def read_published(folder: Path) -> None:
    """Publish the published folder again, as one who has changed its card does."""
    from cffa_hf.publishing.model import dry_run_model

    dry_run_model(folder / "published", folder / "again", "owner/model")


def training(folder: Path, steps: int, **settings):
    """A training of two steps with a checkpoint after the first."""
    rows = person_rows(4, 2)
    processor = tiny_processor(rows)
    settings = {**QUIET, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1, **settings}
    return tiny_trainer(
        folder,
        rows=rows,
        processor=processor,
        model=fitting_model(processor, num_identities=4),
        max_steps=steps,
        per_device_train_batch_size=4,
        **settings,
    )


def write_training(folder: Path) -> None:
    """A run that was stopped after its first step."""
    training(folder / "out", 1).train()


def read_training(folder: Path) -> None:
    """Go on where it was stopped."""
    from cffa_hf.training.resume import checkpoint_to_resume

    checkpoint = checkpoint_to_resume(str(folder / "out" / "checkpoint-1"), folder / "out")
    training(folder / "out", 2).train(resume_from_checkpoint=checkpoint)


# Weights


def write_originals(folder: Path) -> None:
    """A CLIP in its original layout in three kinds of file."""
    from safetensors.torch import save_file

    from tests.checkpoints.test_conversion import clip_model, original_clip

    weights = {name: value.contiguous().clone() for name, value in original_clip(clip_model().state_dict()).items()}
    torch.save(weights, folder / "clip.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, folder / "clip.pth")
    save_file(weights, folder / "clip.safetensors")


def read_originals(folder: Path) -> None:
    """Convert each; every one may be refused."""
    from cffa_hf.checkpoints.conversion import convert
    from cffa_hf.errors import InputError

    refused: list[InputError] = []
    for path in sorted(folder.glob("clip.*")):
        try:
            convert(str(path), image_size=IMAGE_SIZE)
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def write_graphs(folder: Path) -> None:
    """A model exported as ONNX graphs."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.inference.onnx_export import export_onnx

    write_checkpoint(folder / "model")
    checkpoint = open_checkpoint(folder / "model", device="cpu")
    digest = checkpoint.weights_sha256
    export_onnx(checkpoint.model, checkpoint.processor, folder / "graphs", weights_sha256=digest)


def read_graphs(folder: Path) -> None:
    """Embed a caption with them."""
    from cffa_hf.inference import Embedder

    Embedder.from_onnx(folder / "graphs").captions(["A person in a red shirt."])


LAYOUTS = ("mals", "sda", "luperson_mllm", "webperson", "ufine6926", "aptm_cuhk_pedes", "tbps_clip_icfg_pedes")
READ_ROWS = partial(read_layout, "synth_pedes")
PRODUCTS: Sequence[Target] = (
    *map(layout, LAYOUTS),
    Target("cache of rows", partial(write_layout, "synth_pedes"), damage_cache(READ_ROWS), READ_ROWS),
    Target("cache of token ids", void, damage_cache(read_token_ids), read_token_ids),
    Target("shards", write_packed, damage_file("shards/*"), read_shards),
    Target("streamed shards", write_packed, damage_file("shards/*"), read_stream),
    Target("gallery", write_gallery, damage_file("gallery/**/*", "gallery/*.json", "metadata.csv"), read_gallery),
    Target("run folder", write_run, damage_file("run/*.json", "run/[rt]*.json"), read_run),
    Target("published folder", write_run, damage_file("published/*"), read_published),
    Target("resumed run", write_training, damage_file("out/checkpoint-1/*"), read_training),
    Target("original weights", write_originals, damage_file("clip.*"), read_originals),
    Target("ONNX folder", write_graphs, damage_file("graphs/*"), read_graphs),
)
