"""The commands that are killed: what they work on, what was there before, and what must be readable at any time."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.training.resume import flaw_of
from tests.tiny import tiny_model, tiny_processor
from tests.torture.commands import Command
from tests.torture.snapshots import snapshot

SENTENCE = "a woman in a green coat"
SETTINGS = """
dataset: cuhk_pedes
dataset_root: data
init_from: null
image_size: [32, 16]
patch_size: 8
hidden_size: 64
num_layers: 1
projection_dim: 32
local_dim: 32
cross_modal_layers: 1
context_length: 32
vocabulary_size: 600
text_attention_dropout: 0
precision: float32
use_cpu: true
per_device_train_batch_size: 8
num_train_epochs: 2
warmup_epochs: 0
learning_rate: 1e-3
adam_epsilon: 1e-8
logging_steps: 1
save_strategy: steps
eval_strategy: epoch
save_steps: 2
load_best_model_at_end: false
dataloader_num_workers: 1
cache_images: true
disable_tqdm: true
report_to: none
"""


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        name: In the table.
        words: Of the command; paths are relative to the folder that it works in.
        inputs: What of the common inputs lies in that folder.
        prepare: Makes what else was there before.
        problem: Says what of the things that must be whole at any time is not, given the folder, and the old and the new
            state of it.
        refuses_finished: Whether it refuses to begin where it has finished before.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda work: None
    problem: Callable[[Path, dict[str, Any], dict[str, Any]], str | None] = lambda work, old, new: None
    refuses_finished: bool = False


def write_inputs(folder: Path) -> None:
    """Write what the commands work on: data, models, a gallery, an evaluated run."""
    folder.mkdir(parents=True)
    write_demo_dataset(folder / "data", identities=(8, 2, 4), images_per_identity=2, workers=1)
    write_demo_dataset(folder / "other-data", identities=(3, 1, 1), images_per_identity=2, workers=1, seed=1)
    shutil.copytree(folder / "data" / "CUHK-PEDES" / "imgs", folder / "images")
    rows = load_person_dataset("cuhk_pedes", folder / "data")["train"]
    processor = tiny_processor(rows)
    size = len(processor.tokenizer)
    for name, seed in (("checkpoint", 0), ("other-checkpoint", 1)):
        tiny_model(seed, text={"vocab_size": size}).base_model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    from transformers import CLIPConfig, CLIPModel

    width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = width | {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    vision = width | {"image_size": 64, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).save_pretrained(folder / "clip")
    processor.tokenizer.save_pretrained(folder / "clip")
    (folder / "run.yaml").write_text(SETTINGS)
    large = folder / "large" / "MALS"
    large.mkdir(parents=True)
    lines = [{"image": f"a/{n}.jpg", "caption": f"a red coat {n}", "label": [1, 0, -1] * 9} for n in range(3000)]
    (large / "g_0_attrs.json").write_text(json.dumps(lines))


def run_to_end(words: tuple[str, ...], work: Path) -> str:
    """Run a command that must succeed; what it prints."""
    command = Command(list(words), work)
    if status := command.end():
        raise RuntimeError(f"{' '.join(words)} ended with {status}:\n{command.output()}")
    return command.output()


def _make_gallery(work: Path) -> None:
    run_to_end(INDEX, work)


def _change_images(work: Path) -> None:
    """Take four images away, change two and add six to a folder whose gallery is there."""
    _make_gallery(work)
    paths = sorted((work / "images").rglob("*.jpg"))
    for path in paths[:4]:
        path.unlink()
    for path, other in zip(paths[4:6], paths[6:8], strict=True):
        shutil.copyfile(other, path)
    for number, path in enumerate(paths[8:14]):
        with Image.open(path) as image:
            image.rotate(180).save(path.with_name(f"new{number}.png"))


def _answers(work: Path) -> dict[str, float] | str:
    """Search a gallery: path -> score, or why it does not answer."""
    command = Command(["search", "gallery", SENTENCE, "--top", "99", "--json"], work)
    status = command.end()
    text = command.output()
    if status:
        refused = status == 2 and text.count("error: ") == 1 and "Traceback" not in text
        return f"refused: {text.strip()[-300:]}" if refused else f"status {status}: {text[-2000:]}"
    return {entry["path"]: round(entry["score"], 5) for entry in json.loads(text[("\n" + text).index("\n[") :])}


def _gallery_problem(work: Path, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """A gallery answers with old or new images, each with a score that it has had or will have; a new one may be refused."""
    if not (work / "gallery" / "gallery.json").exists():
        return "the gallery has gone" if "gallery/gallery.json" in old else None
    found = _answers(work)
    if isinstance(found, str):
        return found
    known = {tuple(pair) for state in (old, new) for pair in state.get("answers", [])}
    wrong = [pair for pair in found.items() if pair not in known]
    return f"the gallery answers {wrong[:3]}" if wrong else None


def _checkpoints_problem(work: Path, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    for folder in (work / "run").glob("checkpoint-*"):
        if flaw := flaw_of(folder):
            return f"{folder.name}: {flaw}"
    return _whole_problem(work, old, new)


def _whole_problem(work: Path, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Every picture, every file of weights and every JSON file under a final name can be read."""
    for path in work.rglob("*"):
        if any(part.startswith((".", "_unfinished")) for part in path.relative_to(work).parts) or not path.is_file():
            continue
        try:
            if path.suffix in (".png", ".jpg"):
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    list(file.keys())
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except Exception as error:  # whatever is wrong with it
            return f"{path.relative_to(work)} cannot be read: {error}"
    return None


