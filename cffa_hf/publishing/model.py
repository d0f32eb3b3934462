"""Publishing a model, or a Space of this package, on the Hub: one folder that becomes one commit."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, RepoCard
from transformers import TrainingArguments
from transformers.dynamic_module_utils import get_relative_import_files
from yaml import YAMLError

from cffa_hf.checkpoints.opening import open_model, without_bars
from cffa_hf.checkpoints.provenance import weights_digest
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.seen import read_seen
from cffa_hf.errors import InputError, one_line
from cffa_hf.files import new_folder, write_text
from cffa_hf.names import RESULTS, RUN_RECORD, SEEN_RECORD, STATE_FILE, TRAINING_PICTURE
from cffa_hf.publishing.cards import (
    BEGIN_NOTES,
    END_NOTES,
    first_picture,
    model_card,
    read_notes,
    shows_only_rendered_people,
)
from cffa_hf.publishing.client import check_repo_id, commit_folder, open_repository, read_readme
from cffa_hf.publishing.curves import draw_training_curves
from cffa_hf.publishing.folders import is_earlier, upload_folder
from cffa_hf.records.files import read_record

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
MODELLING_CODE = PACKAGE / "modeling_cffa.py"
SENTENCE_CODE = PACKAGE / "publishing" / "sentence_cffa.py"
# What `SentenceTransformer(folder)` reads: one module, which calls these two methods of the model.
SENTENCE_SETTINGS: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_cffa.CFFASentences"}],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": None},
            "image": {"method": "get_image_features", "method_output_name": None},
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "dot"},
}
PICTURES = ("*ranking.png", "*cmc.png")
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    RUN_RECORD,
    SEEN_RECORD,
    RESULTS,
    TRAINING_PICTURE,
    *PICTURES,
)


def publish_model(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    with_pictures: bool = False,
    token: str | None = None,
    commit_message: str = "Publish model",
) -> CommitInfo:
    """Publish a run's folder or one of its checkpoints in one commit.

    Args:
        checkpoint: Folder with config, weights and processor.
        repo_id: `owner/name`, or a name of one's own. It is made if it is not there.
        private: Whether it is made private; an existing repository stays what it is.
        revision: Branch; it is made if it is not there. None: main.
        create_pr: Open a pull request instead of changing the branch.
        with_pictures: Publish pictures of people who are not known to be rendered: only if they have agreed.
        token: None: the one of `hf auth login` or HF_TOKEN.
        commit_message: Title of the commit.

    Raises:
        InputError: If there is no complete model, no token, or no permission, or the Hub cannot be reached.
    """
    source = check_checkpoint(checkpoint)
    repository = open_repository(repo_id, private=private, revision=revision, create_pr=create_pr, token=token)
    with upload_folder(repository.name, "model") as folder:
        readme = read_readme(repository.name, "model", revision=revision, token=token)
        write_model_folder(
            source,
            folder,
            repository.name,
            readme=readme,
            private=repository.private,
            with_pictures=with_pictures,
        )
        return commit_folder(
            folder,
            repository.name,
            "model",
            owned=MODEL_FILES,
            revision=revision,
            create_pr=create_pr,
            token=token,
            commit_message=commit_message,
        )


def open_run_repository(args: TrainingArguments, *, token: str | None = None, private: bool | None = None) -> str:
    """Make sure, before a training, that its repository is there and that the token may write.

    Returns:
        The full name, `owner/name`: `hub_model_id`, or the name of the run's folder.

    Raises:
        InputError: As `open_repository`.
    """
    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    private = args.hub_private_repo if private is None else private
    return open_repository(name, private=private, token=token or args.hub_token).name


def publish_run(
    args: TrainingArguments, *, token: str | None = None, private: bool | None = None, **options: Any
) -> CommitInfo:
    """Publish the folder of a training in the repository that its arguments name.

    Args:
        args: `output_dir`, `hub_model_id`, `hub_private_repo`, `hub_revision` and `hub_token` are read.
        token: Instead of that of `args`.
        private: Instead of what `args` say.
        **options: `revision` and `commit_message` of `publish_model`.

    Raises:
        InputError: As `publish_model`.
    """
    name = open_run_repository(args, token=token, private=private)
    options["revision"] = options.get("revision") or args.hub_revision
    return publish_model(str(args.output_dir), name, token=token or args.hub_token, **options)


def dry_run_model(
    checkpoint: str | Path, out: str | Path, repo_id: str, *, private: bool = False, with_pictures: bool = False
) -> None:
    """Write into a folder exactly what `publish_model` would commit.

    The Hub is only asked for the notes of a card that is there already; where it cannot be reached, the card is new.

    Args:
        checkpoint: As for `publish_model`.
        out: Folder; a former dry run in it is replaced.
        repo_id: As for `publish_model`.
        private: As for `publish_model`.
        with_pictures: As for `publish_model`.

    Raises:
        InputError: If there is no complete model, or the folder holds something else.
    """
    source, out = check_checkpoint(checkpoint), Path(out).expanduser()
    check_repo_id(repo_id)
    try:
        readme = read_readme(repo_id, "model")
    except InputError as error:
        logger.info(f"No earlier card: {error}")
        readme = None
    is_earlier(out, mark="config.json", protected=source)
    with new_folder(out, over=True) as folder:
        write_model_folder(source, folder, repo_id, readme=readme, private=private, with_pictures=with_pictures)
        is_earlier(out, mark="config.json", protected=source)  # what is there may have changed meanwhile


def check_checkpoint(checkpoint: str | Path) -> Path:
    """Return the folder of a checkpoint.

    Raises:
        InputError: If config or weights are missing.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        raise InputError(f"{checkpoint}: there is no such folder; give the folder of a run or of a checkpoint.")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no config.json, so this is no checkpoint; give the folder that has one.")
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: there are no weights (model.safetensors); train first, or give another folder.")
    return folder


