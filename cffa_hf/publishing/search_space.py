"""What the Space of the search page carries beside its code: a model or its name, and rendered pictures or a gallery's name."""

import json
import re
from pathlib import Path

from huggingface_hub import RepoCard

from cffa_hf.checkpoints.opening import open_model, without_bars
from cffa_hf.demo.pictures import write_demo_pictures
from cffa_hf.errors import InputError
from cffa_hf.publishing.client import check_repo_id

EXAMPLES = 3
MAX_WEIGHTS = 500_000_000
"""Bytes of weights that a Space carries; larger models are published and named."""
RENDERED = "All people here are rendered: nobody in the pictures exists."


def add_search_files(out: Path, model: str, gallery: str | None = None) -> None:
    """Write `page.json`, the model and the pictures into the folder of a Space, and name them in its card.

    Args:
        out: The folder, with the page's README.md.
        model: Name on the Hub, or a folder whose model is carried along.
        gallery: Name of a gallery that is on the Hub as a dataset; None: rendered pictures are carried along.

    Raises:
        InputError: If there is no such model, it is too large to be carried, or a name is not valid.
    """
    card, name = RepoCard.load(out / "README.md"), model
    if Path(model).expanduser().is_dir():
        name = _carry(Path(model).expanduser(), out / "model")
    else:
        check_repo_id(model)
        card.data["models"] = [model]
    sentences: list[str] = []
    if gallery:
        check_repo_id(gallery)
        card.data["datasets"] = [gallery]
        card.text = re.sub(re.escape(RENDERED), f"The pictures are those of the gallery `{gallery}`.", card.text)
    else:
        sentences = write_demo_pictures(out / "pictures")[:EXAMPLES]
    card.save(out / "README.md")
    settings = {"model": name, "gallery": gallery, "sentences": sentences}
    (out / "page.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _carry(folder: Path, out: Path) -> str:
    """Copy the embedding model of a folder, and return what to call it."""
    opened = open_model(folder)
    size = sum(weight.numel() * weight.element_size() for weight in opened.model.parameters())
    if size > MAX_WEIGHTS:
        raise InputError(
            f"{folder}: its weights have {size / 1e6:,.0f} MB, too much to be carried by a Space; publish the model and give "
            "its name on the Hub."
        )
    with without_bars():
        opened.model.save_pretrained(out)
    opened.processor.save_pretrained(out)
    return folder.resolve().name
