"""Which queries are hard: text-to-image metrics by length of the caption and by what it mentions."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
import torch
from torch import Tensor

from cffa_hf.errors import InputError, one_line
from cffa_hf.json_files import parse_json
from cffa_hf.metrics.averages import per_query
from cffa_hf.metrics.ranking import MatchRanks
from cffa_hf.names import ATTRIBUTES_FILE, METRICS

SMALLEST = 5
"""A slice of fewer queries than this is not reported."""


def slice_metrics(ranks: MatchRanks, groups: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Average the metrics over groups of queries.

    Args:
        ranks: Of the matches.
        groups: Marks the queries of each group, bool `(queries,)`; a query may be in several.

    Returns:
        For each group of at least `SMALLEST` queries that have a match: metrics in percent, and `queries`.
    """
    values = per_query(ranks)
    result = {}
    for name, marks in groups.items():
        members = marks[ranks.evaluated]
        if int(members.sum()) >= SMALLEST:
            result[name] = {metric: float(values[metric][members].mean()) for metric in METRICS}
            result[name]["queries"] = int(members.sum())
    return result


def query_groups(rows: datasets.Dataset) -> dict[str, Tensor]:
    """Group the captions of a split by their length and, where the data have attributes, by what they mention."""
    return length_groups(rows) | attribute_groups(rows)


def length_groups(rows: datasets.Dataset, parts: int = 4) -> dict[str, Tensor]:
    """Divide the captions by their number of words into parts of about equal size."""
    words = np.array([len(text.split()) for texts in rows["captions"] for text in texts])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, parts + 1)).round().astype(int))
    groups = {}
    low = int(edges[0])
    for high in map(int, edges[1:] if len(edges) > 1 else edges):
        name = f"{low} words" if low == high else f"{low}-{high} words"
        groups[name] = torch.from_numpy((words >= low) & (words <= high))
        low = high + 1
    return groups


def attribute_groups(rows: datasets.Dataset) -> dict[str, Tensor]:
    """Group the captions by the attributes they mention, and by the view of the image they were written for.

    They are read from `attributes.jsonl` in the dataset's folder, beside or above the image folder, as the demo data
    have it: a line for each image with `file_path`, `mentions` (a list of names for each caption) and `view` (texts by name).

    Returns:
        Nothing where the data have no such file.

    Raises:
        InputError: If the file is broken or lacks an image of the split.
    """
    path = _find(rows)
    if path is None:
        return {}
    try:
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        details = {line["file_path"]: line for line in lines}
        labels: list[set[str]] = []
        for file_path, captions in zip(rows["file_path"], rows["captions"], strict=True):
            if file_path not in details:
                raise ValueError(f"it has no line for {file_path}")
            detail = details[file_path]
            view = {f"{name} {value}" for name, value in detail.get("view", {}).items() if isinstance(value, str)}
            mentions = detail["mentions"]
            if len(mentions) != len(captions):
                raise ValueError(f"{file_path} has {len(captions)} captions, but {len(mentions)} lists of mentions")
            labels += [view | {f"mentions {name.replace('_', ' ')}" for name in names} for names in mentions]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be used for slices ({one_line(error)}); fix or remove the file.") from error
    names = sorted(set().union(*labels))
    return {name: torch.tensor([name in given for given in labels]) for name in names}


def _find(rows: datasets.Dataset) -> Path | None:
    """Return the attributes' file of the folder that a split's images lie in."""
    path = rows[0]["image"]["path"] if len(rows) else None
    if not path:
        return None
    images = Path(path).parents[len(PurePosixPath(rows[0]["file_path"]).parts) - 1]
    return next(
        (folder / ATTRIBUTES_FILE for folder in (images, images.parent) if (folder / ATTRIBUTES_FILE).is_file()), None
    )
