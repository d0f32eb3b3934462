"""The words that files, tables and cards share: names of records, and how things are called in public."""

import os
import re

METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
DIRECTIONS = {"text_to_image": "text-to-image", "image_to_text": "image-to-text"}
RUN_RECORD, RESULTS, STATE_FILE = "run.json", "results.json", "trainer_state.json"
TRAINING_PICTURE = "training.png"
# The splits that a run may be evaluated on while it trains, and what may have chosen a checkpoint among those of its run.
SELECTION_SPLITS = ("validation", "test")
SELECTIONS = ("validation", "last epoch", "test", "unknown")


def public_name(source: str | None) -> str | None:
    """Name a data set or checkpoint: as it is called on the Hub, or the last part of a path on this machine."""
    if source is None:
        return None
    is_path = os.path.exists(os.path.expanduser(source)) or source.startswith((".", "~")) or os.path.isabs(source)
    return os.path.basename(os.path.abspath(os.path.expanduser(source))) if is_path else source


def hub_name(name: str | None) -> str | None:
    """Return a recorded name if it is one on the Hub (`owner/name`), None otherwise."""
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None
