"""A page on rendered people, to try it and to show it in public."""

from collections.abc import Sequence
from pathlib import Path

from cffa_hf.demo.pictures import METADATA, write_demo_pictures
from cffa_hf.inference.embedder import Embedder
from cffa_hf.page.page import SearchPage
from cffa_hf.search.gallery import Gallery

SENTENCES = 3


def rendered_page(embedder: Embedder, folder: str | Path, *, sentences: Sequence[str] = ()) -> SearchPage:
    """Embed the pictures of `write_demo_pictures`, and make a page of them.

    Args:
        embedder: Of the model that is tried.
        folder: Where they are; if there is nothing yet, they are rendered there first.
        sentences: The examples; none: the sentences of the people that are rendered.

    Raises:
        InputError: If the folder holds something else.
    """
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        sentences = write_demo_pictures(folder)[:SENTENCES]
    gallery = Gallery.from_folder(embedder, folder, metadata=folder / METADATA, progress=False)
    return SearchPage(gallery, sentences)
