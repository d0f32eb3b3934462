"""The sentences and tables of the cards: pure functions of what was recorded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.annotations import ANNOTATION_FORMATS, AnnotationFormat
from cffa_hf.data.division import Division
from cffa_hf.data.layouts import Layout
from cffa_hf.names import DIRECTIONS, METRICS, hub_name
from cffa_hf.publishing.markdown import code, escape, plain
from cffa_hf.records.results import shared_sentence
from cffa_hf.version import VERSION

LARGEST = 10**15
DIRECTIONS_IN_WORDS = {name: words.replace("-", " ") for name, words in DIRECTIONS.items()}
# Rank-1, Rank-5, Rank-10 and mAP of the published implementation on the test splits, text to image.
PUBLISHED_RESULTS = {
    "cuhk_pedes": (75.44, 89.88, 94.01, 67.03),
    "icfg_pedes": (66.50, 81.68, 86.82, 39.44),
    "rstpreid": (62.85, 83.10, 89.65, 49.68),
}
EXAMPLE = "A woman with long black hair wears a red coat and carries a white handbag."
EXAMPLE_RENDERED = "A woman in a red coat and black trousers is carrying a white handbag."
CITATIONS = {
    "clip": """@inproceedings{radford2021clip,
  title = {Learning Transferable Visual Models From Natural Language Supervision},
  author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and others},
  booktitle = {International Conference on Machine Learning},
  year = {2021}
}""",
    "cuhk_pedes": """@inproceedings{li2017person,
  title = {Person Search with Natural Language Description},
  author = {Li, Shuang and Xiao, Tong and Li, Hongsheng and Zhou, Bolei and Yue, Dayu and Wang, Xiaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017}
}""",
    "icfg_pedes": """@article{ding2021semantically,
  title = {Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification},
  author = {Ding, Zefeng and Ding, Changxing and Shao, Zhiyin and Tao, Dacheng},
  journal = {arXiv preprint arXiv:2107.12666},
  year = {2021}
}""",
    "rstpreid": """@inproceedings{zhu2021dssl,
  title = {DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval},
  author = {Zhu, Aichun and Wang, Zijie and Li, Yifeng and Wan, Xili and Jin, Jing and others},
  booktitle = {ACM International Conference on Multimedia},
  year = {2021}
}""",
}


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether a value is a number that can be of a run: finite, and not of hundreds of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def known_format(name: Any) -> AnnotationFormat | None:
    """Find a benchmark by the name that a config or its folder has."""
    names = {alias.lower(): spec for spec in ANNOTATION_FORMATS.values() for alias in (spec.name, spec.folder)}
    return names.get(str(name).lower())


def benchmark_of(part: dict[str, Any]) -> AnnotationFormat | None:
    """Recognise results of a real benchmark: by its name, and by as many images as the official split has.

    Rendered demo data bear a benchmark's name too, but not its counts.
    """
    spec = known_format(part.get("dataset"))
    official = spec.counts.get(part["split"]) if spec else None
    return spec if official and mapping(part.get("counts")).get("images") == official[1] else None


def measured_splits(results: dict[str, Any]) -> list[dict[str, Any]]:
    """List the entries of results.json that hold metrics, each with its `split`: validation first, then test."""
    order = ("validation", "test")
    parts = [{"split": str(key), **mapping(part)} for key, part in mapping(results.get("splits")).items()]
    for part in parts:
        part["split"] = str(part["split"])
        part["dataset"] = part["dataset"] if isinstance(part.get("dataset"), str) else None
    parts = [part for part in parts if any(mapping(part.get(direction)) for direction in DIRECTIONS)]
    return sorted(parts, key=lambda part: order.index(part["split"]) if part["split"] in order else len(order))


def table_cell(value: Any) -> str:
    """Write a value as one cell of a Markdown table."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list):
        return " x ".join(table_cell(item) for item in value[:10])
    if isinstance(value, float):
        return f"{value:g}"
    return escape(value)


def counted(value: Any) -> str:
    """Write a number of things with thousands separated, or a dash."""
    return f"{value:,}" if is_number(value) else "-"


def percent(value: Any) -> str:
    """Write a percentage with two places, or a dash."""
    return f"{value:.2f}" if is_number(value) else "-"


def interval(ends: Any) -> str:
    """Write both ends of a confidence interval in brackets, or nothing."""
    both = isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends))
    return f" [{percent(ends[0])}, {percent(ends[1])}]" if both else ""


