"""The Space of the search page: rendered pictures, ranked by the model that page.json names."""

import json
import os
from pathlib import Path

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page.rendered import rendered_page
from cffa_hf.page.serving import serve

HERE = Path(__file__).parent


def main() -> None:
    """Open the model, embed the pictures beside this file, and serve the page where Spaces want it."""
    settings = json.loads((HERE / "page.json").read_text(encoding="utf-8"))
    model = settings["model"]
    checkpoint = open_checkpoint(HERE / "model" if (HERE / "model").is_dir() else model)
    page = rendered_page(
        Embedder(checkpoint.model, checkpoint.processor), HERE / "pictures", sentences=settings["sentences"]
    )
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    serve(page, model=model, host=host, port=int(port))


if __name__ == "__main__":
    main()
