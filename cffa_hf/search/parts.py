"""What a gallery consists of, and how an empty one begins."""

import os
import uuid
from pathlib import Path
from typing import Self

from cffa_hf.files import writing
from cffa_hf.inference.embedder import Embedder
from cffa_hf.search.header import Header, probe, write_header
from cffa_hf.search.indexes.exact import ExactIndex
from cffa_hf.search.indexes.interface import VectorIndex
from cffa_hf.search.items import Items


class GalleryParts:
    """The images of a gallery, what finds them and what embeds queries.

    Args:
        embedder: Embeds queries; the same that embedded the images.
        items: The images.
        index: Finds them; None: exact search.
        header: What is known of them.
        folder: Where they are saved; None: in memory.
    """

    def __init__(
        self,
        embedder: Embedder,
        items: Items,
        index: VectorIndex | None,
        header: Header,
        folder: Path | None = None,
    ):
        self.embedder, self.items, self.header, self.folder = embedder, items, header, folder
        self.index: VectorIndex = index or ExactIndex(items)
        self.storage: Path | None = None

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def new(cls, embedder: Embedder, folder: Path | None = None, *, root: Path | None = None) -> Self:
        """Make an empty gallery.

        Args:
            embedder: Embeds its images.
            folder: Where it is saved as it grows; None: in memory.
            root: Folder that the paths of its images are relative to.

        Raises:
            InputError: If the folder cannot be written.
        """
        header = Header(
            data=f"data-{uuid.uuid4().hex[:16]}",
            width=embedder.width,
            precision=embedder.precision,
            checkpoint=embedder.checkpoint,
            weights_sha256=embedder.weights_sha256,
            probe=probe(embedder).tolist(),
            root=str(root.resolve()) if root else None,
            relative_root=os.path.relpath(root.resolve(), folder.resolve()) if root and folder else None,
            complete=False,
        )
        if folder is None:
            return cls(embedder, Items(None, embedder.width), None, header)
        with writing(folder):
            (folder / header.data).mkdir(parents=True)
        items = Items(folder / header.data, embedder.width, create=True)
        write_header(folder, header)
        return cls(embedder, items, None, header, folder)

    @property
    def root(self) -> Path | None:
        """Return the folder that its paths are relative to: beside the gallery if it is there, else where it was."""
        if self.folder and self.header.relative_root:
            beside = (self.folder.resolve() / self.header.relative_root).resolve()
            if beside.is_dir():
                return beside
        return Path(self.header.root) if self.header.root else None

    def confine(self, snapshot: Path) -> None:
        """Keep to the files of a downloaded gallery, wherever its header points, for strangers may have written it.

        Args:
            snapshot: Its folder in the cache of the Hub, whose files are links to those beside it.
        """
        root = Path(os.path.normpath(snapshot / (self.header.relative_root or ".")))
        root = root if root.is_relative_to(snapshot) else snapshot
        self.header = self.header.model_copy(update={"root": str(root), "relative_root": None})
        self.storage = snapshot.parents[1]

    def close(self) -> None:
        """Let go of files and connections."""
        self.index.close()
        self.items.close()