def rank1_of(measured: list[dict[str, Any]]) -> tuple[dict[str, Any], float] | None:
    """Find the last split (test, where there is one) whose text-to-image Rank-1 is known."""
    for part in reversed(measured):
        value = mapping(part.get("text_to_image")).get("rank1")
        if is_number(value):
            return part, float(value or 0)
    return None


def origin_sentence(record: dict[str, Any], spec: AnnotationFormat | None, rendered: bool) -> str:
    """Say which weights were trained and on which data."""
    method = "CFFA (Cross-Modal Fine-grained Feature Alignment)"
    if departs_from_cffa(record):
        method = f"other losses than those of {method}, which the settings below tell,"
    if not record:
        return f"It is a {method} model. The record of its training is not part of this publication."
    start = record.get("init_from")
    hub = hub_name(start)
    base = f"[{escape(hub)}](https://huggingface.co/{hub})" if hub else f"the checkpoint {code(start)}"
    made = f"It is {base}, fine-tuned with {method}" if start else f"It was trained from random weights with {method}"
    return f"{made} on {dataset_phrase(mapping(record.get('dataset')).get('name'), spec, rendered)}."


def departs_from_cffa(record: dict[str, Any]) -> bool:
    """Say whether a run was trained with another alignment loss, or without local features."""
    changed = record.get("settings")
    values = {
        str(setting.get("name")): setting.get("value")
        for setting in (changed if isinstance(changed, list) else [])
        if isinstance(setting, dict)
    }
    return values.get("alignment_loss", "mal") != "mal" or values.get("use_flfr", True) is not True


def dataset_phrase(name: Any, spec: AnnotationFormat | None, rendered: bool) -> str:
    """Name a data set in a sentence."""
    if rendered:
        return "rendered demo data" + (f" in the layout of {spec.folder}" if spec else "")
    if spec:
        return spec.folder
    hub = hub_name(name)
    if hub:
        return f"[{escape(hub)}](https://huggingface.co/datasets/{hub})"
    return f"the data set {code(name)}" if name else "data that the record does not name"


def headline(measured: list[dict[str, Any]]) -> str:
    """Say in words how often the first answer is right."""
    found = rank1_of(measured)
    if not found:
        return ""
    part, rank1 = found
    counts, rank10 = mapping(part.get("counts")), mapping(part["text_to_image"]).get("rank10")
    text = (
        f"Of the {counted(counts.get('captions'))} captions" if is_number(counts.get("captions")) else "Of the captions"
    )
    text += f" of the {escape(part['split'])} split, **{rank1:.1f}%** find an image of the person described at the first place"
    text += f" and {rank10:.1f}% within the first ten" if is_number(rank10) else ""
    return text + (f", among {counted(counts['images'])} images." if is_number(counts.get("images")) else ".")


def wrong_answers(measured: list[dict[str, Any]]) -> str:
    """Say in words how often the first answer is another person."""
    found = rank1_of(measured)
    if not found:
        return "How often its first answer is the wrong person has not been measured."
    part, rank1 = found
    return (
        f"Even on the {escape(part['split'])} split, whose images resemble those it learnt from, its first answer is another "
        f"person in {100 - rank1:.0f} of 100 searches."
    )


