"""One HTML file with tables and figures of an evaluation, readable without network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.records.results import shared_sentence
from cffa_hf.reporting.pictures import DPI
from cffa_hf.reporting.tables import Table, comparison_table, metrics_table, slices_table, stress_table


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        title: above it.
        text: what it shows, also for those who cannot see it.
        path: the PNG file.
    """

    title: str
    text: str
    path: Path

    @property
    def source(self) -> str:
        """Return the picture as a data URL: photographs as JPEG, which is far smaller, drawings as they are."""
        drawing = self.path.read_bytes()
        with Image.open(self.path) as image:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=88, subsampling=0)
        photograph = buffer.getvalue()
        kind, content = ("jpeg", photograph) if len(photograph) < len(drawing) else ("png", drawing)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"

    @property
    def width(self) -> int:
        """Return the width in CSS pixels at which its letters are as large as those of the page."""
        with Image.open(self.path) as image:
            return round(image.width / DPI * 120)


@dataclass(frozen=True)
class ReportTable:
    """A table of a report.

    Attributes:
        title: above it.
        text: what it shows.
        lines: head and lines.
        left: columns that are flush left.
    """

    title: str
    text: str
    lines: Table
    left: int = 1


def write_report(
    path: str | Path,
    results: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Sequence[ReportFigure]],
) -> Path:
    """Write the report of one run.

    Args:
        path: the HTML file.
        results: what `results.json` holds.
        entries: the entries of this run.
        figures: of each entry.

    Raises:
        InputError: if the file cannot be written.
    """
    path = Path(path)
    environment = Environment(
        loader=PackageLoader("cffa_hf.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        results=results,
        shared_sentence=shared_sentence,
        overview=ReportTable("Retrieval", "", metrics_table(entries), left=2),
        sections=[(entry, entry_tables(entry), figures.get(key, ())) for key, entry in entries.items()],
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --output_dir.") from error
    return path


def entry_tables(entry: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables that an entry has beside its metrics."""
    tables = []
    if comparison := entry.get("comparison"):
        text = (
            "Difference in percentage points (this minus the other) on the same queries, with its 95% paired bootstrap "
            "interval; p of a sign-flip permutation test. Identities are the unit of both."
        )
        title = f"Compared with {comparison['other']['name']}"
        tables.append(ReportTable(title, text, comparison_table(comparison), left=2))
    if reranking := entry.get("reranking"):
        text = (
            f"{reranking['method']} with {reranking['neighbours']} neighbours, {reranking['query_neighbours']} of the "
            f"query, weight {reranking['weight']}; difference and test as between two checkpoints."
        )
        table = comparison_table(reranking, ("plain", "re-ranked"))
        tables.append(ReportTable("Re-ranking", text, table, left=2))
    if disturbances := entry.get("stress"):
        text = "Text-to-image, with captions or images disturbed more and more."
        tables.append(ReportTable("Robustness", text, stress_table(disturbances, entry["text_to_image"]), left=3))
    if groups := entry.get("slices"):
        text = "Text-to-image, by length of the caption and by what it mentions."
        tables.append(ReportTable("Slices", text, slices_table(groups)))
    return tables
