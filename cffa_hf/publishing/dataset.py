"""Publishing a dataset on the Hub: Parquet files with the images inside, private unless told otherwise."""

from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image
from datasets.table import InMemoryTable
from huggingface_hub import CommitInfo

from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.facts import count_split
from cffa_hf.errors import InputError
from cffa_hf.inputs.packed import read_packed, shard_of
from cffa_hf.publishing.cards import dataset_card
from cffa_hf.publishing.client import commit_folder, open_repository, read_readme
from cffa_hf.publishing.folders import new_folder
from cffa_hf.publishing.model import notes_and_metadata

SHARD_BYTES = 256 * 2**20


def publish_dataset(
    data: DatasetDict,
    name: str,
    repo_id: str,
    *,
    rendered: bool = False,
    public: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Publish a dataset in one commit, privately unless told otherwise.

    Args:
        data: Splits in the dataset form.
        name: What the dataset is called in a config.
        repo_id: As for `cffa_hf.publishing.model.publish_model`.
        rendered: Whether the people are rendered.
        public: Whether everybody may see it.
        token: As for `publish_model`.

    Raises:
        InputError: If the repository is there and public, but `public` is false; or as `publish_model`.
    """
    repository = open_repository(repo_id, "dataset", private=not public, token=token)
    if not (public or repository.private):
        raise InputError(
            f"{repository.name} is public already: set public if these images may be passed on, or make it private "
            "first."
        )
    with new_folder() as folder:
        readme = read_readme(repository.name, "dataset", token=token)
        write_dataset_folder(data, folder, name, repository.name, rendered=rendered, readme=readme)
        return commit_folder(
            folder,
            repository.name,
            "dataset",
            owned=["data/*.parquet"],
            token=token,
            commit_message="Publish dataset",
        )


def write_dataset_folder(
    data: DatasetDict, out: Path, name: str, repo_id: str, *, rendered: bool, readme: str | None = None
) -> None:
    """Write a dataset's Parquet files, images inside, and its card into an empty folder.

    Args:
        data: Splits in the dataset form.
        out: An empty folder.
        name: What the dataset is called in a config.
        repo_id: Named in the card.
        rendered: Whether the people are rendered.
        readme: Card that is on the Hub now; its notes and its owner's metadata are kept.
    """
    (out / "data").mkdir()
    for split, rows in data.items():
        shards = shard_bounds(rows)
        for number, (begin, end) in enumerate(shards):
            shard = with_bytes(rows.select(range(begin, end)))
            path = out / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            shard.to_parquet(path)
    notes, kept = notes_and_metadata(readme, repo_id)
    counts = {str(split): count_split(rows) for split, rows in data.items()}
    division = data.division.sentence if isinstance(data, PersonDatasetDict) else ""
    card = dataset_card(counts, name, repo_id, rendered=rendered, division=division, notes=notes, kept=kept)
    card.save(out / "README.md")


def with_bytes(rows: Dataset) -> Dataset:
    """Put the content of every image file into its row, under its base name.

    `datasets` would embed them too, but it takes `::` in a file's name for a place inside another file.
    """
    images = []
    for image in rows["image"]:
        path = image["path"]
        packed = image["bytes"] if image["bytes"] is not None else read_packed(path)
        name = Path(path).name if path and shard_of(path) is None else None
        images.append({"bytes": Path(path).read_bytes() if packed is None else packed, "path": name})
    columns = {name: rows[name][:] for name in rows.column_names if name != "image"}
    features = rows.features.copy()
    features["image"] = Image()
    schema = features.arrow_schema
    table = pa.table({name: images if name == "image" else columns[name] for name in schema.names}, schema=schema)
    return Dataset(InMemoryTable(table))


def shard_bounds(rows: Dataset) -> list[tuple[int, int]]:
    """Divide the rows of a split into files of about `SHARD_BYTES`."""
    bounds, begin, size = [], 0, 0
    for index, image in enumerate(rows["image"]):
        content = image["bytes"] if image["bytes"] is not None else read_packed(image["path"])
        size += Path(image["path"]).stat().st_size if content is None else len(content)
        if size >= SHARD_BYTES or index == len(rows) - 1:
            bounds.append((begin, index + 1))
            begin, size = index + 1, 0
    return bounds