def result_rows(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay the metrics out, a row for each split and direction."""
    several = len({part.get("dataset") for part in measured}) > 1
    rows = []
    for part in measured:
        sizes = [counted(mapping(part.get("counts")).get(name)) for name in ("captions", "images")]
        split = escape(part["split"])
        split = f"{table_cell(part.get('dataset'))}, {split}" if several else split
        for direction, title in DIRECTIONS_IN_WORDS.items():
            metrics = mapping(part.get(direction))
            if metrics:
                intervals = mapping(mapping(part.get("confidence")).get(direction))
                values = (f"{percent(metrics.get(name))}{interval(intervals.get(name))}" for name in METRICS)
                cells = [*values, *sizes]
                rows.append({"split": split, "direction": title, "cells": cells})
            sizes.reverse()
    return rows


def results_data(measured: list[dict[str, Any]], rendered: bool) -> str:
    """Name the data that the results are on."""
    names = dict.fromkeys(part.get("dataset") for part in measured)
    phrases = []
    for name in names:
        official = any(benchmark_of(part) for part in measured if part.get("dataset") == name)
        spec = known_format(name)
        phrases.append(dataset_phrase(name, spec, rendered and spec is not None and not official))
    return " and ".join(phrases)


def interval_sentence(measured: list[dict[str, Any]]) -> str:
    """Say what stands in brackets behind the results, if anything does."""
    return "In brackets: 95% bootstrap intervals over identities." if any(map(_has_intervals, measured)) else ""


def _has_intervals(part: dict[str, Any]) -> bool:
    return any(interval(ends) for found in mapping(part.get("confidence")).values() for ends in mapping(found).values())


def selection_sentence(results: dict[str, Any], training: dict[str, Any]) -> str:
    """Say what chose this checkpoint among those of its run."""
    selected = results.get("selected_on")
    if selected == "validation":
        step = training.get("selected_step")
        return "The checkpoint was chosen by Rank-1 on validation" + (f" (step {step:,})." if is_number(step) else ".")
    if selected == "last epoch":
        return "The checkpoint is the last of its run: no split chose it."
    if selected == "test":
        return "**The checkpoint was chosen on the test split, so these numbers are too good.**"
    return ""


def published_sentence(measured: list[dict[str, Any]]) -> str:
    """Quote the published result where there is one on the test split of a real benchmark."""
    for part in measured:
        spec = benchmark_of(part)
        if spec and part["split"] == "test":
            rank1, rank5, rank10, mean = PUBLISHED_RESULTS[spec.name]
            return (
                f"The authors of CFFA report {rank1:.2f} / {rank5:.2f} / {rank10:.2f} (Rank-1/5/10) and {mean:.2f} mAP "
                f"for text to image on {spec.folder}'s test split."
            )
    return ""


def data_section(dataset: dict[str, Any], spec: AnnotationFormat | None, rendered: bool) -> dict[str, Any] | None:
    """Say what was trained on, with counts."""
    splits = {name: mapping(counts) for name, counts in mapping(dataset.get("splits")).items()}
    if not splits:
        return None
    rows = [
        [escape(name), *(counted(counts.get(what)) for what in ("identities", "images", "captions"))]
        for name, counts in splits.items()
    ]
    text = (
        f"{dataset_phrase(dataset.get('name'), spec, rendered)}. {division_sentence(dataset.get('division'))}".strip()
    )
    return {"text": text, "rows": rows, "rendered": rendered}


def division_sentence(recorded: Any) -> str:
    """Say how the people of the data were divided, from what is recorded of it; empty if that is nothing."""
    try:
        return escape(Division.model_validate(recorded).sentence)
    except ValidationError:
        return ""


def shared_sentences(measured: list[dict[str, Any]]) -> list[str]:
    """Say of each measured split what it shares with the checkpoint's training, if anything."""
    told = [part for part in measured if part.get("shared") or part.get("unrecorded")]
    found = [(part["split"], shared_sentence(part)) for part in told]
    return [f"{escape(split)}: {escape(sentence)}" for split, sentence in found if sentence]


def setting_rows(record: dict[str, Any]) -> list[list[str]] | None:
    """Lay out the settings that differ from the published recipe; None if they are not recorded."""
    if not isinstance(record.get("settings"), list):
        return None
    rows = []
    for setting in map(mapping, record["settings"]):
        cells = [table_cell(setting.get(name)) for name in ("value", "published", "help")]
        rows.append([code(setting.get("name")), *cells])
    return rows


def training_facts(record: dict[str, Any]) -> list[list[str]]:
    """List seed, length, time, device, versions and commit, as far as they are known."""
    training, machine = mapping(record.get("training")), mapping(record.get("environment"))
    package = mapping(record.get("package"))
    facts = {}
    if is_number(training.get("steps")):
        length = f"{counted(training['steps'])} steps of {counted(training.get('pairs_per_step'))} pairs"
        facts["Length"] = f"{length}, {table_cell(training.get('epochs'))} epochs"
    if training.get("selected_on") == "test":
        facts["Chosen on"] = "the test split, so results on it are too good"
    if is_number(training.get("seconds")):
        facts["Time"] = duration(training["seconds"]) + (
            " since it was last resumed" if training.get("resumed") else ""
        )
    if "device" in machine:
        facts["Device"] = escape(f"{machine['device']}; {machine.get('precision', 'unknown precision')}")
    if is_number(training.get("seed")):
        facts["Seed"] = str(training["seed"])
    versions = [f"{name} {value}" for name, value in machine.items() if name not in ("device", "precision", "system")]
    if versions:
        named = [*map(plain, versions[:20]), plain(machine.get("system", ""))]
        facts["Environment"] = ", ".join(map(escape, named)).rstrip(", ")
    if package:
        commit = f", commit {code(package['commit'])}" if package.get("commit") else ""
        changed = " with uncommitted changes" if package.get("uncommitted_changes") else ""
        facts["Made with"] = f"cffa_hf {escape(package.get('version', ''))}{commit}{changed}"
    return [[name, value] for name, value in facts.items()]


def duration(seconds: float) -> str:
    """Write a time span in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def architecture_sentence(config: CFFAConfig, folder: Path) -> str:
    """Describe the model in a few sentences."""
    rows, columns = config.grid_size
    image: Any = config.vision_config
    words: Any = config.text_config
    size = (folder / "model.safetensors").stat().st_size / 2**20 if (folder / "model.safetensors").is_file() else None
    text = (
        f"Two CLIP encoders, read token by token: {image.num_hidden_layers} layers of width "
        f"{image.hidden_size} over {rows} x {columns} patches of {image.patch_size} "
        f"pixels, and {words.num_hidden_layers} layers of width {words.hidden_size} over at most "
        f"{config.context_length} tokens."
    )
    if config.use_flfr:
        text += (
            f" The embedding joins a global feature ({config.projection_dim} numbers: class token, end token) and a "
            f"local one ({config.local_dim}), the maximum over the refined {config.selected_patches} patches and "
            f"{config.selected_words} words that the global token attends to most."
        )
    else:
        text += f" The embedding is the global feature alone ({config.projection_dim} numbers: class token, end token)."
    text += " The heads of the training (identity classifier, masked words) are not published"
    return text + (f". Weights: {size:.0f} MiB, safetensors." if size else ".")


def is_openai_clip(record: dict[str, Any]) -> bool:
    """Say whether the weights started from OpenAI's CLIP."""
    return str(record.get("init_from")).startswith("openai/clip")


def model_licence(spec: AnnotationFormat | None, rendered: bool, repo_id: str) -> tuple[dict[str, Any], str]:
    """Return the metadata of the licence and a sentence that explains it."""
    code = "The code is under the Apache License 2.0."
    if rendered:
        return {
            "license": "apache-2.0"
        }, f"{code} The data were drawn by it, and the weights are under the same licence."
    if spec:
        link = f"https://huggingface.co/{repo_id}#licences"
        text = (
            f"{code} {spec.folder} is for non-commercial research and may not be passed on: {spec.request}. The "
            "weights were learnt from it; use them for research only."
        )
        return {"license": "other", "license_name": "research-only", "license_link": link}, text
    return {}, f"{code} What the weights may be used for depends on the data that they were trained on."


def citations(record: dict[str, Any], spec: AnnotationFormat | None, rendered: bool) -> list[str]:
    """Collect what should be cited: this package, the data and CLIP."""
    commit = mapping(record.get("package")).get("commit")
    known = isinstance(commit, str) and re.fullmatch("[0-9a-f]{7,64}", commit)
    note = f"version {VERSION}" + (f", commit {str(commit)[:12]}" if known else "")
    own = f"@software{{cffa_hf,\n  title = {{cffa_hf: text-based person retrieval with CFFA}},\n  note = {{{note}}}\n}}"
    entries = [own]
    if spec and not rendered:
        entries.append(CITATIONS[spec.name])
    if is_openai_clip(record):
        entries.append(CITATIONS["clip"])
    return entries


def dataset_title(name: str, spec: AnnotationFormat | None, rendered: bool) -> str:
    """Call a dataset by its proper name."""
    if spec is None:
        return name
    return f"Rendered people in the layout of {spec.folder}" if rendered else f"{spec.folder}, converted"


def licence_warning(spec: AnnotationFormat | Layout | None) -> str:
    """Say what the licence of a published data set forbids; empty for other data."""
    if spec is None:
        return ""
    return (
        f"{spec.folder} may not be passed on: its authors allow research by those to whom they sent it, and nothing "
        "else. Keep this repository private."
    )


def dataset_origin(spec: AnnotationFormat | None, rendered: bool) -> str:
    """Say where the data come from and what may be done with them."""
    if rendered:
        return "Drawn and described by the demo generator of cffa_hf, under the Apache License 2.0."
    if spec:
        return (
            f"This is {spec.folder}, in one row for each image; identities are those of its authors. "
            f"{spec.request[0].upper()}{spec.request[1:]}. Their terms hold for this copy.\n\n"
            f"```bibtex\n{CITATIONS[spec.name]}\n```"
        )
    return "What may be done with these data is for whoever published them here to say, in the notes below."
