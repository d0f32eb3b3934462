"""What a check finds: one finding for each problem, and all of them in a report."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cffa_hf.data.rows import CONFLICT, MALFORMED, MISSING, OUTSIDE, RowError
from cffa_hf.errors import InputError, printable

Severity = Literal["error", "warning", "note"]

FILE, DIVISION, UNREADABLE, NAME = "annotation file", "division", "unreadable image", "name in another Unicode form"
REPEATED_ROW, REPEATED_IMAGE, REPEATED_CAPTION = "repeated row", "repeated image", "repeated caption"
LEFT_OUT, LONG, SPLIT, COUNTS = "left out", "long caption", "split", "counts"
OTHER_IDENTITY, SHARED_PERSON = "identical files of two identities", "identity in two splits"
SHARED_FILE, SIMILAR = "identical files in two splits", "similar images in two splits"
UNUSED, IDENTICAL, SINGLE = "unused image", "identical files", "identity with one image"

KINDS: dict[str, Severity] = {
    **dict.fromkeys((FILE, MALFORMED, CONFLICT, OUTSIDE, MISSING, NAME, UNREADABLE, DIVISION), "error"),
    **dict.fromkeys((SPLIT, SHARED_PERSON, SHARED_FILE, SIMILAR, OTHER_IDENTITY), "warning"),
    **dict.fromkeys((REPEATED_ROW, REPEATED_IMAGE, REPEATED_CAPTION, LONG, LEFT_OUT, COUNTS), "warning"),
    **dict.fromkeys((SINGLE, IDENTICAL, UNUSED), "note"),
}
"""The kinds of findings in the order of a report, with their severity: an error is what training refuses, a warning what
makes its result doubtful, and a note neither."""


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        severity: As `KINDS` says.
        kind: A key of `KINDS`.
        message: What is wrong, and where there is one the remedy.
        file: The annotation file, or what stands for it.
        row: In it, as messages of loading name it.
        image: Path of the image as the source has it.
    """

    severity: Severity
    kind: str
    message: str
    file: str | None = None
    row: int | None = None
    image: str | None = None

    @property
    def sentence(self) -> str:
        """Say where it is and what it is."""
        place = "" if self.row is None else f"row {self.row}"
        image = "" if self.image is None else f"image {self.image}"
        where = ", ".join(filter(None, (place, image)))
        return ": ".join(filter(None, (self.file if self.row is not None else None, where, self.message)))


@dataclass
class Report:
    """All that is known of a dataset after a check.

    Attributes:
        root: What was checked.
        dataset: What it is.
        findings: In the order in which they were found.
        splits: (identities, images, captions) of each split of what can be used.
        folder: Of the dataset; None: nothing could be read.
        files: Its annotation files.
        image_folder: Folder that the paths of images are relative to.
        images: Why each image cannot be read, by its path; "": it can be.
        twins: The file that is there instead of a missing one, whose name it has in another Unicode form.
    """

    root: str
    dataset: str = "unknown"
    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    folder: Path | None = None
    files: tuple[Path, ...] = ()
    image_folder: Path | None = None
    images: dict[str, str] = field(default_factory=dict, repr=False)
    twins: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, kind: str, message: str, file: Any = None, row: int | None = None, image: str | None = None) -> None:
        """Add a finding."""
        texts = (None if text is None else _encodable(str(text)) for text in (file, image))
        file, image = texts
        self.findings.append(Finding(KINDS[kind], kind, printable(_encodable(message)), file, row, image))

    def refuse(self, error: InputError, kind: str = FILE) -> None:
        """Add what training would refuse."""
        if isinstance(error, RowError):
            self.add(error.kind, error.problem, error.source, error.row, error.image)
        else:
            self.add(kind, str(error))

    def number(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def by_kind(self) -> Iterator[tuple[str, list[Finding]]]:
        """Yield each kind that was found, the errors first, with its findings."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.kind, []).append(finding)
        yield from ((kind, found[kind]) for kind in KINDS if kind in found)

    def to_dict(self) -> dict[str, Any]:
        """Return everything that JSON can hold."""
        numbers = Counter(finding.severity for finding in self.findings)
        return {
            "root": self.root,
            "dataset": self.dataset,
            "errors": numbers["error"],
            "warnings": numbers["warning"],
            "notes": numbers["note"],
            "splits": {
                split: dict(zip(("identities", "images", "captions"), counts, strict=True))
                for split, counts in self.splits.items()
            },
            "findings": [asdict(finding) for _, findings in self.by_kind() for finding in findings],
        }


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot write, such as a part of a file name in another encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")
