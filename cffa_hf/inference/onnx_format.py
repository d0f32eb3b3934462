"""The folder of an ONNX export: the names of its files, and the record that describes them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cffa_hf.errors import InputError, one_line
from cffa_hf.files import file_digest
from cffa_hf.json_files import read_json

FORMAT = 1
RECORD = "onnx.json"
CONFIG = "config.json"
IMAGE_TOWER, TEXT_TOWER = "image.onnx", "text.onnx"
LARGEST_RECORD = 2**20  # bytes; ours have some 1,000

Size = Annotated[int, Field(ge=1, le=2**16)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OnnxRecord(BaseModel):
    """What `onnx.json` says.

    Attributes:
        format: Version of this layout.
        precision: What the towers compute in.
        width: Numbers of an embedding.
        image_size: Height and width of the images in pixels.
        context_length: Most tokens of a caption, start and end included.
        weights_sha256: Digest of the weights that were exported.
        files: SHA-256 of every other file of the folder.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal[1]
    precision: Literal["onnx-float32", "onnx-int8"]
    width: Size
    image_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    context_length: Size
    weights_sha256: Digest
    files: dict[str, Digest]


def read_record(folder: Path) -> OnnxRecord:
    """Read the record of an export, and compare every file with it.

    Raises:
        InputError: If the folder holds no export, one of another format, or a file is missing or not the exported one.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder} holds no ONNX export, for there is no {RECORD}; make one with cffa-hf export.")
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise ValueError("it is too large")
        values = read_json(path)
        found = values.get("format") if isinstance(values, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise InputError(f"{path} is of format {found}, but this version reads {FORMAT}; export the model again.")
        record = OnnxRecord.model_validate(values)
    except InputError:
        raise
    except ValidationError as error:
        mistake = error.errors()[0]
        field = ".".join(map(str, mistake["loc"])) or "its content"
        raise InputError(f"{path} is damaged ({field}: {mistake['msg']}); export the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({one_line(error, 200)}); export the model again.") from error
    for name in (IMAGE_TOWER, TEXT_TOWER, CONFIG, *record.files):
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{folder} has no file {name[:80]!r}, which its {RECORD} names; export the model again.")
        if file_digest(folder / name) != record.files.get(name):
            raise InputError(f"{folder / name} is damaged or of another export; export the model again.")
    return record
