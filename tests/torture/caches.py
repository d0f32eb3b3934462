"""The caches of large sets as a command: the rows of a set, the token ids of its captions, and resized images."""

import hashlib
import json

import datasets

from cffa_hf.data import token_ids
from cffa_hf.data.image_cache import cache_images
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.files import write_text
from cffa_hf.inputs.processor import train_tokenizer


def main() -> None:
    """Build or open all three, and write a digest of what they give into `digest.json`."""
    datasets.disable_progress_bars()
    token_ids.CACHED_CAPTIONS, token_ids.PART_CAPTIONS = 10, 500
    rows = load_person_dataset("mals", "large", check_files=False)["train"]
    tokenizer = train_tokenizer(["a red coat", "a blue hat"], 560)
    ids = token_ids.encode_rows(rows, tokenizer, 9)
    people = load_person_dataset("cuhk_pedes", "data")["train"]
    pixels = cache_images(people, (48, 24), progress=False)
    content = [rows.to_list(), [ids[index] for index in range(len(ids))], pixels.to_list()]
    write_text("digest.json", json.dumps(hashlib.sha256(json.dumps(content, default=repr).encode()).hexdigest()))
