"""The results of an evaluation: one entry a split, and `results.json`."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import Any

from cffa_hf.checkpoints.provenance import Checkpoint
from cffa_hf.data.seen import Unrecorded
from cffa_hf.errors import InputError
from cffa_hf.files import write_text
from cffa_hf.json_files import read_json
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks
from cffa_hf.metrics.significance import bootstrap_confidence, paired_test
from cffa_hf.names import DIRECTIONS, METRICS, REPORT, RESULTS, TRAINING_PICTURE
from cffa_hf.records.environment import package_versions

FORMAT = 1
RESULT_FILES = (
    *(RESULTS, REPORT, TRAINING_PICTURE),
    *("*ranking.png", "*cmc.png", "*failures.png", "*selection.png", "*stress.png"),
)


def split_entry(
    dataset: str, split: str, fingerprint: str, text_to_image: MatchRanks, image_to_text: MatchRanks
) -> dict[str, Any]:
    """Make the entry of one split.

    Args:
        dataset: Its name.
        split: Its name.
        fingerprint: Of the split.
        text_to_image: Ranks with the captions as queries.
        image_to_text: Ranks with the images as queries.

    Returns:
        `dataset`, `split`, `fingerprint`, `counts` (`identities`, `images`, `captions`, and `excluded_captions` and
        `excluded_images`, the queries without a match), `text_to_image` and `image_to_text` (percent).

    Raises:
        InputError: If no query has a match.
    """
    entry: dict[str, Any] = {"dataset": dataset, "split": split, "fingerprint": fingerprint}
    entry["counts"] = {
        "identities": len(image_to_text.query_ids.unique()),
        "images": text_to_image.gallery_size,
        "captions": image_to_text.gallery_size,
        "excluded_captions": text_to_image.excluded_queries,
        "excluded_images": image_to_text.excluded_queries,
    }
    for direction, ranks in zip(DIRECTIONS, (text_to_image, image_to_text), strict=True):
        metrics = retrieval_metrics(ranks)
        entry[direction] = {name: metrics[name] for name in METRICS}
    return entry


def write_results(folder: Path, checkpoint: Checkpoint, entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Write entries of splits into `results.json`; those of the same weights that are there already stay.

    Args:
        folder: Where the file is to be.
        checkpoint: What was evaluated.
        entries: Key of each entry and the entry: `dataset`, `split`, `fingerprint`, `counts`, both directions' metrics.

    Returns:
        What the file now holds.

    Raises:
        InputError: If the file cannot be written.
    """
    path = folder / RESULTS
    results: dict[str, Any] = {
        "format": FORMAT,
        "checkpoint": checkpoint.to_dict(),
        "selected_on": checkpoint.selected_on,
        "splits": {**_earlier_splits(path, checkpoint), **entries},
        "versions": package_versions(),
    }
    write_text(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n", remedy="choose another output_dir")
    return results


def set_aside_results(folder: str | Path, weights_sha256: str) -> Path | None:
    """Move results, report and pictures of other weights out of a folder into a new one within it; nothing is deleted.

    Args:
        folder: Where a model has been saved or is evaluated.
        weights_sha256: Digest of its weights.

    Returns:
        The new folder; None if there was nothing of other weights.
    """
    folder = Path(folder)
    found = [path for pattern in RESULT_FILES for path in sorted(folder.glob(pattern))]
    found.sort(key=lambda path: path.name == RESULTS)  # last: killed in between, the next attempt knows whose they are
    try:
        measured = read_json(folder / RESULTS)["checkpoint"]["weights_sha256"]
    except (InputError, KeyError, TypeError):
        measured = None
    if not found or measured == weights_sha256:
        return None
    name = measured[:8] if isinstance(measured, str) and measured[:8].isalnum() else "unknown"
    names = (f"results-{name}" + (f"-{number}" if number else "") for number in count())
    target = next(folder / each for each in names if not any((folder / each / path.name).exists() for path in found))
    target.mkdir(exist_ok=True)
    for path in found:
        path.rename(target / path.name)
    print(f"{folder}: {len(found)} files of results that were measured on other weights are now in {target.name}/")
    return target


def entry_key(earlier: Mapping[str, Any], taken: Collection[str], dataset: str, split: str) -> str:
    """Name an entry: by its split alone for the first dataset, by dataset and split for every other one.

    Args:
        earlier: Entries that are there already; the same name replaces one of an earlier run.
        taken: Keys of this run; another dataset of the same name is numbered.
        dataset: Name of the dataset.
        split: Name of the split.
    """
    main = next((entry["dataset"] for key, entry in earlier.items() if "/" not in key), dataset)
    key = split if dataset == main else f"{dataset}/{split}"
    numbered = (f"{dataset}/{split}/{number}" for number in count(2))
    return next(name for name in chain([key], numbered) if name not in taken)


def read_splits(folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the entries that `results.json` of a folder holds for these weights, none if there is no such file."""
    return _earlier_splits(folder / RESULTS, checkpoint)


def _earlier_splits(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        found = read_json(path)
        same = found["format"] == FORMAT and found["checkpoint"]["weights_sha256"] == checkpoint.weights_sha256
        entries = dict(found["splits"]) if same else {}
        return {
            key: entry
            for key, entry in entries.items()
            if isinstance(entry, dict) and isinstance(entry.get("dataset"), str)  # others are of nobody's evaluation
        }
    except (InputError, ValueError, KeyError, TypeError):
        return {}


def confidence_entry(text_to_image: MatchRanks, image_to_text: MatchRanks) -> dict[str, Any]:
    """Return both ends of each metric's 95% bootstrap interval, by direction; identities are drawn."""
    entry: dict[str, Any] = {"level": 95}
    for direction, ranks in zip(DIRECTIONS, (text_to_image, image_to_text), strict=True):
        intervals = bootstrap_confidence(ranks)
        entry[direction] = {name: [interval.low, interval.high] for name, interval in intervals.items()}
    return entry


def comparison_entry(
    other: Checkpoint, theirs: tuple[MatchRanks, MatchRanks], ours: tuple[MatchRanks, MatchRanks]
) -> dict[str, Any]:
    """Compare with another checkpoint on the same queries.

    Args:
        other: That checkpoint.
        theirs: Its ranks, text-to-image and image-to-text.
        ours: The ranks of the evaluated checkpoint.

    Returns:
        `other` (the checkpoint), and by direction and metric `other`, `this`, `difference`, `low`, `high`, `p_value`.

    Raises:
        InputError: If queries or gallery differ.
    """
    return {"other": other.to_dict(), **paired_entry(theirs, ours)}


def reranking_entry(
    settings: Mapping[str, str | int | float],
    plain: tuple[MatchRanks, MatchRanks],
    reranked: tuple[MatchRanks, MatchRanks],
) -> dict[str, Any]:
    """Compare re-ranked results with the plain ones.

    Args:
        settings: Method of the re-ranking and its numbers.
        plain: Ranks without it, text-to-image and image-to-text.
        reranked: Ranks with it.

    Returns:
        The settings, and by direction and metric the same as `comparison_entry`; `this` is re-ranked.
    """
    return {**settings, **paired_entry(plain, reranked)}


def paired_entry(theirs: tuple[MatchRanks, MatchRanks], ours: tuple[MatchRanks, MatchRanks]) -> dict[str, Any]:
    """Return by direction and metric `other`, `this`, `difference`, `low`, `high`, `p_value`."""
    entry = {}
    for direction, their_ranks, our_ranks in zip(DIRECTIONS, theirs, ours, strict=True):
        values = retrieval_metrics(their_ranks), retrieval_metrics(our_ranks)
        entry[direction] = {
            name: {"other": values[0][name], "this": values[1][name], **asdict(difference)}
            for name, difference in paired_test(their_ranks, our_ranks).items()
        }
    return entry


def shared_sentence(entry: Mapping[str, Any]) -> str:
    """Say what a measured split shares with the checkpoint's training, and of what that is unknown; empty if it shares nothing.

    Args:
        entry: Of `results.json`; entries of older versions have no record.
    """
    return " ".join(filter(None, [_shared(entry.get("shared")), _unrecorded(entry.get("unrecorded"))]))


def _unrecorded(parts: Any) -> str:
    """Say of what it cannot be found out whether it is shared."""
    names = []
    for part in parts if isinstance(parts, list) else []:
        try:
            names.append(str(Unrecorded(str(part["role"]), str(part["dataset"]), int(part["images"]))))
        except (TypeError, KeyError, ValueError):
            continue
    if not names:
        return ""
    return f"UNKNOWN whether its people are among {' and '.join(names)}: who is in them is not recorded."


def _shared(shared: Any) -> str:
    if shared == []:
        return ""
    if not isinstance(shared, list):
        return "What the checkpoint was trained on is not recorded, so shared people could not be found."
    parts = [
        f"{part['people']:,} people and {part['images']:,} images that the checkpoint was {part.get('role')} on"
        for part in shared[:10]
        if isinstance(part, Mapping) and all(type(part.get(name)) is int for name in ("people", "images"))
    ]
    return f"NOT A FAIR TEST: this split shares {' and '.join(parts)}; its results are too good."