def _out_problem(work: Path, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The folder `out` is as it was, or as it will be, or not there if it was not; hidden, a file may be unfinished."""

    def of(state: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in state.items() if re.match(r"out/(?!\.[^/]*\.unfinished$)", name)}

    now = of(snapshot(work))
    return None if now in (of(old), of(new)) else f"out holds neither the old nor the new files: {sorted(now)[:9]}"


def _dry_run_before(work: Path) -> None:
    run_to_end(("push", "other-checkpoint", *PUSH), work)


def _dry_run_of_data_before(work: Path) -> None:
    run_to_end(("push-dataset", "cuhk_pedes", "--dataset-root", "other-data", *PUSH), work)


def _evaluated_before(work: Path) -> None:
    run_to_end((*EVALUATE, "--confidence", "true"), work)


def _sheet_before(work: Path) -> None:
    _make_gallery(work)
    run_to_end((*SEARCH[:2], "a man in a red coat", *SEARCH[3:]), work)


PUSH = ("--repo-id", "me/it", "--dry-run", "out")
INDEX = ("index", "images", "gallery", "--checkpoint", "checkpoint", "--index", "faiss", "--precision", "float32")
SEARCH = ("search", "gallery", SENTENCE, "--sheet", "out/sheet.png")
EVALUATE = ("evaluate", "checkpoint", "--config", "run.yaml", "--output_dir", "out", "--report", "true")
EVALUATE += ("--num_workers", "1", "--device", "cpu")
TRAIN = ("train", "--config", "run.yaml", "--output_dir", "run", "--resume_from_checkpoint", "auto")
DEMO = ("demo-data", "out", "--identities", "12", "2", "6", "--images-per-identity", "2")

SCENARIOS = (
    Scenario("demo-data", DEMO, (), problem=_whole_problem),
    Scenario(
        "convert",
        ("convert", "clip", "out", "--image-size", "64", "32"),
        ("clip",),
        problem=_out_problem,
        refuses_finished=True,
    ),
    Scenario("index, new", INDEX, ("images", "checkpoint"), problem=_gallery_problem),
    Scenario("index, up to date", INDEX, ("images", "checkpoint"), _change_images, _gallery_problem),
    Scenario("search with a sheet", SEARCH, ("images", "checkpoint"), _sheet_before, _out_problem),
    Scenario("train", TRAIN, ("data", "run.yaml"), problem=_checkpoints_problem),
    Scenario("evaluate", EVALUATE, ("data", "checkpoint", "run.yaml"), _evaluated_before, _whole_problem),
    Scenario(
        "push --dry-run",
        ("push", "checkpoint", *PUSH),
        ("checkpoint", "other-checkpoint"),
        _dry_run_before,
        _out_problem,
    ),
    Scenario(
        "push-dataset --dry-run",
        ("push-dataset", "cuhk_pedes", "--dataset-root", "data", *PUSH),
        ("data", "other-data"),
        _dry_run_of_data_before,
        _out_problem,
    ),
    Scenario(
        "export",
        ("export", "checkpoint", "out", "--int8"),
        ("checkpoint",),
        problem=_out_problem,
        refuses_finished=True,
    ),
    Scenario("caches of rows, ids, images", ("caches",), ("data", "large"), problem=_whole_problem),
)


def state_of(work: Path) -> dict[str, Any]:
    """Return the snapshot of a folder, with what its gallery answers."""
    answers = _answers(work) if (work / "gallery" / "gallery.json").exists() else None
    state = snapshot(work)
    if isinstance(answers, str):
        state["answers"] = answers
    elif answers is not None:
        state["answers"] = sorted(answers.items())
    return state
