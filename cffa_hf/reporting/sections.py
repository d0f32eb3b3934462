"""Sections: each analysis of a split is a title, a text and a table, which the terminal and the report print alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cffa_hf.reporting.tables import Table, comparison_table, metrics_table, published_table, slices_table, stress_table


@dataclass(frozen=True)
class Section:
    """One analysis.

    Attributes:
        title: Above it.
        text: What it shows.
        table: Head and lines.
        left: Columns that are flush left.
    """

    title: str
    text: str
    table: Table
    left: int = 1


def overview(entries: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return the metrics of all entries, with what stands in brackets explained."""
    intervals = any("confidence" in entry for entry in entries.values())
    text = "In brackets: 95% bootstrap intervals over identities." if intervals else ""
    return Section("Retrieval", text, metrics_table(entries), left=2)


def sections(entry: Mapping[str, Any]) -> list[Section]:
    """Return the analyses that an entry of `results.json` holds beside its metrics."""
    found = []
    if comparison := entry.get("comparison"):
        text = (
            "Difference in percentage points (this minus the other) on the same queries, with its 95% paired bootstrap "
            "interval; p of a sign-flip permutation test. Identities are the unit of both."
        )
        title = f"Compared with {comparison['other']['name']}"
        found.append(Section(title, text, comparison_table(comparison), left=2))
    if published := entry.get("published"):
        text = (
            "Ours minus published, in percentage points, and whether the published value lies in our 95% bootstrap "
            "interval over identities. Single runs of these methods differ by one to two points, and the papers chose "
            "their epoch on the test split."
        )
        found.append(Section("Beside published results, text-to-image", text, published_table(published), left=2))
    if reranking := entry.get("reranking"):
        text = (
            f"{reranking['neighbours']} neighbours, {reranking['query_neighbours']} of the query, weight "
            f"{reranking['weight']}; difference and test as between two checkpoints."
        )
        table = comparison_table(reranking, ("plain", "re-ranked"))
        found.append(Section(f"Re-ranked by {reranking['method']}", text, table, left=2))
    if disturbances := entry.get("stress"):
        text = "Captions or images are disturbed more and more."
        table = stress_table(disturbances, entry["text_to_image"])
        found.append(Section("Text-to-image under disturbance", text, table, left=3))
    if groups := entry.get("slices"):
        text = "By length of the caption and by what it mentions."
        found.append(Section("Text-to-image by group of captions", text, slices_table(groups)))
    return found
