"""Facts of a dataset: whether it is rendered, and how much it holds."""

from pathlib import Path

import numpy as np
from datasets import Dataset

from cffa_hf.data.annotations import ANNOTATION_FORMATS
from cffa_hf.data.columns import caption_counts, column_array
from cffa_hf.names import DEMO_MARKER


def is_rendered(dataset: str | None, root: str | None) -> bool:
    """Say whether a data set, as a config names it, is rendered demo data."""
    spec = ANNOTATION_FORMATS.get((dataset or "").lower().replace("-", "_"))
    folder = Path(root or "").expanduser()
    if spec is None:
        folder = folder / Path(dataset or "").expanduser()
    elif (folder / spec.folder).is_dir():
        folder = folder / spec.folder
    return (folder / DEMO_MARKER).is_file()


def count_split(rows: Dataset) -> dict[str, int]:
    """Count the identities, images and captions of a split in the dataset form."""
    identities = len(np.unique(column_array(rows, "person_id")))
    return {"identities": identities, "images": len(rows), "captions": int(caption_counts(rows).sum())}
