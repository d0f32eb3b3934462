"""A gallery on disk: opened, finished with an index, and saved elsewhere."""

import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.errors import InputError
from cffa_hf.files import complete, new_file, writing
from cffa_hf.inference.embedder import Embedder
from cffa_hf.locks import folder_lock
from cffa_hf.search.header import (
    FORMAT,
    HEADER,
    Header,
    IndexRecord,
    check_model,
    parse_header,
    quick_fingerprint,
    read_header,
    unreadable,
    write_header,
)
from cffa_hf.search.indexes.exact import ExactIndex
from cffa_hf.search.indexes.faiss_index import (
    CODES,
    FEW,
    GOAL,
    FaissIndex,
    build_codes,
    choose_candidates,
    import_faiss,
    read_codes,
    stand_in_queries,
)
from cffa_hf.search.indexes.interface import VectorIndex
from cffa_hf.search.indexes.pgvector_index import PgvectorIndex
from cffa_hf.search.indexes.qdrant_index import QdrantIndex
from cffa_hf.search.indexes.servers import connect_index, is_address, recorded_address, synchronise
from cffa_hf.search.items import Items
from cffa_hf.search.old_formats import read_old_gallery
from cffa_hf.search.parts import GalleryParts

G = TypeVar("G", bound=GalleryParts)
LOCK = ".gallery"
INDEXES = ("auto", "exact", "faiss")
# What galleries of this and earlier versions leave in a folder; everything else there is somebody else's.
OWN = re.compile(r"data-[0-9a-f]{16}|gallery(-[0-9a-f]{16})?\.safetensors")


@contextmanager
def locked(folder: str | Path | None) -> Iterator[None]:
    """Let one program at a time change a gallery.

    Raises:
        InputError: If another one does.
    """
    if folder is None:
        yield
        return
    folder = Path(folder)
    with folder_lock(folder, folder / LOCK, what="is a gallery that is being changed"):
        _sweep(folder)
        yield


def _sweep(folder: Path) -> None:
    """Remove indexes that the header of a gallery does not name.

    A program that was killed has written them and not got to the header, or not to the removal of the old one.
    """
    if not (folder / HEADER).is_file():
        return
    content = read_header(folder)
    if content["format"] == FORMAT:
        header = parse_header(folder, content)
        for path in (folder / header.data).glob(f"*-{CODES}*"):
            if path.name != header.index.file:
                path.unlink(missing_ok=True)


def open_gallery(
    kind: type[G], folder: Path, embedder: Embedder | None, device: str | None, index: str | None = None
) -> G:
    """Open a gallery as `Gallery.open` says."""
    content = read_header(folder)
    if content["format"] != FORMAT:
        if embedder is None:
            raise InputError(f"{folder}: this gallery does not say which model made it; name its checkpoint.")
        paths, vectors = read_old_gallery(folder, content, embedder)
        gallery = kind.new(embedder)
        gallery.items.append(paths, vectors, [{}] * len(paths))
        finish(gallery, "exact")
        return gallery
    header = parse_header(folder, content)
    if embedder is None:
        if header.checkpoint is None:
            raise InputError(f"{folder}: this gallery does not say which model made it; name its checkpoint.")
        checkpoint = open_checkpoint(header.checkpoint, device=device)
        embedder = Embedder.from_checkpoint(checkpoint, precision=header.precision)
    if header.width != embedder.width:
        raise InputError(f"{folder}: another model made this gallery; embed the images again with this one.")
    check_model(folder, header, embedder)
    items = Items(folder / header.data, header.width)
    if not header.complete:
        warnings.warn(
            f"{folder}: this gallery was interrupted at {len(items):,} images; index the folder again, and it goes on.",
            stacklevel=3,
        )
    return kind(embedder, items, _open_index(folder, header, items, index), header, folder)


