"""A copy of a dataset without its errors, in a new folder; the original is only read."""

import json
import os
import posixpath
import shutil
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cffa_hf.data.layouts import LAYOUTS
from cffa_hf.data.loading import Place
from cffa_hf.data.rows import RowError
from cffa_hf.data_check.checking import KINDS_OF_DATA, check_place, find_place
from cffa_hf.data_check.findings import Finding, Report
from cffa_hf.data_check.image_findings import examine_image
from cffa_hf.data_check.raw_files import RawEntry, RawFile, read_raw_file
from cffa_hf.errors import InputError
from cffa_hf.files import check_free, new_folder, write_text
from cffa_hf.inputs.captions import clean_caption
from cffa_hf.names import ATTRIBUTES_FILE, DEMO_MARKER
from cffa_hf.progress import progress_bar

CHANGES = "fixed.jsonl"
"""The list of changes; no layout takes it for annotations."""


@dataclass(frozen=True)
class Change:
    """What became of one row of the original.

    Attributes:
        action: "left out" or "changed".
        file: The annotation file, relative to the dataset.
        row: In it, as messages of loading name it.
        image: As the original names it.
        reason: Why, or what.
    """

    action: str
    file: str
    row: int
    image: str | None
    reason: str


@dataclass
class Fixed:
    """A copy without errors.

    Attributes:
        folder: Where it is.
        rows: Rows of its annotation files.
        images: Images in it.
        changes: Row by row.
    """

    folder: str
    rows: int = 0
    images: int = 0
    changes: list[Change] = field(default_factory=list)

    def number(self, action: str) -> int:
        """Count the rows that were "left out" or "changed"."""
        return sum(change.action == action for change in self.changes)


def write_fixed(
    root: str | Path,
    out: str | Path,
    report: Report,
    name: str | None = None,
    *,
    link: bool = False,
    progress: bool = True,
) -> Fixed:
    """Write a copy of a dataset that has no errors.

    Rows that cannot be used and exact repetitions of a row are left out; white space around paths and within captions,
    backslashes in paths and blank captions beside others are corrected; names are in Unicode form NFC. Splits, layout and
    the form of the annotation files are kept, and unused images are not copied. `fixed.jsonl` has a line for each change.

    Args:
        root: As `check_dataset` has it.
        out: A new folder, outside of the dataset.
        report: Of the check of the dataset.
        name: As `check_dataset` has it.
        link: Make hard links to the images instead of copies.
        progress: Show a progress bar on standard error.

    Raises:
        InputError: The dataset is of a kind that is not written again, or nothing usable is left of it, or the folder
            cannot be written.
    """
    place = find_place(root, name)
    target = check_target(place, out)
    if report.folder is None or report.image_folder is None:
        raise InputError(f"{root}: there is nothing to copy, since the annotations cannot be read; correct this first.")
    for folder in (report.folder, report.image_folder):
        _refuse_within(folder, target)
    with new_folder(target) as partial:
        copy = _Copy(place, report, report.folder, report.image_folder, partial)
        copy.select(progress)
        copy.write(link, progress)
        for marker in (DEMO_MARKER, ATTRIBUTES_FILE):
            if (report.folder / marker).is_file():
                shutil.copyfile(report.folder / marker, partial / marker)
        write_text(partial / CHANGES, "".join(f"{json.dumps(asdict(change))}\n" for change in copy.changes))
    return Fixed(str(target), sum(map(len, copy.kept)), len(copy.names()), copy.changes)


def check_target(place: Place, out: str | Path) -> Path:
    """Refuse, before the dataset is read, what `write_fixed` would refuse after it.

    Args:
        place: Of the dataset.
        out: The folder of the copy.

    Returns:
        Its absolute path.

    Raises:
        InputError: The dataset is of a kind that is not written again, or the folder is not free, or in the dataset.
    """
    if place.kind not in ("folder", "benchmark", "layout"):
        raise InputError(
            "--fix writes folders with annotation files, and this is of another kind "
            f"({KINDS_OF_DATA[place.kind]}); write the data anew without the rows that are listed."
        )
    target = Path(out).expanduser().absolute()
    if place.kind == "folder":
        _refuse_within(place.folder, target)
    check_free(target)
    return target


