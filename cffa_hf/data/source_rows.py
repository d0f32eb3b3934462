"""What a reader has read of a source, before its identities are divided into splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cffa_hf.data.rows import PersonRow


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source that can be used.

    Attributes:
        source: What messages call it.
        folder: Of the data set.
        files: Its annotation files.
        images: Folder that the paths of the images are relative to.
        listed: One for each valid row of the annotation files.
        rows: One for each image that is used; where several rows list an image with a caption each, one has all.
        locate: File and row, as messages name them, of an `image_id` of the rows.
        people: What the source calls identities that were numbered.
    """

    source: str | Path
    folder: Path
    files: tuple[Path, ...]
    images: Path
    listed: Sequence[PersonRow]
    rows: Sequence[PersonRow]
    locate: Callable[[int], tuple[str | Path, int]]
    people: Mapping[int, str] = field(default_factory=dict)