def finish(gallery: GalleryParts, index: str) -> None:
    """Choose, build and measure the index as `Gallery.finished` says."""
    if index not in INDEXES and not is_address(index):
        raise InputError(f"The index is exact, faiss, auto or the address of a server, not {index!r}.")
    if is_address(index) or (index == "auto" and gallery.header.index.address):
        _finish(gallery, _send_to_server(gallery, index))
        return
    kind = index if index != "auto" else "faiss" if len(gallery) > FEW else "exact"
    record, items = IndexRecord(), gallery.items
    gallery.index = ExactIndex(items)
    if kind == "faiss" and len(gallery):
        codes = build_codes(items)
        candidates, recall = choose_candidates(items, codes, stand_in_queries(items))
        if recall < GOAL:
            warnings.warn(
                f"The FAISS index finds {recall:.1%} of the ten best images of this gallery; the exact index finds all.",
                stacklevel=3,
            )
        gallery.index = FaissIndex(items, codes, candidates)
        record = IndexRecord(kind="faiss", candidates=candidates, recall=round(recall, 4), rows=items.rows)
        if gallery.folder:
            record = _write_codes(gallery.folder / gallery.header.data, codes, record)
    _finish(gallery, record)


def _finish(gallery: GalleryParts, record: IndexRecord) -> None:
    old = gallery.header.index.file
    gallery.header = gallery.header.model_copy(update={"index": record, "complete": True})
    if gallery.folder:
        write_header(gallery.folder, gallery.header)
        if old and old != record.file:
            (gallery.folder / gallery.header.data / old).unlink(missing_ok=True)


def _send_to_server(gallery: GalleryParts, index: str) -> IndexRecord:
    """Let the server hold what the gallery holds; its table or collection belongs to this gallery alone."""
    header = gallery.header
    fingerprint = f"{header.data} {header.precision} {header.weights_sha256 or ''}".strip()
    if is_address(index):
        name = header.data.replace("data-", "g")
        connected = connect_index(index, header.width, fingerprint, name=name)
        gallery.index.close()
        gallery.index = connected
    if not isinstance(gallery.index, (PgvectorIndex, QdrantIndex)):
        raise InputError(f"{gallery.folder}: the server of this gallery is not connected; open the gallery again.")
    ids = np.array(sorted(number for number, _ in gallery.items.files().values()), dtype=np.int64)
    synchronise(gallery.index, gallery.items, ids)
    kind: Literal["pgvector", "qdrant"] = "pgvector" if isinstance(gallery.index, PgvectorIndex) else "qdrant"
    return IndexRecord(kind=kind, address=recorded_address(gallery.index), fingerprint=fingerprint)


def save_gallery(gallery: GalleryParts, folder: Path) -> None:
    """Write a gallery into another folder as `Gallery.save` says."""
    if gallery.folder and gallery.folder.resolve() == folder.resolve():
        write_header(folder, gallery.header)  # images are kept there as they are added
        return
    data = f"data-{uuid.uuid4().hex[:16]}"
    with writing(folder), locked(folder):
        partial = folder / data
        partial.mkdir(parents=True)
        try:
            gallery.items.copy_to(partial)
            relative = os.path.relpath(gallery.root, folder.resolve()) if gallery.root else None
            record = gallery.header.index
            if isinstance(gallery.index, FaissIndex):
                record = _write_codes(partial, gallery.index.codes, record)
            if record.address:  # the table on the server stays that of the first: two would write over each other
                record = IndexRecord()
            complete(partial)
            changes = {"data": data, "relative_root": relative, "index": record, "complete": True}
            write_header(folder, gallery.header.model_copy(update=changes))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in folder.iterdir():
            if old.name == data or not OWN.fullmatch(old.name) or old.is_symlink():
                continue
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()


def _write_codes(folder: Path, codes: Any, record: IndexRecord) -> IndexRecord:
    faiss = import_faiss()
    name = f"{uuid.uuid4().hex[:8]}-{CODES}"
    with new_file(folder / name) as partial:
        faiss.write_index(codes, str(partial))
    return record.model_copy(update={"file": name, "fingerprint": quick_fingerprint(folder / name)})


def _open_index(folder: Path, header: Header, items: Items, index: str | None) -> VectorIndex:
    record = header.index
    if record.address and (index is None or is_address(index)):
        name = header.data.replace("data-", "g")
        return connect_index(index or record.address, header.width, record.fingerprint or "", name=name)
    if record.address:
        return ExactIndex(items)
    if record.kind == "exact" or not len(items):
        return ExactIndex(items)
    name = record.file or ""
    path = folder / header.data / name
    if Path(name).name != name or not path.is_file():
        raise unreadable(folder, ValueError(f"its index {name!r} is missing"))
    if quick_fingerprint(path) != record.fingerprint:
        raise unreadable(folder, ValueError(f"{name} is not the index that its {HEADER} was written with"))
    return FaissIndex(items, read_codes(path, items), record.candidates or 200)
