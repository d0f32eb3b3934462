"""Confident consensus division: which pairs count, and that a run knows it after all that may happen to it."""

import json
import re
import shutil
import signal
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils.data import TensorDataset

from cffa_hf.arguments import training as training_arguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.caption_noise import CaptionNoise
from cffa_hf.errors import InputError
from cffa_hf.losses import ALIGNMENT_LOSSES, AlignmentLoss, LossSettings
from cffa_hf.training.consensus import (
    MIXTURE,
    MUCH_NOISE,
    PAIR_WEIGHTS,
    ConsensusDivision,
    SideBySide,
    batches_like_training,
    clean_pairs,
    consensus_weights,
    kept_shares,
    pair_costs,
)
from cffa_hf.training.lora import add_lora
from tests.processes import Run, write_people
from tests.tiny import captions, images, person_rows, random_words, tiny_model, tiny_processor
from tests.trainers import new_model, new_trainer
from tests.training.test_distributed import train
from tests.training.test_resume import same_history

sklearn_mixture = pytest.importorskip("sklearn.mixture", reason="the extra cffa_hf[noise] is not installed")

SMALL = settings(max_examples=25, deadline=None)


# The mixture


def two_groups(clean: int, noisy: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.normal(0.2, 0.05, clean), generator.normal(1.0, 0.1, noisy)])


@pytest.mark.parametrize("mixture", [MIXTURE, MUCH_NOISE], ids=["usual", "much"])
@pytest.mark.parametrize(("clean", "noisy"), [(800, 200), (500, 500)])
def test_two_groups_are_told_apart(mixture, clean, noisy):
    found = clean_pairs(two_groups(clean, noisy), 0, **mixture)
    assert found[:clean].mean() > 0.99
    assert found[clean:].mean() < 0.01


@SMALL
@given(seed=st.integers(0, 100), scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_units_of_the_cost_do_not_matter(seed, scale, shift):
    costs = two_groups(60, 20, seed)
    assert np.array_equal(clean_pairs(scale * costs + shift, 0, **MIXTURE), clean_pairs(costs, 0, **MIXTURE))


@SMALL
@given(costs=st.lists(st.floats(0, 1e4), min_size=1, max_size=40))
def test_any_costs_leave_a_pair(costs):
    found = clean_pairs(np.array(costs), 0, **MIXTURE)
    assert found.shape == (len(costs),)
    assert found.any()


def test_equal_costs_divide_nothing():
    assert clean_pairs(np.full(5, 3.0), 0, **MIXTURE).all()
    assert clean_pairs(np.array([3.0]), 0, **MIXTURE).all()


def test_where_all_pairs_pass_the_threshold_is_the_quantile(monkeypatch):
    shares = np.random.default_rng(0).uniform(0.6, 1.0, 500)

    class Sure:
        means_ = np.array([[0.7], [0.1]])

        def __init__(self, *args, **kwargs):
            assert kwargs == {**MIXTURE, "random_state": 0}

        def fit(self, values):
            assert (values.min(), values.max()) == (0, 1)

        def predict_proba(self, values):
            return np.stack([1 - shares, shares], axis=1)  # the second component has the smaller mean

    monkeypatch.setattr(sklearn_mixture, "GaussianMixture", Sure)
    found = clean_pairs(np.arange(500.0), 0, **MIXTURE)
    assert np.array_equal(found, shares > np.sort(shares)[5])
    assert (~found).sum() == 6


# Consensus


def test_both_lists_decide_and_a_coin_where_they_disagree():
    first = np.tile([0.0, 0.0, 1.0, 1.0], 100) + np.random.default_rng(0).normal(0, 0.01, 400)
    second = np.tile([0.0, 1.0, 0.0, 1.0], 100) + np.random.default_rng(1).normal(0, 0.01, 400)
    epochs = [consensus_weights([first, second], 3, epoch, MIXTURE) for epoch in range(3)]
    for weights in epochs:
        assert weights.dtype == np.float32
        assert weights[0::4].all()
        assert not weights[3::4].any()
        for disagreement in (weights[1::4], weights[2::4]):
            assert 0.3 < disagreement.mean() < 0.7
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert np.array_equal(epochs[1], consensus_weights([first, second], 3, 1, MIXTURE))
    assert not np.array_equal(epochs[1], consensus_weights([first, second], 4, 1, MIXTURE))
    alone = consensus_weights([first], 3, 0, MIXTURE)
    assert np.array_equal(alone, (first < 0.5).astype(np.float32))


def test_shares_are_told_of_what_is_known():
    weights = np.array([1, 1, 0, 1], dtype=np.float32)
    assert kept_shares(weights, None) == {"pairs_kept": 75}
    matched = np.array([True, True, True, False])
    found = kept_shares(weights, matched)
    assert found == pytest.approx({"pairs_kept": 75, "clean_pairs_kept": 200 / 3, "noisy_pairs_kept": 100})
    assert kept_shares(weights, np.ones(4, dtype=bool)) == {"pairs_kept": 75, "clean_pairs_kept": 75}


# Costs


@SMALL
@given(pairs=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 9))
def test_every_pair_is_weighed_once_in_a_batch_of_one_size(pairs, size, seed):
    order = np.random.default_rng(seed).permutation(pairs)
    batches = batches_like_training(order, size)
    assert {len(batch) for batch, _ in batches} == {min(size, pairs)}
    assert np.array_equal(np.concatenate([batch[filling:] for batch, filling in batches]), order)
    assert all(len(set(batch.tolist())) == len(batch) for batch, _ in batches)


