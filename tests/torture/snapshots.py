"""What a command has left behind, as values that two runs have in common: without times, process numbers and drawn names."""

import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

DRAWN = ((re.compile(r"data-[0-9a-f]{16}"), "data-X"), (re.compile(r"[0-9a-f]{8}-index\.faiss"), "X-index.faiss"))
TIMES = re.compile(r"runtime|per_second|seconds|_time$|time_share")
# Their content holds times or the order in which things came; what they are for is compared elsewhere. `.ses` is what
# onnxruntime keeps in the folder for temporary files.
PRESENCE = re.compile(
    r"training_args\.bin|optimizer\.pt|scheduler\.pt|rng_state.*|X-index\.faiss|vectors\.float16|.*\.lock|\.ses"
)
IGNORED = ("log",)


def snapshot(work: Path) -> dict[str, Any]:
    """Return a value for every file below a folder, and None for every empty folder."""
    found: dict[str, Any] = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        for pattern, common in DRAWN:
            name = pattern.sub(common, name)
        if name.partition("/")[0] in IGNORED:
            continue
        if path.is_file():
            found[name] = _value(path, name.rpartition("/")[2])
        elif not any(path.iterdir()):
            found[name + "/"] = None
    return found


def _value(path: Path, name: str) -> Any:
    if PRESENCE.fullmatch(name):
        return "there"
    if name == "items.sqlite":
        return gallery_content(path.parent)
    if name == "gallery.json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key not in ("data", "index")}
    if name == "run.json":
        record = json.loads(path.read_text())
        return {**record, "training": {**record["training"], "seconds": None, "resumed": None}}
    if name == "trainer_state.json":
        return _timeless(json.loads(path.read_text()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _timeless(part) for key, part in value.items() if not TIMES.search(key)}
        # The last entry of a run counts all that it did, of a resumed one only the rest.
        return {key: part for key, part in kept.items() if key not in ("total_flos", "train_loss")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def gallery_content(folder: Path) -> dict[str, Any]:
    """Return path -> file state and digest of the vector of a gallery's data folder."""
    base = sqlite3.connect(f"file:{folder / 'items.sqlite'}?mode=ro", uri=True)
    try:
        rows = base.execute("SELECT path, id, size, modified, digest FROM items ORDER BY path").fetchall()
        ((total,),) = base.execute("SELECT value FROM counter WHERE name = 'rows'").fetchall()
    finally:
        base.close()
    vectors = np.fromfile(folder / "vectors.float16", dtype=np.float16)
    vectors = vectors[: len(vectors) // max(1, total) * total].reshape(max(1, total), -1)
    return {path: [*state, hashlib.sha256(vectors[number].tobytes()).hexdigest()] for path, number, *state in rows}
