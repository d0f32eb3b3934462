"""Publishing of models, datasets and Spaces on the Hub.

Read card_text.py and cards.py (the card), folders.py, curves.py, model.py, dataset.py, space.py and search_space.py (the folder),
client.py (one commit of it).
"""

from cffa_hf.publishing.dataset import publish_dataset
from cffa_hf.publishing.model import dry_run_model, publish_model
from cffa_hf.publishing.space import publish_space, write_space_folder

__all__ = [
    "dry_run_model",
    "publish_dataset",
    "publish_model",
    "publish_space",
    "write_space_folder",
]
