"""The words that files, tables and cards share: names of records, and how things are called in public."""

import os
import re

RUN_RECORD = "run.json"


def public_name(source: str | None) -> str | None:
    """Name a data set or checkpoint: as it is called on the Hub, or the last part of a path on this machine."""
    if source is None:
        return None
    is_path = os.path.exists(os.path.expanduser(source)) or source.startswith((".", "~")) or os.path.isabs(source)
    return os.path.basename(os.path.abspath(os.path.expanduser(source))) if is_path else source


def hub_name(name: str | None) -> str | None:
    """Return a recorded name if it is one on the Hub (`owner/name`), None otherwise."""
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


SELECTIONS = ("validation", "last epoch", "test", "unknown")