@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_costs_are_those_of_the_loss(kind):
    options = LossSettings(alignment_loss=kind, temperature=0.1)
    text, image = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    labels, order = torch.tensor([0, 0, 1, 2, 3, 4, 4]), np.array([3, 0, 6, 1, 5, 2, 4])
    costs = pair_costs(options, text, image, labels, batches_like_training(order, 3))
    for place, number in enumerate(order):
        begin = min(place // 3 * 3, 4)
        batch = torch.from_numpy(order[begin : begin + 3])
        expected = options.alignment(text[batch], image[batch], labels[batch], reduction="none")[place - begin]
        assert costs[number] == pytest.approx(expected.item(), abs=1e-6)


def test_features_stand_side_by_side_as_the_losses_get_them():
    for fields in ({}, {"use_flfr": False}):
        model = tiny_model(**fields)
        ids, pixels = captions(random_words(4), random_words(9)), images(2)
        with torch.no_grad():
            output, sides = model(ids, pixels), SideBySide(model)
            parts = [(output.text_global, output.image_global), (output.text_local, output.image_local)]
            parts = [part for part in parts if part[0] is not None]
            text, image = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
            assert torch.equal(sides.get_text_features(ids), text)
            assert torch.equal(sides.get_image_features(pixels), image)
        assert sides.training == model.training


# Training


@pytest.fixture(scope="module")
def people():
    rows = person_rows(6)
    noisy = CaptionNoise.of(0.5, seed=1).apply(rows)
    return {"train": noisy, "validation": person_rows(4, first_id=200), "processor": tiny_processor(rows)}


CONSENSUS = {
    "noisy_pairs": "consensus",
    "num_train_epochs": 3,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 20,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory):
    """A run that nothing disturbed: 12 steps in 3 epochs, with a checkpoint after every second one."""
    trainer = new_trainer(people, tmp_path_factory.mktemp("whole"), **CONSENSUS)
    trainer.train()
    return trainer


def test_each_epoch_logs_what_it_keeps(whole, people):
    entries = [entry for entry in whole.state.log_history if "pairs_kept" in entry]
    assert [entry["epoch"] for entry in entries] == [0, 1, 2]
    matched = whole.train_dataset.matched
    for entry in entries:
        kept = entry["clean_pairs_kept"] * matched.sum() + entry["noisy_pairs_kept"] * (~matched).sum()
        assert entry["pairs_kept"] == pytest.approx(kept / len(matched))
    assert 0 < whole.consensus.weights.sum() < len(matched)


def test_the_weights_are_those_of_the_model_before_the_epoch(whole, people, tmp_path):
    checkpoint = Path(whole.args.output_dir) / "checkpoint-4"  # the end of the first epoch
    trainer = new_trainer(people, tmp_path, **CONSENSUS)
    trainer.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    random_state = torch.get_rng_state()
    weights = trainer.consensus.divide(trainer.args, 1)
    assert torch.equal(torch.get_rng_state(), random_state)
    kept = load_file(Path(whole.args.output_dir) / "checkpoint-6" / PAIR_WEIGHTS)
    assert int(kept["epoch"]) == 1
    assert torch.equal(torch.from_numpy(weights), kept["weights"])


@pytest.mark.parametrize("step", [2, 4, 6, 10])
def test_a_run_that_goes_on_has_the_weights_of_one_that_was_not_stopped(whole, people, tmp_path, step):
    trainer = new_trainer(people, tmp_path, **CONSENSUS)
    asked = []
    divide = trainer.consensus.divide
    trainer.consensus.divide = lambda args, epoch: asked.append(epoch) or divide(args, epoch)
    trainer.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{step}"))
    assert asked == list(range(-(-step // 4), 3))  # never within an epoch
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    assert same_history(trainer.state.log_history, whole.state.log_history)


def test_a_checkpoint_without_its_division_is_refused_within_an_epoch(whole, people, tmp_path):
    for step, fine in ((6, False), (8, True)):
        source = Path(
            shutil.copytree(Path(whole.args.output_dir) / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
        )
        (source / PAIR_WEIGHTS).unlink()
        trainer = new_trainer(people, tmp_path / f"next-{step}", **CONSENSUS)
        if fine:
            trainer.train(resume_from_checkpoint=str(source))
        else:
            with pytest.raises(InputError, match=rf"within epoch 1: the checkpoint has no {PAIR_WEIGHTS}") as error:
                trainer.train(resume_from_checkpoint=str(source))
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.ones(7), "epoch": torch.tensor([1])}, "is of 7 pairs, and the train split has 24"),
        ({"weights": torch.ones(24)}, "cannot be read"),
        ({"weights": torch.full((24,), torch.nan), "epoch": torch.tensor([1])}, "pairs"),
    ],
)
def test_a_division_of_other_pairs_is_refused(whole, people, tmp_path, content, message):
    source = Path(shutil.copytree(Path(whole.args.output_dir) / "checkpoint-6", tmp_path / "checkpoint-6"))
    save_file(content, source / PAIR_WEIGHTS)
    with pytest.raises(InputError, match=f"cannot go on from .*{message}"):
        new_trainer(people, tmp_path / "next", **CONSENSUS).train(resume_from_checkpoint=str(source))


def test_a_pair_that_does_not_count_has_no_alignment_cost(people, tmp_path):
    trainer = new_trainer(people, tmp_path, model=new_model(people, use_mlm=False, use_identity=False), **CONSENSUS)
    trainer.consensus.divide = lambda args, epoch: np.zeros(24, dtype=np.float32)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.args.weight_decay = 0.0
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == [0.0] * 12
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_weights_of_one_train_as_without_consensus(people, tmp_path):
    results = []
    for folder, changes in (("plain", {"noisy_pairs": "none"}), ("ones", {})):
        trainer = new_trainer(people, tmp_path / folder, **{**CONSENSUS, **changes, "num_train_epochs": 1})
        if trainer.consensus is not None:
            trainer.consensus.divide = lambda args, epoch: np.ones(24, dtype=np.float32)
        trainer.train()
        results.append(trainer.model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_chunks_train_as_the_whole_batch(tmp_path, kind):
    options = {"noisy_pairs": "consensus", "alignment_loss": kind}
    whole, cached = (train(str(tmp_path), 1, **options, **more) for more in ({}, {"cached_batch_size": 3}))
    assert torch.equal(whole["pair_weights"], cached["pair_weights"])
    for here, there in zip(whole["log"], cached["log"], strict=True):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-6)
    for key, value in whole["weights"].items():
        torch.testing.assert_close(cached["weights"][key], value, rtol=1e-4, atol=1e-5)


def test_without_local_features_there_is_one_opinion(tmp_path):
    found = train(str(tmp_path), 1, noisy_pairs="consensus", consensus_much_noise=True, model={"use_flfr": False})
    assert set(found["pair_weights"].tolist()) <= {0.0, 1.0}
    assert found["pair_weights"].any()


def test_adapters_are_asked_too(people, tmp_path):
    pytest.importorskip("peft", reason="the extra cffa_hf[lora] is not installed")
    model = add_lora(new_model(people), {"r": 4})
    trainer = new_trainer(people, tmp_path, model=model, **CONSENSUS | {"num_train_epochs": 1})
    trainer.train()
    assert trainer.consensus.weights.any()


# Refusals, before anything is read


def arguments(folder, **changes):
    return CFFATrainingArguments(output_dir=str(folder), use_cpu=True, precision="float32", **changes)


def test_what_consensus_cannot_weigh_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="noisy_pairs must be none or consensus, got 'some'"):
        arguments(tmp_path, noisy_pairs="some")
    with pytest.raises(ValueError, match="alignment_weight 0 takes it away"):
        arguments(tmp_path, noisy_pairs="consensus", alignment_weight=0.0)
    monkeypatch.setitem(ALIGNMENT_LOSSES, "whole", AlignmentLoss(lambda similarity, labels: similarity.mean(), ()))
    with pytest.raises(ValueError, match="alignment_loss whole gives none"):
        arguments(tmp_path, noisy_pairs="consensus", alignment_loss="whole")
    arguments(tmp_path, alignment_loss="whole")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(training_arguments, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("scikit-learn: pip install 'cffa_hf[noise]'")):
        arguments(tmp_path, noisy_pairs="consensus")
    arguments(tmp_path)


