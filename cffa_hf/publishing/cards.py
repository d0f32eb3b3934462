"""Model and dataset cards, made from what a run and an evaluation have written down.

A card says what its sources tell and leaves out the rest. What a person wrote between the two marks is kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError
from cffa_hf.names import METRICS, RESULTS, RUN_RECORD, TRAINING_PICTURE, hub_name
from cffa_hf.publishing import card_text as text
from cffa_hf.publishing.card_text import (
    DIRECTIONS_IN_WORDS,
    benchmark_of,
    is_number,
    known_format,
    mapping,
    measured_splits,
)
from cffa_hf.publishing.markdown import escape, plain, target
from cffa_hf.records.files import read_record
from cffa_hf.version import VERSION

BEGIN_NOTES = "<!-- begin notes -->"
END_NOTES = "<!-- end notes -->"
TEMPLATES = Path(__file__).parent / "templates"

# Of the tags that exist it is the one whose pipeline really runs this model: it returns the embedding of an image.
PIPELINE_TAG = "image-feature-extraction"

MODEL_TAGS = (
    *("text-based-person-retrieval", "person-search", "person-re-identification", "image-text-retrieval"),
    *("cffa", "custom_code"),
)


def read_notes(readme: str, source: str) -> str | None:
    """Read what a person wrote between the two marks of a card.

    Args:
        readme: Text of the card.
        source: What to call it in a message.

    Returns:
        The notes without outer blank lines; None if the card has no marks.

    Raises:
        InputError: If one mark stands without the other, or marks stand twice: something would be lost.
    """
    counts = readme.count(BEGIN_NOTES), readme.count(END_NOTES)
    if counts == (0, 0):
        return None
    begin, end = readme.find(BEGIN_NOTES), readme.find(END_NOTES)
    if counts != (1, 1) or end < begin:
        raise InputError(
            f"{source}: the marks {BEGIN_NOTES} and {END_NOTES} must stand there once each, in this order, or what was "
            "written between them would be lost: fix the card first."
        )
    return readme[begin + len(BEGIN_NOTES) : end].strip()


def shows_only_rendered_people(folder: Path) -> bool:
    """Say whether the results in a folder, and so its ranked images, are known to be of rendered people only."""
    measured = measured_splits(read_record(folder / RESULTS))
    return bool(measured) and all(part.get("rendered") is True and not benchmark_of(part) for part in measured)


def model_card(folder: Path, repo_id: str, *, notes: str = "", kept: Mapping[str, Any] | None = None) -> ModelCard:
    """Make the card of a published model.

    Args:
        folder: What is published: config.json and, as far as they exist, run.json, results.json and pictures.
        repo_id: Where it is published.
        notes: What a person wrote.
        kept: Metadata of an earlier card. Fields that this card does not set, and its tags, are taken over.

    Raises:
        InputError: If a record is damaged.
    """
    config = CFFAConfig.from_pretrained(folder, trust_remote_code=False)
    record, results = read_record(folder / RUN_RECORD), read_record(folder / RESULTS)
    dataset, training = mapping(record.get("dataset")), mapping(record.get("training"))
    measured = measured_splits(results)
    rendered = bool(dataset.get("rendered"))
    spec = known_format(dataset.get("name"))
    name = repo_id.rpartition("/")[2]
    licence, licences = text.model_licence(spec, rendered, repo_id)
    data = model_metadata(name, record, measured, licence)
    merge_metadata(data, kept)
    sources = [file for file in (RUN_RECORD, RESULTS) if (folder / file).is_file()]
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "model_card.md"),
        name=name,
        repo_id=repo_id,
        origin=text.origin_sentence(record, spec, rendered),
        headline=text.headline(measured),
        ranking=target(first_picture(folder, "*ranking.png") or ""),
        cmc=target(first_picture(folder, "*cmc.png") or ""),
        curves=first_picture(folder, TRAINING_PICTURE),
        example=text.EXAMPLE_RENDERED if rendered else text.EXAMPLE,
        height=config.image_size[0],
        width=config.image_size[1],
        embedding_dim=config.embedding_dim,
        context_length=config.context_length,
        results=text.result_rows(measured),
        results_data=text.results_data(measured, rendered),
        selected=f"{text.interval_sentence(measured)} {text.selection_sentence(results, training)}".strip(),
        published=text.published_sentence(measured),
        shared=text.shared_sentences(measured),
        wrong_answers=text.wrong_answers(measured),
        known_source=bool(spec) and not rendered,
        english=rendered or spec is not None,
        based=record.get("init_from") is not None,
        from_openai_clip=text.is_openai_clip(record),
        data=text.data_section(dataset, spec, rendered),
        settings=text.setting_rows(record),
        facts=text.training_facts(record),
        architecture=text.architecture_sentence(config, folder),
        licences=licences,
        citations=text.citations(record, spec, rendered),
        version=VERSION,
        sources=f" (`{'`, `'.join(sources)}`)" if sources else "",
        begin_notes=BEGIN_NOTES,
        end_notes=END_NOTES,
        notes=notes,
    )


def model_metadata(
    name: str, record: dict[str, Any], measured: list[dict[str, Any]], licence: dict[str, Any]
) -> ModelCardData:
    """Make the metadata of a model card from the records of its training and evaluation."""
    dataset = mapping(record.get("dataset"))
    rendered = bool(dataset.get("rendered"))
    base, hub = hub_name(record.get("init_from")), hub_name(dataset.get("name"))
    evaluated = evaluation_results(measured, rendered)
    return ModelCardData(
        language="en" if rendered or known_format(dataset.get("name")) else None,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[hub] if hub else None,
        tags=list(MODEL_TAGS),
        model_name=name if evaluated else None,
        eval_results=evaluated or None,
        **licence,
    )


def merge_metadata(data: CardData, kept: Mapping[str, Any] | None) -> None:
    """Take over from an earlier card the fields that the new one does not set, and its tags.

    What the old card said of results, base model and data is not taken over: it is made again or it is gone.
    """
    made = {"eval_results", "model_name", "model-index", "base_model", "base_model_relation", "datasets", "tags"}
    if data.get("license") is not None:
        made |= {"license_name", "license_link"}
    for name, value in (kept or {}).items():
        if name not in made and data.get(name) is None:
            data[name] = value
    old = (kept or {}).get("tags")
    tags = [*(data.get("tags") or []), *(old if isinstance(old, list) else [])]
    data["tags"] = list(dict.fromkeys(tags))


def first_picture(folder: Path, pattern: str) -> str | None:
    """Name the picture that a card shows; that of the test split has the shortest name."""
    return min((path.name for path in folder.glob(pattern)), key=len, default=None)


def evaluation_results(measured: list[dict[str, Any]], rendered: bool) -> list[EvalResult]:
    """Turn the metrics into entries of the `model-index`; each direction is a task of its own."""
    entries = []
    for part in measured:
        spec, official = known_format(part.get("dataset")), benchmark_of(part)
        demo = rendered and spec is not None and not official
        title = f"Rendered demo in the layout of {spec.folder}" if spec and demo else spec.folder if spec else None
        for direction, words in DIRECTIONS_IN_WORDS.items():
            metrics = mapping(part.get(direction))
            for name, metric in METRICS.items():
                if is_number(metrics.get(name)):
                    entries.append(
                        EvalResult(
                            task_type=f"{words.replace(' ', '-')}-retrieval",
                            task_name=f"Person retrieval, {words}",
                            dataset_type="rendered-demo" if demo else plain(part.get("dataset")),
                            dataset_name=title or plain(part.get("dataset")),
                            dataset_split=plain(part["split"]),
                            metric_type=name,
                            metric_name=metric,
                            metric_value=round(metrics[name], 2),
                        )
                    )
    return entries


def dataset_card(
    splits: Mapping[str, Mapping[str, int]],
    name: str,
    repo_id: str,
    *,
    rendered: bool,
    division: str = "",
    notes: str = "",
    kept: Mapping[str, Any] | None = None,
) -> DatasetCard:
    """Make the card of a published dataset.

    Args:
        splits: Identities, images and captions of each split.
        name: What the dataset is called in a config.
        repo_id: Where it is published.
        rendered: Whether the people do not exist.
        division: How the people were divided, in a sentence.
        notes: What a person wrote.
        kept: Metadata of an earlier card, as in `model_card`.
    """
    spec = known_format(name)
    images = sum(counts["images"] for counts in splits.values())
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in map(plain, splits)]
    real = spec if not rendered else None
    data = DatasetCardData(
        language="en" if rendered or real else None,
        license="apache-2.0" if rendered else "other" if real else None,
        license_name="research-only" if real else None,
        license_link=f"https://huggingface.co/datasets/{repo_id}#origin-and-licence" if real else None,
        pretty_name=plain(text.dataset_title(name, spec, rendered)),
        size_categories=next((text for limit, text in sizes.items() if images < limit), "1M<n<10M"),
        configs=[{"config_name": "default", "data_files": files}],
        tags=["text-based-person-retrieval", "person-search", "person-re-identification"],
    )
    merge_metadata(data, kept)
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES / "dataset_card.md"),
        name=escape(text.dataset_title(name, spec, rendered)),
        repo_id=repo_id,
        rendered=rendered,
        known_source=real is not None,
        warning=text.licence_warning(real),
        counts=[
            [escape(split), *(text.counted(counts[what]) for what in ("identities", "images", "captions"))]
            for split, counts in splits.items()
        ],
        division=escape(division),
        origin=text.dataset_origin(spec, rendered),
        begin_notes=BEGIN_NOTES,
        end_notes=END_NOTES,
        notes=notes,
    )
