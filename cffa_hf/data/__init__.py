"""Annotation files -> rows -> splits -> pairs -> batches.

Read rows.py (the one validated row), annotations.py and own_data.py (files), division.py, fingerprints.py and seen.py (who is in
which split, and what a checkpoint has seen), loading.py (`load_person_dataset`), checks.py, leaks.py and facts.py,
caption_noise.py, columns.py, token_ids.py, pairs.py, image_cache.py, collator.py with augmentation.py and corruption.py,
sampler.py, mixture.py, workers.py; shards.py, shard_reading.py and shard_rows.py (tar and Parquet files), stream_order.py
and stream.py (batches out of them).

Sets with millions of images take another way to the same rows: layouts.py (the table), json_stream.py and entries.py (what
files say), row_building.py and processes.py (validation), row_cache.py, caching.py and mapped_pages.py (Arrow
files), large_sets.py.
"""

from cffa_hf.data.caption_noise import CaptionNoise
from cffa_hf.data.checks import check_images
from cffa_hf.data.collator import PairCollator, TrainingTransform
from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.data.fingerprints import dataset_fingerprint
from cffa_hf.data.leaks import find_leaks
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.pairs import CaptionDataset, ImageDataset, PairDataset
from cffa_hf.data.seen import SeenData, read_seen

__all__ = [
    "CaptionDataset",
    "CaptionNoise",
    "Division",
    "ImageDataset",
    "PairCollator",
    "PairDataset",
    "PersonDatasetDict",
    "SeenData",
    "TrainingTransform",
    "check_images",
    "dataset_fingerprint",
    "find_leaks",
    "load_person_dataset",
    "read_seen",
]
