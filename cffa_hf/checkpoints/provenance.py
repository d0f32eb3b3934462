"""A checkpoint for evaluation or search, and where it and its results come from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import CLIPProcessor

from cffa_hf.checkpoints.opening import open_model
from cffa_hf.errors import InputError
from cffa_hf.json_files import read_object
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel
from cffa_hf.names import RESULTS, SELECTIONS, STATE_FILE


@dataclass
class Checkpoint:
    """A model that is ready to embed, and what is known about it.

    Attributes:
        name: What the user called it, a folder or a name on the Hub.
        folder: Where its files lie.
        model: In evaluation mode, on its device.
        processor: Its processor.
        commit: Commit on the Hub; None for a folder.
        weights_sha256: Digest of its weight files.
        selected_on: What chose it among the checkpoints of its run, one of `SELECTIONS`.
    """

    name: str
    folder: Path
    model: CFFAModel
    processor: CLIPProcessor
    commit: str | None
    weights_sha256: str
    selected_on: str

    @property
    def output_dir(self) -> Path:
        """Return where results go by default: beside the weights, or below `outputs` for a model of the Hub."""
        return Path("outputs") / self.name.replace("/", "--") if self.commit else self.folder

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies the checkpoint, as `results.json` holds it; of a folder only its name, no path."""
        name = self.name if self.commit else self.folder.resolve().name
        return {"name": name, "commit": self.commit, "weights_sha256": self.weights_sha256}


def open_checkpoint(name: str | Path, *, device: str | None = None, heads: bool = False) -> Checkpoint:
    """Load a published model or a training checkpoint, from a folder or the Hub.

    Args:
        name: Folder, or name on the Hub.
        device: As torch names it; None: a GPU if there is one.
        heads: Load the training model of a training checkpoint, with its cross-modal layers.

    Raises:
        InputError: If it is not there, or no complete CFFA model with its processor, as in `open_model`.
    """
    opened = open_model(name, heads=heads)
    folder, model = opened.folder, opened.model
    try:
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = model.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used ({str(error).splitlines()[0]}); try cpu.") from error
    digest, selected_on = weights_digest(folder), read_selection(folder)
    if selected_on == "unknown":
        selected_on = _published_selection(folder, digest)
    return Checkpoint(str(name), folder, model, opened.processor, opened.commit, digest, selected_on)


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of the weight files of a folder; of a single file it is what the Hub shows for it."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def read_selection(folder: Path) -> str:
    """Find out what chose this checkpoint among those of its run, from `trainer_state.json`.

    The best one on the validation split says "validation", on the test split "test", another one "last epoch", and one
    without such a record "unknown". A run may note its best step and yet end with its last: where the best checkpoint
    still lies beside, the weights are compared.
    """
    try:
        state = read_object(folder / STATE_FILE)
    except InputError:
        return "unknown"
    best = state.get("best_model_checkpoint")
    if not isinstance(best, str) or not best:
        return "last epoch"
    best_name, chooser = Path(best).name, _chooser(state)
    if folder.name.startswith("checkpoint-"):
        return chooser if folder.name == best_name else "last epoch"
    kept = folder / best_name
    if not kept.is_dir() or state.get("best_global_step") == state.get("global_step"):
        return chooser
    return chooser if _same_weights(folder, kept) else "last epoch"


def _published_selection(folder: Path, digest: str) -> str:
    """Find out the same from the results that were published with the weights."""
    try:
        results = read_object(folder / RESULTS)
    except InputError:
        return "unknown"
    told, checkpoint = results.get("selected_on"), results.get("checkpoint")
    its_own = isinstance(checkpoint, dict) and checkpoint.get("weights_sha256") == digest
    return told if its_own and told in SELECTIONS else "unknown"


def _chooser(state: dict[str, Any]) -> str:
    """Name the split whose metric was the best: that of the test split is logged under its name."""
    log = state.get("log_history")
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    best = {
        name
        for entry in entries
        if entry.get("step") == state.get("best_global_step")
        for name, value in entry.items()
        if name.startswith("eval_") and value == state.get("best_metric")
    }
    return "test" if any(name.startswith("eval_test_") for name in best) else "validation"


def _same_weights(published: Path, training: Path) -> bool:
    """Compare one weight that every step changes."""
    name = "visual_projection.weight"
    try:
        with safe_open(str(published / "model.safetensors"), "pt") as file:
            one = file.get_tensor(name)
        with safe_open(str(training / "model.safetensors"), "pt") as file:
            other = file.get_tensor(f"{CFFAForPreTraining.base_model_prefix}.{name}")
    except (OSError, SafetensorError):
        return True
    return torch.equal(one, other)