def write_model_folder(
    source: Path,
    out: Path,
    repo_id: str,
    *,
    readme: str | None = None,
    private: bool = False,
    with_pictures: bool = False,
) -> None:
    """Write the folder that is published: embedding model, processor, code, records, pictures and card.

    Args:
        source: Run's folder or checkpoint. Out of a training checkpoint the embedding model is taken.
        out: An empty folder.
        repo_id: Named in the card.
        readme: Card that is on the Hub now. Its notes and its owner's metadata are kept; without one, those of
            `source/README.md`.
        private: Whether only its owners will see it; then pictures of people may be in it.
        with_pictures: Whether they may be in it anyway.

    Raises:
        InputError: If model or processor are incomplete, as in `open_model`, or a record is damaged.
    """
    opened = open_model(source)
    model, processor = opened.model, opened.processor
    # A checkpoint that came from the Hub may point to the code of the repository it came from.
    model.config.auto_map = dict(CFFAConfig().auto_map)
    for where in ("is_local", "local_files_only"):  # how it was loaded here is nothing to publish
        processor.tokenizer.init_kwargs.pop(where, None)
    with without_bars():
        model.save_pretrained(out)
    processor.save_pretrained(out)
    for path in (MODELLING_CODE, *map(Path, get_relative_import_files(MODELLING_CODE)), SENTENCE_CODE):
        shutil.copyfile(path, out / path.name)
    for name, settings in SENTENCE_SETTINGS.items():
        write_text(out / name, json.dumps(settings, indent=2) + "\n")
    copy_records(source, out, private=private, with_pictures=with_pictures)
    local = source / "README.md"
    if readme is None and local.is_file():
        try:
            readme = local.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{local} cannot be read as UTF-8 text ({one_line(error)}); write it again, or remove it."
            ) from error
        if readme and BEGIN_NOTES not in readme:
            logger.warning(
                f"{local}: only its metadata goes into the card; words of yours go there between {BEGIN_NOTES} and {END_NOTES}."
            )
            readme = f"{readme}\n{BEGIN_NOTES}\n{END_NOTES}\n"
    notes, kept = notes_and_metadata(readme, repo_id)
    model_card(out, repo_id, notes=notes, kept=kept).save(out / "README.md")


def copy_records(source: Path, out: Path, *, private: bool, with_pictures: bool = False) -> None:
    """Copy the records of training and evaluation and their pictures, and draw the training's curves.

    Results of other weights stay behind. So do pictures of people, unless these are known to be rendered, publishing is
    private, or `with_pictures` says that they may be shown.
    """
    record = next((folder / RUN_RECORD for folder in (source, source.parent) if (folder / RUN_RECORD).is_file()), None)
    if record:
        read_record(record)
        shutil.copyfile(record, out / RUN_RECORD)
    if read_seen(source):
        shutil.copyfile(source / SEEN_RECORD, out / SEEN_RECORD)
    curves = read_record(source / STATE_FILE).get("log_history")
    if isinstance(curves, list):
        draw_training_curves(curves, out / TRAINING_PICTURE)
    results = read_record(source / RESULTS)
    if not results:
        logger.warning(
            f"{source} was not evaluated yet, so the card has no numbers; cffa-hf evaluate {source} gives it some."
        )
        return
    checkpoint = results.get("checkpoint")
    digest = checkpoint.get("weights_sha256") if isinstance(checkpoint, dict) else None
    if digest is not None and digest != weights_digest(source):
        logger.warning(f"{source / RESULTS} is left out: it was measured on other weights; run run_eval.py again.")
        return
    shutil.copyfile(source / RESULTS, out / RESULTS)
    for pattern in PICTURES:
        picture = first_picture(source, pattern)
        if picture and pattern == "*ranking.png" and not (private or with_pictures or shows_only_rendered_people(out)):
            logger.warning(
                f"{picture} is left out: it shows people, and they are not known to be rendered (run_eval.py of this "
                "version records that); --with-pictures publishes it, if they have agreed."
            )
        elif picture:
            shutil.copyfile(source / picture, out / picture)


def notes_and_metadata(readme: str | None, source: str) -> tuple[str, Mapping[str, Any]]:
    """Split an earlier card into a person's notes and its metadata.

    Raises:
        InputError: If the marks round the notes are broken, or the metadata cannot be read.
    """
    if not readme:
        return "", {}
    notes = read_notes(readme, f"the README.md of {source}")
    if notes is None:
        logger.warning(
            f"The README.md of {source} has no marks for notes and is replaced; its history keeps the old one."
        )
    try:
        metadata = RepoCard(readme, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, RecursionError, YAMLError) as error:
        raise InputError(
            f"The README.md of {source} begins with metadata that cannot be read ({one_line(error, 200)}); mend them."
        ) from error
    return notes or "", metadata
