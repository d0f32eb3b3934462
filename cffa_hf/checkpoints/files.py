"""Safe reading of weight files: nothing that such a file may hold is executed."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cffa_hf.errors import InputError, one_line

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "BoolStorage": torch.bool,
}
SCRIPT_LISTS = ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file; nothing in it is executed.

    Files of `torch.save` are read with `weights_only=True`: a state dict, alone or beside an optimizer's under "model"
    or "state_dict". Of a TorchScript archive (OpenAI's CLIP) only the tensors are read, its code is neither compiled
    nor run. A `.safetensors` file is read as it is. The prefix `module.` of wrapped models is taken off.

    Raises:
        InputError: If the file is missing, empty, truncated, no checkpoint, or a pickle that wants more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the path of a checkpoint file.")
    with path.open("rb") as file:
        magic = file.read(4)
    if not magic:
        raise InputError(f"{path} is empty: download it again.")
    content: Any
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif magic == b"PK\x03\x04":
        content = read_script_archive(path) if _is_script_archive(path) else _read_pickle(path)
    elif magic.startswith(b"\x80"):
        content = _read_pickle(path)
    else:
        raise _no_checkpoint(path)
    weights = content.get("model", content.get("state_dict", content)) if isinstance(content, dict) else None
    named = {
        name: value
        for name, value in (weights.items() if isinstance(weights, dict) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not named:
        raise InputError(
            f"{path} holds no weights: expected a state dict, alone or under the key 'model' or 'state_dict'."
        )
    for name, value in named.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(
                f"{path} is refused: its {name[:200]!r} claims to be larger than what is stored of it; save it again."
            )
    return {name.removeprefix("module."): value for name, value in named.items()}


def _read_pickle(path: Path) -> Any:
    """Read what `torch.save` wrote, if it holds nothing but tensors and plain values."""
    _refuse_packed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The loader's explanation ends in advice to switch the protection off; only the offending name is of use.
        reasons = [line.strip() for line in str(error).splitlines() if "unsupported" in line.lower()]
        raise _refused(path, reasons[0]) if reasons else _no_checkpoint(path) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _refuse_packed(path: Path) -> None:
    """Refuse an archive that unfolds to more than it takes: torch stores weights as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(info.file_size for info in archive.infolist())
    if unfolded > 2 * path.stat().st_size + 2**20:
        raise InputError(f"{path} is refused: it is packed, and would unfold to {unfolded:,} bytes; save it again.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _is_script_archive(path: Path) -> bool:
    """Tell a TorchScript archive from a file of `torch.save`; both are zip files with a `data.pkl`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _unreadable(path, error) from error


def read_script_archive(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by their dotted names, those that its `state_dict()` has among them.

    `torch.jit.load` would compile and run the code in the archive, so its data are read by an unpickler of our own that
    knows tensors and nothing else.

    Raises:
        InputError: If the archive is damaged or its pickle wants more than tensors.
    """
    path = Path(path)
    _refuse_packed(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            with archive.open(f"{root}data.pkl") as data:
                return _tensors_of(ScriptUnpickler(data, archive, root).load())
    except RefusedName as error:
        raise _refused(path, str(error)) from error
    # A damaged pickle can fail in any way inside the unpickler; nothing of it has been executed.
    except Exception as error:
        raise _unreadable(path, error) from error


class RefusedName(Exception):
    """A pickle asks for something that is not on the list of allowed names."""


class ScriptObject:
    """Stands for a module of a TorchScript archive: attributes without behaviour."""


class ScriptUnpickler(pickle.Unpickler):
    """Read `data.pkl` of a TorchScript archive; every name that is not of a tensor or a module is refused.

    Args:
        data: The open pickle.
        archive: Where the storages lie.
        root: Folder in the archive.
    """

    def __init__(self, data: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(data)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a name.

        Raises:
            RefusedName: If the name is not on the list of allowed names.
        """
        if module == "__torch__" or module.startswith("__torch__."):
            return ScriptObject
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch.jit._pickle" and name in SCRIPT_LISTS:
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise RefusedName(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Read a storage, `("storage", type, key, device, size)`, as a flat tensor on the CPU."""
        _, dtype, key, _, _ = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    """Make a tensor of a part of its storage; a part that lies outside raises."""
    return torch.as_strided(storage, size, stride, offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _tensors_of(script: Any, prefix: str = "") -> dict[str, Tensor]:
    """Collect the tensors of a module and the modules in it by their dotted names."""
    tensors: dict[str, Tensor] = {}
    for name, value in vars(script).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, ScriptObject):
            tensors |= _tensors_of(value, f"{prefix}{name}.")
    return tensors


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} holds more than weights and is refused, because loading it could run code: save its state dict alone, "
        f"torch.save(model.state_dict(), ...), and give that ({reason[:200]})."
    )


def _no_checkpoint(path: Path) -> InputError:
    return InputError(
        f"{path} is no checkpoint: a file written by torch.save, torch.jit.save or safetensors is needed."
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read, it is probably truncated: download it again ({one_line(error, 200)}).")
