"""One HTML file with tables and figures of an evaluation, readable without network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cffa_hf.files import write_text
from cffa_hf.records.results import shared_sentence
from cffa_hf.reporting.pictures import DPI
from cffa_hf.reporting.sections import overview, sections


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        title: Above it.
        text: What it shows, also for those who cannot see it.
        path: The PNG file.
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


def write_report(
    path: str | Path,
    results: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Sequence[ReportFigure]],
) -> Path:
    """Write the report of one run.

    Args:
        path: The HTML file.
        results: What `results.json` holds.
        entries: The entries of this run.
        figures: Of each entry.

    Raises:
        InputError: If the file cannot be written.
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
        overview=overview(entries),
        sections=[(entry, sections(entry), figures.get(key, ())) for key, entry in entries.items()],
    )
    write_text(path, page, remedy="choose another output_dir")
    return path
