"""What is read, from which files, and by which function of the package."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from tests.fuzz.mutations import hostile_words
from tests.fuzz.product_targets import PRODUCTS, write_checkpoint
from tests.fuzz.target import Target, checked, damage_file, void
from tests.tiny import person_rows

REPOSITORY = Path(__file__).resolve().parents[2]
PEOPLE = (4, 2, 2)


# Layouts of benchmarks, and of one's own data


def benchmark(layout: str, annotations: str) -> Target:
    """The annotation file of a benchmark, and its images."""
    return Target(
        layout,
        lambda folder: void(write_demo_dataset(folder, layout, identities=PEOPLE, images_per_identity=1, workers=0)),
        damage_file(f"*/{annotations}", f"*/{annotations}", f"*/{annotations}", "*/imgs/**/*.jpg"),
        lambda folder: checked(load_person_dataset(layout, folder)),
    )


def write_own_data(folder: Path, suffix: str) -> None:
    """Eight images of four people, with a metadata file."""
    import pandas

    rows = []
    for index in range(8):
        Image.new("RGB", (16, 32), (index * 20, 60, 90)).save(folder / f"{index}.png")
        caption = f"A person in shirt {index % 4}."
        rows.append(
            {"file_name": f"{index}.png", "person_id": index // 2, "caption": caption, "camera": f"cam{index % 2}"}
        )
    table = pandas.DataFrame(rows)
    path = folder / f"metadata{suffix}"
    if suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    elif suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)


def own_data(suffix: str) -> Target:
    """A folder with a metadata file."""
    return Target(
        f"own data {suffix}",
        lambda folder: write_own_data(folder, suffix),
        damage_file(f"metadata{suffix}", f"metadata{suffix}", f"metadata{suffix}", "*.png"),
        lambda folder: checked(load_person_dataset(folder, validation_identities=1, test_identities=1)),
    )


def write_saved_dataset(folder: Path) -> None:
    """A split as `save_to_disk` writes it."""
    import datasets

    splits = {"train": person_rows(), "test": person_rows(2, first_id=90)}
    datasets.DatasetDict(splits).save_to_disk(str(folder / "saved"))


# Settings


def write_configs(folder: Path) -> None:
    """Configs that are shipped."""
    for name in ("demo", "cuhk_pedes", "own_data", "methods/rde"):
        (folder / f"{Path(name).name}.yaml").write_bytes((REPOSITORY / f"configs/{name}.yaml").read_bytes())


def read_configs(folder: Path) -> None:
    """Parse every config as training does."""
    from cffa_hf.arguments.parsing import parse_arguments

    for path in sorted(folder.glob("*.yaml")):
        parse_arguments(
            ["--config", str(path), "--dataset", "x", "--output_dir", str(folder / "out"), "--use_cpu", "true"]
        )


@cache
def setting_names() -> list[str]:
    """All settings of a training."""
    from dataclasses import fields

    from cffa_hf.arguments.parsing import RUN_CLASSES

    return sorted({field.name for kind in RUN_CLASSES for field in fields(kind) if field.init})


def damage_words(folder: Path, rng: random.Random) -> str:
    """Write a hostile command line."""
    words = hostile_words(setting_names(), rng)
    (folder / "words.txt").write_text("\x1f".join(words), encoding="utf-8", errors="replace")
    return " ".join(word[:40] for word in words)


def read_words(folder: Path) -> None:
    """Parse the command line as training does."""
    from cffa_hf.arguments.parsing import parse_arguments

    words = (folder / "words.txt").read_text(encoding="utf-8").split("\x1f")
    given = ["--dataset", "x", "--output_dir", str(folder / "out"), "--use_cpu", "true"]
    parse_arguments([*given, *words])


# Models and images


def read_checkpoint(folder: Path) -> None:
    """Open it as search and evaluation do, and embed a caption."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.inference import Embedder

    checkpoint = open_checkpoint(folder, device="cpu")
    Embedder(checkpoint.model, checkpoint.processor).captions(["A person in a red shirt."])


def write_images(folder: Path) -> None:
    """One picture in each format that is read."""
    picture = Image.radial_gradient("L").resize((40, 80)).convert("RGB")
    for suffix in ("jpg", "png", "bmp", "webp", "tiff", "gif", "ppm"):
        picture.save(folder / f"a.{suffix}")


def read_images(folder: Path) -> None:
    """Decode every picture; each one may be refused."""
    from cffa_hf.errors import InputError
    from cffa_hf.inputs.images import load_pixels

    refused: list[InputError] = []
    for path in sorted(folder.iterdir()):
        try:
            load_pixels(path, (64, 32))
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


TARGETS: Sequence[Target] = (
    benchmark("cuhk_pedes", "reid_raw.json"),
    benchmark("icfg_pedes", "ICFG-PEDES.json"),
    benchmark("rstpreid", "data_captions.json"),
    own_data(".jsonl"),
    own_data(".csv"),
    own_data(".parquet"),
    Target(
        "saved dataset",
        write_saved_dataset,
        damage_file("saved/**/*.json", "saved/**/*.arrow"),
        lambda folder: checked(load_person_dataset(folder / "saved")),
    ),
    Target("configs", write_configs, damage_file("*.yaml"), read_configs),
    Target("settings", void, damage_words, read_words),
    Target("checkpoint", write_checkpoint, damage_file("*.json", "*.safetensors", "*.txt"), read_checkpoint),
    Target("images", write_images, damage_file("a.*"), read_images),
    *PRODUCTS,
)