def test_other_training_data_are_refused():
    with pytest.raises(InputError, match="train_dataset is a TensorDataset"):
        ConsensusDivision(types.SimpleNamespace(), TensorDataset(torch.zeros(3)), None)


# As a user starts it


@pytest.mark.slow
def test_a_killed_run_with_noise_goes_on_as_if_nothing_had_happened(tmp_path):
    data = write_people(tmp_path / "people")
    options = {"noisy_pairs": "consensus", "caption_noise": 0.4, "caption_noise_seed": 2}
    undisturbed = Run(tmp_path / "whole", data, **options)
    assert undisturbed.end() == 0, undisturbed.output()
    run = Run(tmp_path / "run", data, **options)
    run.wait_for_step(9)  # in the middle of the second epoch
    run.kill(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    run = Run(tmp_path / "run", data, resume_from_checkpoint="auto", **options)
    assert run.end() == 0, run.output()
    assert same_history(run.history(), undisturbed.history())
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (run.folder, undisturbed.folder))
    assert one == other
    record = json.loads((run.folder / "run.json").read_text())
    noise = record["dataset"]["caption_noise"]
    assert (noise["rate"], noise["seed"]) == (0.4, 2)
    assert 0 < noise["share_of_other_identity"] <= 0.4
    changed = {entry["name"]: entry["value"] for entry in record["settings"]}
    assert changed["noisy_pairs"] == "consensus"
    assert changed["caption_noise"] == "0.4"
    assert sum("noisy_pairs_kept" in entry for entry in run.history()) == 3
    assert not (run.folder / PAIR_WEIGHTS).exists()
