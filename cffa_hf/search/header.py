"""The header of a saved gallery: written last, atomically, it says which files belong together and which model made them."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cffa_hf.errors import InputError, is_text, one_line
from cffa_hf.files import write_text
from cffa_hf.inference.embedder import Embedder
from cffa_hf.json_files import read_json

FORMAT = 3
HEADER = "gallery.json"
LARGEST = 64 * 2**20  # of a header of the older formats, which hold all paths
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


class IndexRecord(BaseModel):
    """The index of a gallery.

    Attributes:
        kind: "exact", "faiss", "pgvector" or "qdrant".
        file: Of the codes, in the folder of the data.
        address: Of the server, without password.
        fingerprint: Of that file, or of this gallery on the server.
        candidates: That are ranked for each query.
        recall: At 10, measured against exact search on vectors of the gallery.
        rows: That the recall was measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["exact", "faiss", "pgvector", "qdrant"] = "exact"
    file: str | None = None
    address: str | None = None
    fingerprint: str | None = None
    candidates: int | None = Field(default=None, ge=1)
    recall: float | None = None
    rows: int | None = None


class Header(BaseModel):
    """What `gallery.json` says.

    Attributes:
        format: Of the files.
        data: Name of the folder that holds them.
        width: Of the vectors.
        precision: That they were computed in.
        checkpoint: What the user called the model, if it was opened by name.
        weights_sha256: Digest of its weights, if so.
        probe: Embeddings of a black image and an empty caption, by which the model is known.
        root: Folder that the paths of the images are relative to, absolute; None: they are not files.
        relative_root: The same, relative to the gallery: it is tried first.
        complete: Whether all images of the source were embedded.
        index: How it is searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[3] = 3
    data: str = Field(pattern=r"^data-[0-9a-f]{16}$")
    width: int = Field(ge=1, le=2**16)
    precision: str
    checkpoint: str | None = None
    weights_sha256: str | None = None
    probe: list[list[float]] = Field(min_length=2, max_length=2)
    root: str | None = None
    relative_root: str | None = None
    complete: bool = True
    index: IndexRecord = IndexRecord()


def read_header(folder: Path) -> dict[str, Any]:
    """Read `gallery.json` of any format.

    Raises:
        InputError: If there is none, or it is no JSON object with a format.
    """
    path = folder / HEADER
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{HEADER} is larger than {LARGEST // 2**20} MiB")
        header = read_json(path)
        if not isinstance(header, dict) or header.get("format") not in (1, 2, FORMAT):
            raise ValueError("its format is unknown")
        if not all(is_text(value) for value in header.values() if isinstance(value, str)):
            raise ValueError("it names something that is no UTF-8 text")
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(folder, error) from error
    return header


def parse_header(folder: Path, content: dict[str, Any]) -> Header:
    """Check what a header of format 3 says.

    Raises:
        InputError: If it says something that cannot be.
    """
    try:
        return Header.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise unreadable(folder, ValueError(f"{HEADER}, {field}: {first['msg']}")) from error


def write_header(folder: Path, header: Header) -> None:
    """Write `gallery.json`, over the one that is there, atomically."""
    write_text(folder / HEADER, header.model_dump_json(indent=1) + "\n")


def probe(embedder: Embedder) -> torch.Tensor:
    """Embed a black image and an empty caption, `(2, width)`: by this a saved gallery knows the model that made it."""
    size = embedder.processor.image_processor.size
    black = Image.new("RGB", (size["width"], size["height"]))
    return torch.cat([embedder.images([black]), embedder.captions([""])])


def check_model(folder: Path, header: Header, embedder: Embedder) -> None:
    """Refuse a gallery of another model or of another precision.

    Raises:
        InputError: Says which of the two.
    """
    if header.precision != embedder.precision:
        raise InputError(
            f"{folder}: this gallery was made in {header.precision} and vectors of two precisions are not mixed; open it "
            f"with precision {header.precision}, not {embedder.precision}."
        )
    own = probe(embedder)
    try:
        there = torch.tensor(header.probe)
    except ValueError as error:  # its rows are of different lengths
        raise unreadable(folder, error) from error
    digests = header.weights_sha256, embedder.weights_sha256
    if all(digests) and digests[0] != digests[1]:
        raise InputError(f"{folder}: another model made this gallery; embed the images again with this one.")
    if there.shape != own.shape or not torch.allclose(there, own, atol=TOLERANCE.get(header.precision, 1e-3)):
        raise InputError(f"{folder}: another model made this gallery; embed the images again with this one.")


def quick_fingerprint(path: Path) -> str:
    """Return a digest of the size, the beginning and the end of a file, in a moment at any size."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(2**20))
        file.seek(max(0, path.stat().st_size - 2**20))
        digest.update(file.read(2**20))
    return digest.hexdigest()


def unreadable(folder: Path, error: Exception) -> InputError:
    """Return the error of a gallery that cannot be read."""
    return InputError(f"{folder}: no gallery can be read from there ({one_line(error, 200)}); embed the images again.")