def _refuse_within(folder: Path, target: Path) -> None:
    if target.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{target} is within the dataset, which must stay as it is; give a folder outside of {folder}."
        )


@dataclass
class _Kept:
    """An entry that goes into the copy.

    Attributes:
        entry: As it is written.
        row: In the original file.
        image: As the original names it.
        source: The file of the image, relative to the folder of images.
        name: The same in the copy.
    """

    entry: RawEntry
    row: int
    image: str
    source: str
    name: str


class _Copy:
    """A copy that is being made.

    Args:
        place: Of the original.
        report: Of its check.
        folder: Of the original.
        images: Folder of its images.
        partial: The folder of the copy.
    """

    def __init__(self, place: Place, report: Report, folder: Path, images: Path, partial: Path) -> None:
        self.original, self.place = place, Place(place.kind, place.name, partial)
        self.report, self.folder, self.images, self.partial = report, folder, images, partial
        self.flat = place.kind == "layout" and LAYOUTS[place.name].by_base_name
        below = os.path.relpath(images, folder)
        # Images that lie beside the folder of the annotations come into it.
        self.target = partial / (LAYOUTS[place.name].images[0] if below.startswith("..") else below)
        self.files: list[RawFile] = []
        self.kept: list[list[_Kept]] = []
        self._changes: dict[tuple[Path, int, str | None], Change] = {}
        self._taken: dict[str, str] = {}
        self._reasons: dict[tuple[str | None, int | None], str] = {}
        for finding in report.findings:
            if finding.severity == "error":
                self._reasons.setdefault((finding.file, finding.row), finding.message)

    @property
    def changes(self) -> list[Change]:
        """Return what became of the rows that were not kept as they were, in their order."""
        return sorted(self._changes.values(), key=lambda change: (change.file, change.row))

    def names(self) -> set[str]:
        """Return the images of the copy."""
        return {each.name for kept in self.kept for each in kept}

    def select(self, progress: bool) -> None:
        """Read the annotation files, correct their entries, and keep those whose images can be read."""
        for file in self.report.files:
            raw = read_raw_file(self.original, file, self._note_damaged)
            seen: dict[str, int] = {}
            kept = []
            for entry in progress_bar(raw.entries, desc=f"selecting {file.name}", disable=not progress, leave=False):
                row, image = entry.row, raw.image_of(entry)
                each = self._corrected(raw, entry)
                if each is None:
                    continue
                content = json.dumps([entry.path, entry.content], sort_keys=True, default=str)
                if seen.setdefault(content, row) != row:
                    self._leave_out(raw.file, row, image, f"says the same as row {seen[content]}")
                    continue
                kept.append(each)
            self.files.append(raw)
            self.kept.append(kept)
        if not any(self.kept):
            raise InputError(f"{self.folder}: no row can be used, so nothing was written; correct the data yourself.")

    def write(self, link: bool, progress: bool) -> None:
        """Copy the images, and write the annotation files until nothing in them is refused."""
        wanted = {each.name: each.source for kept in self.kept for each in kept}
        for name, source in progress_bar(wanted.items(), desc="copying images", disable=not progress, leave=False):
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            if link:
                os.link(os.path.realpath(self.images / source), self.target / name)
            else:
                shutil.copyfile(self.images / source, self.target / name)
        while self._write_annotations():
            pass
        for name in wanted.keys() - self.names():
            (self.target / name).unlink()

    def _write_annotations(self) -> bool:
        """Write the annotation files and read them as training does; leave out what it refuses, and say if there was any."""
        for raw, kept in zip(self.files, self.kept, strict=True):
            file = self.partial / raw.file.relative_to(self.folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw.write([each.entry for each in kept]))
        found = Report("")
        check_place(self.place, found, images=False, progress=False)
        refused: dict[str, dict[int, Finding]] = {}
        for finding in found.findings:
            if finding.severity == "error":
                if finding.row is None or finding.file is None:
                    reason = finding.message.replace(str(self.partial), str(self.folder)).rstrip(".")
                    raise InputError(f"What is left without the rows that cannot be used is no dataset ({reason}).")
                refused.setdefault(finding.file, {}).setdefault(finding.row, finding)
        left = 0
        for index, raw in enumerate(self.files):
            rows = refused.get(str(self.partial / raw.file.relative_to(self.folder)), {})
            numbered = list(enumerate(self.kept[index], raw.first_row))
            for row, each in numbered:
                if row in rows:
                    reason = self._reasons.get((str(raw.file), each.row), rows[row].message)
                    self._leave_out(raw.file, each.row, each.image, reason)
                    left += 1
            self.kept[index] = [each for row, each in numbered if row not in rows]
        if refused and not left:
            first = next(iter(next(iter(refused.values())).values()))
            raise InputError(f"{self.folder}: a row cannot be corrected, so nothing was written ({first.message}).")
        return left > 0

    def _corrected(self, raw: RawFile, entry: RawEntry) -> _Kept | None:
        """Correct an entry in place; None if its image cannot be used."""
        row, image = entry.row, raw.image_of(entry)
        base = os.path.relpath(raw.file.parent, self.images) if self.original.kind == "folder" else "."
        found = self._find_image(image, base) if isinstance(image, str) else ("", "", "names no image")
        if found[2]:
            self._leave_out(raw.file, row, image, self._reasons.get((str(raw.file), row), found[2]))
            return None
        source, name, _ = found
        path = posixpath.relpath(name, base)
        if self.flat:
            folder = unicodedata.normalize("NFC", posixpath.dirname(image.strip()))
            path = posixpath.join(folder, name)
        what = []
        if path != image:
            what.append(f"the image is named {path}")
            raw.set_image(entry, path)
        if _tidy_captions(raw, entry):
            what.append("white space or blank captions were removed")
        if what:
            self._note("changed", raw.file, row, image, "; ".join(what))
        return _Kept(entry, row, image, source, name)

    def _find_image(self, image: str, base: str) -> tuple[str, str, str]:
        """Return the file of an image, its name in the copy, and why there is none, or an empty text."""
        tidy = image.strip().replace("\\", "/")
        reason = ""
        for path in dict.fromkeys((image, tidy)):
            path = posixpath.basename(path) if self.flat else path
            if "\0" in path or path.startswith("/") or ".." in path.split("/"):
                reason = reason or "names no image within the folder"
                continue
            path = posixpath.normpath(posixpath.join(base, path))
            source = self.report.twins.get(path, path)
            if why := self._unusable(source):
                reason = reason or why
                continue
            for name in (unicodedata.normalize("NFC", path), path):
                if self._taken.setdefault(name, source) == source:
                    return source, name, ""
            reason = "has the name of another image"
        return "", "", reason or "names no image"

    def _unusable(self, path: str) -> str:
        """Say why a file cannot be used as an image, or return an empty text."""
        if path not in self.report.images:
            root, real = os.path.realpath(self.images), os.path.realpath(self.images / path)
            outside = os.path.commonpath([root, real]) != root
            source = {"path": str(self.images / path), "bytes": None}
            self.report.images[path] = "leads out of the folder" if outside else examine_image(source)[0]
        return self.report.images[path]

    def _note_damaged(self, error: InputError) -> None:
        if isinstance(error, RowError):
            self._leave_out(Path(error.source), error.row, error.image, error.problem)

    def _leave_out(self, file: Path, row: int, image: Any, reason: str) -> None:
        self._note("left out", file, row, image, reason)

    def _note(self, action: str, file: Path, row: int, image: Any, reason: str) -> None:
        name = image if isinstance(image, str) else None
        self._changes[file, row, name] = Change(action, str(file.relative_to(self.folder)), row, name, reason)


def _tidy_captions(raw: RawFile, entry: RawEntry) -> bool:
    """Collapse white space in captions, and take blank ones out of lists that hold others; say if anything changed."""
    if entry.path is not None and not isinstance(entry.content, dict):
        before, entry.content = entry.content, _tidy(entry.content)
        return bool(before != entry.content)
    changed = False
    for key in raw.caption_keys:
        if key in entry.content and (after := _tidy(entry.content[key])) != entry.content[key]:
            entry.content[key] = after
            changed = True
    return changed


def _tidy(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if not isinstance(value, list):
        return value
    full = [_tidy(each) for each in value if not isinstance(each, str) or clean_caption(each)]
    return full or value
