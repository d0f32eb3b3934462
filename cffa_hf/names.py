"""Names that several rooms share: of metrics, of files, and how data and checkpoints are called in public."""

import os
import re
from collections.abc import Iterable
from typing import Any

METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
# Before the name of a metric whose queries are images; without it they are captions.
IMAGE_TO_TEXT = "image_to_text_"
# In the log, before the name of a term of the loss and before that of a group of parameters.
LOSS_TERM, LEARNING_RATE = "loss_", "learning_rate_"
DIRECTIONS = {"text_to_image": "text-to-image", "image_to_text": "image-to-text"}
RUN_RECORD, RESULTS, STATE_FILE = "run.json", "results.json", "trainer_state.json"
REPORT, TRAINING_PICTURE = "report.html", "training.png"
# Beside weights: the people and images that they were trained and chosen on.
SEEN_RECORD = "seen.json"
# Of a checkpoint whose batches depend on more than pairs and seed.
ORDER_RECORD = "order.json"
# Beside annotations: marks rendered demo data, whose counts are not the official ones.
DEMO_MARKER = "demo.json"
# Beside annotations: what each caption mentions, one line for each image.
ATTRIBUTES_FILE = "attributes.jsonl"
# The splits that a run may be evaluated on while it trains, and what may have chosen a checkpoint among those of its run.
SELECTION_SPLITS = ("validation", "test")
SELECTIONS = ("validation", "last epoch", "test", "unknown")
# Beside the commands: all settings, for their help.
SETTINGS_FILE = "settings.json"
INFERENCE_PRECISIONS = ("auto", "float32", "bfloat16")
# Holds a key of the HTTP service.
KEY_VARIABLE = "CFFA_HF_SERVICE_KEY"


def metric_prefixes(names: Iterable[str]) -> list[str]:
    """List what stands before the metrics of a log entry, once for each evaluated split.

    Args:
        names: Those of the entry; the metrics of a split begin with `eval_`, or with that and the name of the split.

    Example:
        >>> metric_prefixes(["eval_near_rank1", "eval_near_image_to_text_rank1", "eval_near_mAP"])
        ['eval_near_']
    """
    first = next(iter(METRICS))
    prefixes = [name.removesuffix(first) for name in names if name.endswith(f"_{first}")]
    return [prefix for prefix in prefixes if not prefix.endswith(f"_{IMAGE_TO_TEXT}")]


def public_name(source: str | None) -> str | None:
    """Name a data set or checkpoint: as it is called on the Hub, or the last part of a path on this machine."""
    if source is None:
        return None
    is_path = os.path.exists(os.path.expanduser(source)) or source.startswith((".", "~")) or os.path.isabs(source)
    return os.path.basename(os.path.abspath(os.path.expanduser(source))) if is_path else source


def hub_name(name: Any) -> str | None:
    """Return a recorded name if it is one on the Hub (`owner/name`), None otherwise."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name, re.ASCII) else None
