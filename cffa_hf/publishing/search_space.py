"""What the Space of the search page carries beside its code: rendered pictures, and the model or its name."""

import json
from pathlib import Path

from huggingface_hub import RepoCard

from cffa_hf.checkpoints.opening import open_model
from cffa_hf.demo.pictures import write_demo_pictures
from cffa_hf.errors import InputError
from cffa_hf.publishing.client import check_repo_id

EXAMPLES = 3
MAX_WEIGHTS = 500_000_000
"""Bytes of weights that a Space carries; larger models are published and named."""


def add_search_files(out: Path, model: str) -> None:
    """Write `pictures/`, `page.json` and the model into the folder of a Space, and name the model in its card.

    Args:
        out: The folder, with the page's README.md.
        model: Name on the Hub, or a folder whose model is carried along.

    Raises:
        InputError: If there is no such model, or it is too large to be carried.
    """
    name = model
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser()
        opened = open_model(folder)
        size = sum(weight.numel() * weight.element_size() for weight in opened.model.parameters())
        if size > MAX_WEIGHTS:
            raise InputError(
                f"{model}: its weights have {size / 1e6:,.0f} MB, too much to be carried by a Space; publish the model "
                "and give its name on the Hub."
            )
        opened.model.save_pretrained(out / "model")
        opened.processor.save_pretrained(out / "model")
        name = folder.resolve().name
    else:
        check_repo_id(model)
        card = RepoCard.load(out / "README.md")
        card.data["models"] = [model]
        card.save(out / "README.md")
    sentences = write_demo_pictures(out / "pictures")
    settings = {"model": name, "sentences": sentences[:EXAMPLES]}
    (out / "page.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
