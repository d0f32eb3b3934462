import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPProcessor, TrainerCallback

from cffa_hf import CFFAForPreTraining, CFFAModel
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.sampler import ShuffleSampler
from cffa_hf.errors import RunStopped
from cffa_hf.training.optimisation import parameter_groups, warmup_cosine_factor
from cffa_hf.training.trainer import CFFATrainer, SamplerEpochCallback
from tests.tiny import images, person_rows, tiny_processor
from tests.trainers import QUIET, new_model, new_trainer

METRICS = ("rank1", "rank5", "rank10", "mAP", "mINP")


@pytest.fixture(scope="module")
def data():
    rows = {"train": person_rows(6), "validation": person_rows(4, first_id=200)}
    return rows | {"processor": tiny_processor(rows["train"])}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two epochs with everything on."""
    folder = tmp_path_factory.mktemp("run")
    trainer = new_trainer(data, folder, num_train_epochs=2)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_published()
    trainer.save_state()
    return trainer, before, folder


def training_entries(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# What a run leaves behind


def test_every_parameter_moved(run):
    trainer, before, _ = run
    for name, value in trainer.model.named_parameters():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), name


def test_components_sum_to_the_loss(run):
    entries = training_entries(run[0])
    assert len(entries) == 4
    for entry in entries:
        terms = {name: entry[f"loss_{name}"] for name in ("alignment_global", "alignment_local", "identity", "mlm")}
        assert sum(terms.values()) == pytest.approx(entry["loss"], rel=1e-3)
        assert all(value >= 0 for value in terms.values())


def test_the_loss_falls(data, tmp_path):
    trainer = new_trainer(data, tmp_path, num_train_epochs=8, logging_steps=4, **QUIET)
    trainer.train()
    losses = [entry["loss"] for entry in training_entries(trainer)]
    assert losses[-1] < 0.8 * losses[0]


def test_evaluation_is_in_the_log_history(run):
    entries = [entry for entry in run[0].state.log_history if "eval_rank1" in entry]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    for entry in entries:
        for name in METRICS:
            assert 0 <= entry[f"eval_{name}"] <= 100
            assert 0 <= entry[f"eval_image_to_text_{name}"] <= 100
        assert entry["eval_runtime"] > 0
    saved = json.loads((run[2] / "trainer_state.json").read_text())
    assert saved["log_history"] == run[0].state.log_history


def test_the_best_model_on_validation_is_what_remains(run):
    trainer, _, folder = run
    scores = [entry["eval_rank1"] for entry in trainer.state.log_history if "eval_rank1" in entry]
    assert trainer.state.best_metric == max(scores)
    assert trainer.evaluate()["eval_rank1"] == max(scores)
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, best[name]), name
    assert len(list(folder.glob("checkpoint-*"))) == 2


def test_the_configuration_still_pools_at_the_right_token(run, data):
    trainer, _, folder = run
    tokenizer = data["processor"].tokenizer
    for config in (trainer.model.config, AutoModel.from_pretrained(folder).config):
        text = config.text_config
        assert text.eos_token_id == tokenizer.eos_token_id == text.vocab_size - 1
        assert text.bos_token_id == tokenizer.bos_token_id == text.vocab_size - 2
        assert config.mask_token_id == tokenizer.mask_token_id


def test_published_folder(run):
    trainer, _, folder = run
    model = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is CFFAModel
    assert isinstance(processor, CLIPProcessor)
    tokens = processor(text=["a person in a red shirt", "white trousers"], return_tensors="pt", padding=True)
    trained = trainer.model.eval()
    with torch.no_grad():
        for name, given in (("get_text_features", tuple(tokens.values())), ("get_image_features", (images(2),))):
            assert torch.equal(getattr(model, name)(*given), getattr(trained, name)(*given))
    assert not {"training_args.bin", "optimizer.pt"} & {path.name for path in folder.iterdir()}
    assert "identity_classifier.weight" not in load_file(folder / "model.safetensors")


def test_checkpoints_load_as_training_model_and_as_trunk(run):
    trainer = run[0]
    best = trainer.state.best_model_checkpoint
    whole, trunk = AutoModelForPreTraining.from_pretrained(best), AutoModel.from_pretrained(best)
    assert type(whole) is CFFAForPreTraining
    assert type(trunk) is CFFAModel
    trained = trainer.model.eval()
    ids = torch.tensor([trainer.processing_class.tokenizer("a person in a red shirt")["input_ids"]])
    with torch.no_grad():
        expected = trained.get_text_features(ids)
        assert torch.equal(whole.get_text_features(ids), expected)
        assert torch.equal(trunk.get_text_features(ids), expected)
    AutoProcessor.from_pretrained(best)


# Evaluation


def test_evaluation_is_returned_logged_and_printed_alike(data, tmp_path, capsys):
    trainer = new_trainer(data, tmp_path)
    capsys.readouterr()
    metrics = trainer.evaluate()
    printed = capsys.readouterr().out
    logged = trainer.state.log_history[-1]
    for name in METRICS:
        assert logged[f"eval_{name}"] == metrics[f"eval_{name}"]
    assert f"Rank-1 {metrics['eval_rank1']:.2f}" in printed
    assert f"mAP {metrics['eval_mAP']:.2f}" in printed


@pytest.mark.parametrize("container", [dict, DatasetDict])
def test_several_evaluation_sets_by_name(data, tmp_path, capsys, container):
    sets = container({"near": data["validation"], "seen": data["train"]})
    trainer = new_trainer(data, tmp_path, eval_dataset=sets, metric_for_best_model="eval_near_rank1")
    trainer.train()
    printed = capsys.readouterr().out
    entries = trainer.state.log_history
    for name in ("near", "seen"):
        (entry,) = [entry for entry in entries if f"eval_{name}_rank1" in entry]
        assert f"Rank-1 {entry[f'eval_{name}_rank1']:.2f}" in printed
        assert f"  {name}  " in printed
    (near,) = [entry["eval_near_rank1"] for entry in entries if "eval_near_rank1" in entry]
    assert trainer.state.best_metric == near


def test_another_split_with_a_prefix_of_its_own(data, tmp_path):
    trainer = new_trainer(data, tmp_path)
    metrics = trainer.evaluate(data["train"], metric_key_prefix="test")
    assert "test_rank1" in metrics
    assert not any(name.startswith("eval_") for name in metrics)
    assert trainer.evaluate()["eval_rank1"] >= 0


class Recorder(TrainerCallback):
    """Keeps what `on_evaluate` is given."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.seen.append(dict(metrics))


