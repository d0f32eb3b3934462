"""The Space of the search page: a gallery without real people, or one of the Hub, ranked by the model of page.json."""

import json
import os
from pathlib import Path

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page.page import SearchPage
from cffa_hf.page.rendered import rendered_page
from cffa_hf.page.serving import serve
from cffa_hf.search.building import download_gallery
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.header import read_header

HERE = Path(__file__).parent


def main() -> None:
    """Open the model, open or embed the gallery, and serve the page where Spaces want it."""
    settings = json.loads((HERE / "page.json").read_text(encoding="utf-8"))
    checkpoint = open_checkpoint(HERE / "model" if (HERE / "model").is_dir() else settings["model"])
    if settings["gallery"]:
        folder = download_gallery(settings["gallery"], None)
        precision = str(read_header(folder)["precision"])
        page = SearchPage(Gallery.open(folder, Embedder.from_checkpoint(checkpoint, precision=precision)))
    else:
        page = rendered_page(Embedder.from_checkpoint(checkpoint), HERE / "pictures", sentences=settings["sentences"])
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    serve(page, model=settings["model"], host=host, port=int(port))


if __name__ == "__main__":
    main()
