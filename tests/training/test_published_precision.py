"""Float16 weights from the first step to the published folder: saved, resumed, evaluated, and refused where they cannot be."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cffa_hf import CFFAForPreTraining, CFFAModel
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.errors import InputError
from cffa_hf.training.lora import add_lora
from cffa_hf.training.published_precision import use_published_precision
from tests.tiny import captions, images, person_rows, random_words, tiny_model, tiny_processor
from tests.trainers import QUIET, new_model, new_trainer

PUBLISHED = {"precision": "published", "adam_epsilon": 1e-3, "logging_steps": 1}


@pytest.fixture(scope="module")
def data():
    rows = {"train": person_rows(6), "validation": person_rows(4, first_id=200)}
    return rows | {"processor": tiny_processor(rows["train"])}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two epochs of four steps, saved and evaluated after each."""
    trainer = new_trainer(data, tmp_path_factory.mktemp("run") / "run", num_train_epochs=2, **PUBLISHED)
    trainer.train()
    trainer.save_published()
    return trainer


def test_weights_are_trained_in_their_types_and_evaluated(run):
    types = {parameter.dtype for parameter in run.model.parameters()}
    assert types == {torch.float16, torch.float32}
    assert run.model.cffa.text_projection.weight.dtype == torch.float16
    evaluations = [entry for entry in run.state.log_history if "eval_rank1" in entry]
    assert len(evaluations) == 2
    for entry in evaluations:
        assert all(math.isfinite(value) for value in entry.values())
    norms = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    assert len(norms) == 8
    assert all(0 < norm < math.inf for norm in norms)


def test_what_is_saved_is_float32_and_the_same_numbers(run, data):
    folder = Path(run.args.output_dir)
    best = Path(run.state.best_model_checkpoint)
    for path, kind in ((folder, CFFAModel), (best, CFFAForPreTraining)):
        weights = load_file(path / "model.safetensors")
        assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
        assert json.loads((path / "config.json").read_text())["dtype"] == "float32"
        assert type(kind.from_pretrained(path)) is kind
    state = run.model.cffa.state_dict()
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(value, state[name].to(value.dtype)), name
    # Opened, the published weights compute in float32, and find what the float16 ones found.
    opened = CFFAModel.from_pretrained(folder).eval()
    words = captions(random_words(5), random_words(9, seed=1))
    with torch.no_grad():
        ours, theirs = run.model.eval().get_text_features(words), opened.get_text_features(words)
        assert ours.dtype == torch.float32
        assert (ours * theirs).sum(dim=1).min() > 0.99
        pixels = images(3)
        assert (run.model.get_image_features(pixels) * opened.get_image_features(pixels)).sum(dim=1).min() > 0.99
    moments = torch.load(best / "optimizer.pt", weights_only=True)["state"].values()
    assert {entry["exp_avg"].dtype for entry in moments} == {torch.float16, torch.float32}


def test_a_resumed_run_has_the_bytes_of_one_that_was_not_stopped(data, tmp_path):
    options = {**QUIET, "save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    whole = new_trainer(data, tmp_path / "whole", num_train_epochs=2, **PUBLISHED, **options)
    whole.train()
    resumed = new_trainer(data, tmp_path / "resumed", num_train_epochs=2, **PUBLISHED, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert whole.optimizer.state_dict()["state"].keys() == resumed.optimizer.state_dict()["state"].keys()
    for index, entry in whole.optimizer.state_dict()["state"].items():
        assert torch.equal(entry["exp_avg_sq"], resumed.optimizer.state_dict()["state"][index]["exp_avg_sq"])
    elsewhere = new_trainer(data, tmp_path / "elsewhere", num_train_epochs=2, **{**PUBLISHED, "precision": "float32"})
    with pytest.raises(InputError, match="is float16, not float32; take optim, precision and the rates of that run"):
        elsewhere.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))


def test_fused_adam_is_not_taken_and_adam_is_as_published(data, tmp_path):
    trainer = new_trainer(data, tmp_path, optim="adamw_torch_fused", **PUBLISHED, **QUIET)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert not optimizer.defaults["fused"]


def test_the_gradient_is_clipped_over_both_types(data, tmp_path):
    trainer = new_trainer(data, tmp_path, max_grad_norm=0.5, max_steps=1, **PUBLISHED, **QUIET)
    norms = []

    class Look(torch.optim.Adam):
        def step(self, closure=None):
            gradients = [parameter.grad.float() for group in self.param_groups for parameter in group["params"]]
            norms.append(math.sqrt(sum(gradient.square().sum().item() for gradient in gradients)))
            return super().step(closure)

    trainer.create_optimizer().__class__ = Look
    trainer.train()
    assert norms == [pytest.approx(0.5, rel=0.02)]


def test_features_are_those_of_float32_but_for_the_rounding():
    model, rounded = tiny_model(), tiny_model()
    use_published_precision(rounded)
    words, pixels = captions(random_words(5), random_words(9, seed=1), []), images(3)
    with torch.no_grad():
        one, other = model(words, pixels), rounded(words, pixels)
    assert other.image_global.dtype == torch.float16
    assert other.similarity.dtype == torch.float32
    for name in ("image_embeds", "text_embeds"):
        assert (one[name] * other[name]).sum(dim=1).min() > 0.999, name


def test_text_dropout_is_drawn_in_training_only():
    model = tiny_model(text={"attention_dropout": 0.5})
    use_published_precision(model)
    words = captions(random_words(9))
    with torch.no_grad():
        assert torch.equal(model.get_text_features(words), model.get_text_features(words))
        model.cffa.text_model.train()
        assert not torch.equal(model.get_text_features(words), model.get_text_features(words))


def test_a_token_of_zeros_has_a_finite_direction():
    model = tiny_model()
    use_published_precision(model)
    assert not model.cffa.image_refinement.normalise(torch.zeros(1, 2, 64, dtype=torch.float16), dim=-1).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp16": True}, "leave out fp16, bf16"),
        ({"bf16": True}, "leave out fp16, bf16"),
        ({"optim": "sgd"}, "leave out optim"),
        ({"coupled_weight_decay": False}, "leave out optim and coupled_weight_decay"),
        ({"adam_epsilon": 1e-8}, "adam_epsilon must be at least 0.0001"),
        ({"cached_batch_size": 4}, "cached_batch_size adds up"),
        ({"torch_compile": True}, "torch_compile rounds"),
        ({"precision": "float16"}, "must be auto, bfloat16, float32 or published"),
    ],
)
def test_what_it_excludes_is_refused_in_a_sentence(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{"precision": "published", **changes})


def test_mixed_precision_of_the_launcher_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="--mixed_precision"):
        CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="published")


def test_lora_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="lora does not go with precision published"):
        new_trainer(data, tmp_path, model=add_lora(new_model(data), {"r": 2}), **PUBLISHED, **QUIET)