def test_evaluation_does_not_disturb_training(data, tmp_path):
    """Losses are equal whether or not there is an evaluation in between."""
    losses = []
    for name, options in (("without", {}), ("with", {"eval_strategy": "steps", "eval_steps": 1})):
        trainer = new_trainer(data, tmp_path / name, logging_steps=1, **{**QUIET, **options})
        recorder = Recorder()
        trainer.add_callback(recorder)
        trainer.train()
        losses.append([entry["loss"] for entry in training_entries(trainer)])
        assert len(recorder.seen) == (4 if options else 0)
    assert losses[0] == losses[1]


# Randomness


class Watching(CFFATrainer):
    """Keeps the batches that the model is trained on."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.batches = [*getattr(self, "batches", []), {name: value.clone() for name, value in inputs.items()}]
        return super().compute_loss(model, inputs, *args, **kwargs)


def watched(data, folder, **changes):
    trainer = new_trainer(data, folder, trainer_class=Watching, **{**QUIET, **changes})
    trainer.train()
    return trainer.batches


def equal(first, second):
    return all(first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in first)


def test_augmentation_repeats_between_runs_and_not_between_steps(data, tmp_path):
    first, second, other = (watched(data, tmp_path / str(n), seed=seed) for n, seed in enumerate((1, 1, 2)))
    assert len(first) == 4
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(equal(a, b) for a, b in zip(first, other, strict=True))
    # Drawn anew at each step: the same pair is seen in two ways in two epochs.
    one_batch = {"per_device_train_batch_size": 24, "num_train_epochs": 2}
    first, second = watched(data, tmp_path / "epochs", **one_batch)
    sums = [sorted(batch["pixel_values"].sum(dim=(1, 2, 3)).tolist()) for batch in (first, second)]
    assert sums[0] != sums[1]


def test_accumulated_batches_are_augmented_differently(data, tmp_path):
    """Both halves of a step hold the same 12 images once; their draws must differ."""
    batches = watched(data, tmp_path, per_device_train_batch_size=12, gradient_accumulation_steps=2)
    trainer = new_trainer(data, tmp_path)
    first, second = (trainer.batch_generator().initial_seed() for _ in range(2))
    assert first != second
    assert len(batches) == 2
    for batch in batches:
        assert (batch["mlm_labels"] != -100).any()


@pytest.mark.parametrize("share", [True, False])
def test_sharing_masked_captions(data, tmp_path, share):
    trainer = new_trainer(data, tmp_path, trainer_class=Watching, transform={"share_masked_captions": share}, **QUIET)
    trainer.train()
    assert ("masked_input_ids" in trainer.batches[0]) == (not share)
    assert all(math.isfinite(entry["loss"]) for entry in training_entries(trainer))


def test_resuming_in_the_middle_of_an_epoch(data, tmp_path):
    """Losses after the interruption are those of a run that was never interrupted."""
    options = {
        "num_train_epochs": 3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 5,  # the first step of the second epoch
        "save_total_limit": 10,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    whole = new_trainer(data, tmp_path / "whole", **options)
    whole.train()
    resumed = new_trainer(data, tmp_path / "resumed", model=new_model(data), **options)
    torch.rand(7)  # whatever happened before in the process does not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    expected = {entry["step"]: entry["loss"] for entry in training_entries(whole)}
    ours = {entry["step"]: entry["loss"] for entry in training_entries(resumed)}
    assert len(expected) == 12
    assert ours == pytest.approx(expected, rel=1e-6)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_the_sampler_is_told_which_epoch_begins():
    told, expected, callback = ShuffleSampler(20, 0), ShuffleSampler(20, 0), SamplerEpochCallback()
    expected.set_epoch(2)
    for callback.sampler in (None, told):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=2.0), None)
    assert list(told) == list(expected)


# Optimisation


def test_gradient_accumulation_is_the_mean(data, tmp_path):
    """Two batches of 6 in one step: the gradient and the logged loss are the mean of both."""
    model = new_model(data)
    trainer = new_trainer(
        data,
        tmp_path,
        model=copy.deepcopy(model),
        trainer_class=Watching,
        gradient_accumulation_steps=2,
        max_steps=1,
        logging_steps=1,
        learning_rate=1e-12,
        refinement_learning_rate=1e-12,
        **QUIET,
    )
    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer.add_callback(Keep())
    for layer in trainer.model.cffa.text_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    trainer.train()
    batches = trainer.batches
    assert len(batches) == 2
    losses = []
    manual = new_trainer(data, tmp_path / "manual", model=copy.deepcopy(model), **QUIET)
    reference = manual.model.train()
    for layer in reference.cffa.text_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    for batch in batches:
        loss = manual.compute_loss(reference, dict(batch))
        (loss / 2).backward()
        losses.append(loss.item())
    assert training_entries(trainer)[0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    for name, parameter in reference.named_parameters():
        error = (gradients[name] - parameter.grad).norm()
        assert error <= 1e-3 * parameter.grad.norm() + 1e-4, name


@pytest.mark.parametrize(
    "switches", [{}, {"use_flfr": False}, {"use_mlm": False}, {"use_identity": False}], ids=lambda each: str(each)
)
def test_groups_hold_every_trainable_parameter_once(data, tmp_path, switches):
    model = new_model(data, **switches)
    model.cffa.vision_model.embeddings.class_embedding.requires_grad_(False)
    arguments = CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    groups = parameter_groups(model, arguments)
    ours = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ours) == len(set(ours))
    assert set(ours) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    names = [group["name"] for group in groups]
    assert len(names) == len(set(names))
    assert {"encoders_weights", "encoders_biases"} <= set(names)
    for group in groups:
        assert (group["weight_decay"] == 0) == group["name"].endswith("_biases")


@pytest.mark.parametrize(
    "switches", [{"use_flfr": False}, {"use_mlm": False}, {"use_identity": False}], ids=lambda each: str(each)
)
def test_training_with_parts_switched_off(data, tmp_path, switches):
    trainer = new_trainer(data, tmp_path, model=new_model(data, **switches), **QUIET)
    trainer.train()
    missing = {"use_flfr": "alignment_local", "use_mlm": "mlm", "use_identity": "identity"}[next(iter(switches))]
    for entry in training_entries(trainer):
        assert f"loss_{missing}" not in entry
        terms = [value for name, value in entry.items() if name in LOSS_NAMES]
        assert sum(terms) == pytest.approx(entry["loss"], rel=1e-3)


LOSS_NAMES = {f"loss_{name}" for name in ("alignment_global", "alignment_local", "identity", "mlm")}


@pytest.mark.parametrize(("coupled", "kind"), [(True, torch.optim.Adam), (False, torch.optim.AdamW)])
def test_optimizer(data, tmp_path, coupled, kind):
    trainer = new_trainer(data, tmp_path, coupled_weight_decay=coupled, adam_epsilon=1e-3)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is kind
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["eps"] == 1e-3


def test_learning_rates_follow_the_schedule(data, tmp_path):
    schedule = {"num_train_epochs": 4, "warmup_epochs": 1, "warmup_start": 0.1}
    trainer = new_trainer(data, tmp_path, logging_steps=1, **schedule, **QUIET)
    trainer.train()
    optimizer = trainer.optimizer
    base = {group["name"]: group["initial_lr"] for group in optimizer.param_groups}
    assert base["encoders_weights"] == 1e-3
    assert base["encoders_biases"] == 2e-3
    assert base["heads_weights"] == base["heads_biases"] == 5e-3
    assert base["refinement_weights"] == 1e-3
    rates = [entry["learning_rate"] for entry in training_entries(trainer)]
    factors = [warmup_cosine_factor(step / 4, warmup_epochs=1, total_epochs=4, warmup_start=0.1) for step in range(16)]
    assert rates == pytest.approx([1e-3 * factor for factor in factors], rel=1e-6)  # each entry: its own step's rate
    assert all(group["lr"] == pytest.approx(0, abs=1e-12) for group in optimizer.param_groups)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.1), (2.5, 0.55), (5, 1.0), (32.5, 0.5), (60, 0.0), (75, 0.0)])
def test_warmup_and_cosine(epoch, factor):
    ours = warmup_cosine_factor(epoch, warmup_epochs=5, total_epochs=60, warmup_start=0.1)
    assert ours == pytest.approx(factor, abs=1e-9)


def test_schedules_without_room_for_a_cosine():
    assert warmup_cosine_factor(0, warmup_epochs=0, total_epochs=1, warmup_start=0.1) == 1
    assert 0.1 <= warmup_cosine_factor(2, warmup_epochs=5, total_epochs=2, warmup_start=0.1) < 1
    assert warmup_cosine_factor(5, warmup_epochs=5, total_epochs=5, warmup_start=0.1) in (0, 1)


def test_another_schedule_by_name(data, tmp_path):
    trainer = new_trainer(data, tmp_path, lr_scheduler_type="linear", max_steps=4, logging_steps=1, **QUIET)
    trainer.train()
    rates = [entry["learning_rate"] for entry in training_entries(trainer)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 2 * rates[-1]


def test_gradient_checkpointing(data, tmp_path):
    losses = []
    for name, on in (("off", False), ("on", True)):
        trainer = new_trainer(data, tmp_path / name, gradient_checkpointing=on, logging_steps=1, **QUIET)
        trainer.train()
        losses.append([entry["loss"] for entry in training_entries(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bfloat16_autocast(data, tmp_path):
    trainer = new_trainer(data, tmp_path, precision="bfloat16", logging_steps=1)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in training_entries(trainer))
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert any("eval_rank1" in entry for entry in trainer.state.log_history)


def test_a_model_that_cannot_be_saved_leaves_no_record_of_other_data_beside_it(data, tmp_path):
    trainer = new_trainer(data, tmp_path, **QUIET)
    (tmp_path / "seen.json").write_text("of an earlier run")
    (tmp_path / "model.safetensors").mkdir()  # where the weights cannot be written
    with pytest.raises(RunStopped, match="the model could not be written"):
        trainer.save_published()
    assert not (tmp_path / "seen.json").exists()
