"""Publishing a dataset on the Hub: Parquet files with the images inside, private unless told otherwise."""

from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import CommitInfo

from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.facts import count_split
from cffa_hf.errors import InputError
from cffa_hf.publishing.cards import dataset_card
from cffa_hf.publishing.client import commit_folder, open_repository, read_readme
from cffa_hf.publishing.folders import upload_place, working_folder
from cffa_hf.publishing.model import notes_and_metadata
from cffa_hf.publishing.shards import write_shards


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

    The Parquet files are written into the cache of `datasets`, one after the other, and removed when they are published. An
    attempt that broke off goes on with the files that it lacks; those that the Hub has already are not sent again.

    Args:
        data: Splits in the dataset form.
        name: What the dataset is called in a config.
        repo_id: As for `cffa_hf.publishing.model.publish_model`.
        rendered: Whether the people are rendered.
        public: Whether everybody may see it.
        token: As for `publish_model`.

    Raises:
        InputError: If the repository is there and public, but `public` is false, or the other way round; or as `publish_model`.
    """
    repository = open_repository(repo_id, "dataset", private=not public, token=token)
    if not (public or repository.private):
        raise InputError(
            f"{repository.name} is public already: set public if these images may be passed on, or make it private "
            "first."
        )
    if public and repository.private:
        raise InputError(
            f"{repository.name} is there already and private: make it public in its settings on the Hub, or leave public out."
        )
    readme = read_readme(repository.name, "dataset", token=token)
    with working_folder(upload_place(repository.name, f"dataset {name}")) as work:
        write_dataset_folder(data, work / "out", name, repository.name, rendered=rendered, readme=readme)
        return commit_folder(
            work / "out",
            repository.name,
            "dataset",
            owned=["data/*.parquet"],
            token=token,
            commit_message="Publish dataset",
        )


def write_dataset_folder(
    data: DatasetDict, out: Path, name: str, repo_id: str, *, rendered: bool, readme: str | None = None
) -> None:
    """Write a dataset's Parquet files, images inside, and its card into a folder.

    What an earlier attempt has finished there stays, if it is of the same rows; `finished` beside the folder says so.

    Args:
        data: Splits in the dataset form.
        out: A folder that holds nothing else.
        name: What the dataset is called in a config.
        repo_id: Named in the card.
        rendered: Whether the people are rendered.
        readme: Card that is on the Hub now; its notes and its owner's metadata are kept.
    """
    write_shards({str(split): rows for split, rows in data.items()}, out / "data", out.with_name("finished"))
    notes, kept = notes_and_metadata(readme, repo_id)
    counts = {str(split): count_split(rows) for split, rows in data.items()}
    division = data.division.sentence if isinstance(data, PersonDatasetDict) else ""
    card = dataset_card(counts, name, repo_id, rendered=rendered, division=division, notes=notes, kept=kept)
    card.save(out / "README.md")
