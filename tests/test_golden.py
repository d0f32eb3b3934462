"""The recorded numbers of the published implementation: features, losses, gradients, a short training run."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.checkpoints.conversion import build_model
from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.names import name_table, rename_weights
from cffa_hf.checkpoints.originals import read_original
from cffa_hf.data.collator import TrainingTransform
from cffa_hf.data.corruption import SpecialTokens
from cffa_hf.losses import ALIGNMENT_LOSSES, LossSettings
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import match_ranks_from_scores
from cffa_hf.training.optimisation import parameter_groups, warmup_cosine_factor
from cffa_hf.training.trainer import CFFATrainer

NAMES = {"mal_global": "alignment_global", "mal_local": "alignment_local", "id": "identity", "mlm": "mlm"}


@pytest.fixture(scope="module", params=["at home", "larger"])
def golden(request):
    """The recordings that live in the project, and larger ones where they are at hand."""
    folder = request.getfixturevalue("golden_folder" if request.param == "at home" else "larger_golden_folder")
    tensors = load_file(folder / "cffa_tiny.safetensors")
    return SimpleNamespace(
        weights={
            name: value.float() if value.is_floating_point() else value
            for name, value in read_state_dict(folder / "cffa_tiny.pth").items()
        },
        tensors={name: value.float() if name.endswith("images") else value for name, value in tensors.items()},
        values=json.loads((folder / "cffa_tiny.json").read_text()),
    )


@pytest.fixture(scope="module")
def losses(golden_folder):
    return SimpleNamespace(
        tensors=load_file(golden_folder / "metrics_losses.safetensors"),
        values=json.loads((golden_folder / "metrics_losses.json").read_text()),
    )


def training_arguments(folder, **changes):
    changes = {"load_best_model_at_end": False, "eval_strategy": "no", "report_to": "none"} | changes
    return CFFATrainingArguments(output_dir=str(folder), use_cpu=True, precision="float32", **changes)


def converted(golden):
    """The recorded checkpoint as our training model."""
    source = read_original(golden.weights, image_size=tuple(golden.values["meta"]["image_size"]))
    return build_model(source, source.config).model


def recorded_trainer(golden, folder):
    """The trainer of the recorded checkpoint, as it computed its losses; the recordings were made without dropout."""
    model = converted(golden)
    for layer in model.cffa.text_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    meta = golden.values["meta"]
    transform = TrainingTransform(
        SpecialTokens(
            start=meta["bos"], end=meta["eos"], mask=meta["mask"], pad=meta["pad"], vocabulary_size=meta["vocab_size"]
        )
    )
    recorded = golden.values["optimizer"]
    arguments = training_arguments(
        folder, learning_rate=recorded["lr"], mal_scale="batch", eval_strategy="no", load_best_model_at_end=False
    )
    return CFFATrainer(model=model, args=arguments, training_transform=transform)


def run(trainer, golden, captions):
    """Feed one recorded batch to `compute_loss`; there, label 0 stands for 'not chosen'."""
    batch = {name: golden.tensors[f"{captions}.input.{name}"] for name in ("caption_ids", "mlm_ids", "mlm_labels")}
    inputs = {
        "input_ids": batch["caption_ids"],
        "pixel_values": golden.tensors[f"{captions}.input.images"],
        "masked_input_ids": batch["mlm_ids"],
        "mlm_labels": batch["mlm_labels"].masked_fill(batch["mlm_labels"] == 0, -100),
        "person_labels": golden.tensors[f"{captions}.input.pids"],
    }
    loss, output = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    logged = trainer.monitor.read(lambda values: values, 1)
    terms = {name.removeprefix("loss_"): value for name, value in logged.items() if name.startswith("loss_")}
    assert sum(terms.values()) == pytest.approx(loss.item(), rel=1e-5)
    return output, loss, terms


@pytest.fixture(scope="module")
def trained_once(golden, tmp_path_factory):
    """One step in train mode with its gradients."""
    trainer = recorded_trainer(golden, tmp_path_factory.mktemp("golden"))
    trainer.model.train()
    _, loss, terms = run(trainer, golden, "full")
    loss.backward()
    return trainer.model, terms


def check_losses(terms, recorded, rel, skip=()):
    for theirs, ours in NAMES.items():
        if theirs not in skip:
            assert terms[ours] == pytest.approx(recorded[theirs], rel=rel, abs=1e-6), theirs
    if not skip:
        assert sum(terms.values()) == pytest.approx(recorded["loss"], rel=rel)


@pytest.mark.parametrize("captions", ["full", "short"])
def test_features_similarity_and_losses(golden, captions, tmp_path):
    trainer = recorded_trainer(golden, tmp_path)
    trainer.model.eval()
    with torch.no_grad():
        output, _, terms = run(trainer, golden, captions)
    for name in ("image_global", "image_local", "text_global", "text_local", "similarity"):
        recorded = golden.tensors[f"{captions}.eval.{name}"]
        torch.testing.assert_close(output[name], recorded, atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(output.text_embeds @ output.image_embeds.T, output.similarity)
    # On padded captions the original lets padding into the cross-modal layers: its MLM loss is another one there.
    recorded = golden.values[f"{captions}.eval.losses"]
    check_losses(terms, recorded, 1e-4, skip=() if captions == "full" else ("mlm",))
    assert terms["mlm"] == pytest.approx(recorded["mlm"], rel=0.01)


def test_the_trunk_alone_gives_the_recorded_similarity(golden):
    trunk = converted(golden).base_model
    with torch.no_grad():
        text = trunk.get_text_features(golden.tensors["short.input.caption_ids"])
        image = trunk.get_image_features(golden.tensors["short.input.images"])
    torch.testing.assert_close(text @ image.T, golden.tensors["short.eval.similarity"], atol=1e-4, rtol=0)


def test_losses_in_train_mode(golden, trained_once):
    check_losses(trained_once[1], golden.values["full.train.losses"], 1e-4)


def test_gradient_norm_of_every_parameter(golden, trained_once):
    gradients = {name: parameter.grad for name, parameter in trained_once[0].named_parameters()}
    compared = set()
    for name, recorded in golden.values["full.train.grad_norms"].items():
        ours = list(rename_weights({name: golden.weights[name]}, name_table(golden.weights)))
        norm = torch.cat([gradients[part].flatten() for part in ours]).norm().item()
        if name.endswith("mlp.layers.0.bias"):  # right before a batch norm: no gradient but rounding noise
            assert max(norm, recorded) < 1e-4, name
        else:
            assert norm == pytest.approx(recorded, rel=1e-3), name
        compared.update(ours)
    assert compared == set(gradients)


def test_groups_of_every_parameter(golden, tmp_path):
    model = converted(golden)
    groups = parameter_groups(model, training_arguments(tmp_path, learning_rate=1e-3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    compared = set()
    for name, recorded in golden.values["optimizer.groups"].items():
        if name not in golden.values["full.train.grad_norms"]:
            continue  # of the weights that its forward pass never uses
        for part in rename_weights({name: golden.weights[name]}, name_table(golden.weights)):
            assert ours[part]["lr"] == pytest.approx(recorded["lr"]), name
            assert ours[part]["weight_decay"] == pytest.approx(recorded["weight_decay"]), name
            compared.add(part)
    assert compared == set(ours)


def test_twelve_steps_of_adam(golden, tmp_path):
    trainer = recorded_trainer(golden, tmp_path)
    recorded = golden.values["optimizer"]
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == recorded["name"] == "Adam"
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == (tuple(recorded["betas"]), recorded["eps"])
    trainer.model.train()
    for step, losses in enumerate(golden.values["full.trajectory"]):
        _, loss, terms = run(trainer, golden, "full")
        assert loss.item() == pytest.approx(losses["loss"], rel=0.01), f"step {step}"
        check_losses(terms, losses, 0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert step == 11


def test_schedule(golden):
    ours = [warmup_cosine_factor(epoch, warmup_epochs=5, total_epochs=60, warmup_start=0.1) for epoch in range(60)]
    assert ours == pytest.approx(golden.values["lr_by_epoch"], abs=1e-9)


RECORDED = {"mal": "mal", "triplet": "triplet", "info_nce": "InfoNCE", "sdm": "sdm", "cmpm": "cmpm"}


@pytest.mark.parametrize("batch", ["loss8", "loss64", "loss100"])
@pytest.mark.parametrize("kind", ALIGNMENT_LOSSES)
def test_alignment_losses(losses, kind, batch):
    inputs = [losses.tensors[f"{batch}.{name}"] for name in ("text", "image", "ids")]
    recorded = losses.values[f"{batch}.{RECORDED[kind]}"]

    def same(expected, **settings):
        loss = LossSettings(alignment_loss=kind, **settings).alignment(*inputs)
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)

    if "reduction" in ALIGNMENT_LOSSES[kind].settings:
        for reduction in ("sum", "mean"):
            same(recorded[reduction], alignment_reduction=reduction, mal_scale="batch")
    else:
        same(recorded["value"])
    if kind == "mal":  # with beta = tau, MAL is the triplet-alignment bound
        same(losses.values[f"{batch}.tal"]["sum"], mal_scale="temperature")


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_metrics(losses, case):
    scores, query_ids, gallery_ids = (
        losses.tensors[f"{case}.{name}"] for name in ("similarity", "query_ids", "gallery_ids")
    )
    metrics = retrieval_metrics(match_ranks_from_scores(scores, query_ids, gallery_ids))
    for name, value in losses.values[case].items():
        assert metrics[name] == pytest.approx(value, abs=1e-3), name
