"""The upper bound of the demo: the Rank-k of an oracle that knows every attribute, since captions tell only a part."""

import json
from math import comb
from pathlib import Path

import numpy as np

from cffa_hf.demo.write import get_layout
from cffa_hf.errors import InputError
from cffa_hf.names import ATTRIBUTES_FILE


def oracle_ranks(root: str | Path, layout: str = "cuhk_pedes", split: str = "test") -> dict[str, float]:
    """Return text-to-image Rank-1, 5 and 10 of an oracle that knows all attributes and reads captions perfectly.

    For each caption the gallery images are ordered by the number of attributes the caption mentions that their person
    does not have, then by the number that the image does not show. Among equals the expected value is taken.

    Args:
        root: Folder given to `write_demo_dataset`.
        layout: Layout given to `write_demo_dataset`.
        split: "train", "validation" or "test".

    Returns:
        "rank1", "rank5", "rank10" in percent.

    Raises:
        InputError: If the demo is not there or has no such split.
    """
    path = Path(root) / get_layout(layout).folder / ATTRIBUTES_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist; render the demo dataset there first.")
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["split"] == split]
    if not rows:
        raise InputError(f"{path} has no row of the split {split!r}.")
    person_ids = np.array([row["person_id"] for row in rows])
    names = sorted({name for row in rows for mentions in row["mentions"] for name in mentions})
    values = {name: np.array([str(row["attributes"][name]) for row in rows]) for name in names}
    shown = {name: np.array([name in row["visible"] for row in rows]) for name in names}
    hits = {"rank1": 0.0, "rank5": 0.0, "rank10": 0.0}
    queries = 0
    for index, row in enumerate(rows):
        for mentions in row["mentions"]:
            cost = np.zeros(len(rows), dtype=np.int64)
            for name in mentions:
                same = values[name] == values[name][index]
                cost += np.where(same, ~shown[name], 1000)
            matching = person_ids == row["person_id"]
            for key in hits:
                hits[key] += _expected_hit(cost, matching, int(key.removeprefix("rank")))
            queries += 1
    return {key: 100.0 * value / queries for key, value in hits.items()}


def _expected_hit(cost: np.ndarray, matching: np.ndarray, k: int) -> float:
    """Return the chance that a matching item is among the k of lowest cost when equals are shuffled."""
    k = min(k, len(cost))
    limit = np.partition(cost, k - 1)[k - 1]
    before, tied = cost < limit, cost == limit
    if matching[before].any():
        return 1.0
    places, equal, right = k - int(before.sum()), int(tied.sum()), int(matching[tied].sum())
    return 1.0 - comb(equal - right, places) / comb(equal, places)
