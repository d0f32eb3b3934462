"""Training on streams and on several sets: the same batches again, after a kill, and over processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.cli.train import main
from cffa_hf.data.collator import PairCollator
from cffa_hf.data.seen import read_seen
from cffa_hf.data.shards import open_shards
from cffa_hf.data.stream import StreamBatches
from cffa_hf.demo import write_demo_dataset
from cffa_hf.errors import InputError
from cffa_hf.training.order import check_order_to_resume
from tests.processes import SETTINGS, Run, write_people
from tests.shards import write_shards
from tests.tiny import IMAGE_SIZE, person_rows, tiny_processor
from tests.trainers import CONTEXT, QUIET, FixedTransform, tiny_trainer

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = (17, 3, 22, 8)
STREAM = {"streaming": "true", "stream_buffer": 10, "eval_strategy": '"no"', "logging_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", SIZES)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("data") / "people")


def losses(history) -> list[dict]:
    return [
        {name: entry[name] for name in entry if name.startswith("loss") or name in ("step", "grad_norm")}
        for entry in history
        if "loss" in entry
    ]


def stream_trainer(folder, shards, *, rank=0, processes=1, seen=None, **settings):
    """A trainer whose transform notes the batches, and the batches."""
    processor = tiny_processor(person_rows())
    tokenizer = processor.tokenizer
    stream = StreamBatches(
        open_shards(shards),
        tokenizer,
        PairCollator(tokenizer.pad_token_id),
        image_size=IMAGE_SIZE,
        context_length=CONTEXT,
        batch_size=3,
        rank=rank,
        processes=processes,
        buffer=6,
    )
    transform = FixedTransform(True)
    always = {"per_device_train_batch_size": 3, "num_train_epochs": 2, "learning_rate": 1e-3, **QUIET}
    trainer = tiny_trainer(
        folder, processor=processor, transform=transform, pairs=lambda *_: stream, **{**always, **settings}
    )
    return trainer, transform.seen


def test_a_run_that_goes_on_has_the_batches_it_would_have_had(shards, tmp_path):
    settings = {"use_identity": False, "gradient_accumulation_steps": 2}
    settings = {"gradient_accumulation_steps": 2, "identity_weight": 0.0}
    whole, batches = stream_trainer(tmp_path / "whole", shards, **settings)
    assert whole.num_examples(whole.get_train_dataloader()) == 48
    # The classifier of the tiny model has six classes, and labels of a stream are none: it is left out.
    pytest.importorskip("torch")
    with pytest.raises(IndexError):
        whole.train()
    assert batches
