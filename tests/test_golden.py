"""The recorded numbers of the published implementation: features, losses, gradients, a short training run."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cffa_hf.arguments import CFFATrainingArguments
from cffa_hf.checkpoint_files import read_state_dict
from cffa_hf.checkpoint_names import name_table, rename_weights
from cffa_hf.conversion import convert_weights
from cffa_hf.losses import (
    LossSettings,
    cosine_similarity,
    cross_modal_projection_matching_loss,
    hardest_triplet_loss,
    info_nce_loss,
    loss_terms,
    multi_association_loss,
    similarity_distribution_matching_loss,
)
from cffa_hf.metrics import match_ranks_from_scores, retrieval_metrics
from cffa_hf.trainer import parameter_groups, warmup_cosine_factor

PUBLISHED = LossSettings(mal_scale="batch")
NAMES = {"mal_global": "alignment_global", "mal_local": "alignment_local", "id": "identity", "mlm": "mlm"}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden"
    return SimpleNamespace(
        weights=read_state_dict(folder / "cffa_tiny.pth"),
        tensors=load_file(folder / "cffa_tiny.safetensors"),
        values=json.loads((folder / "cffa_tiny.json").read_text()),
        loss_tensors=load_file(folder / "metrics_losses.safetensors"),
        loss_values=json.loads((folder / "metrics_losses.json").read_text()),
    )


def converted(golden):
    """The recorded checkpoint as our training model; the recordings were made without dropout."""
    model = convert_weights(golden.weights).model
    for layer in model.cffa.text_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    return model


def run(model, golden, captions):
    """Feed one recorded batch; there, label 0 stands for 'not chosen'."""
    batch = {name: golden.tensors[f"{captions}.input.{name}"] for name in ("caption_ids", "mlm_ids", "mlm_labels")}
    labels = batch["mlm_labels"].masked_fill(batch["mlm_labels"] == 0, -100)
    output = model(
        input_ids=batch["caption_ids"],
        pixel_values=golden.tensors[f"{captions}.input.images"],
        masked_input_ids=batch["mlm_ids"],
        mlm_labels=labels,
    )
    terms = loss_terms(
        PUBLISHED,
        golden.tensors[f"{captions}.input.pids"],
        global_features=(output.text_global, output.image_global),
        local_features=(output.text_local, output.image_local),
        identity_logits=(output.text_identity_logits, output.image_identity_logits),
        mlm_logits=output.mlm_logits,
        mlm_labels=labels,
    )
    return output, terms


@pytest.fixture(scope="module")
def trained_once(golden):
    """One step in train mode with its gradients."""
    model = converted(golden).train()
    _, terms = run(model, golden, "full")
    sum(terms.values()).backward()
    return model, {name: value.detach() for name, value in terms.items()}


def check_losses(terms, recorded, rel, skip=()):
    for theirs, ours in NAMES.items():
        if theirs not in skip:
            assert terms[ours].item() == pytest.approx(recorded[theirs], rel=rel, abs=1e-6), theirs
    if not skip:
        assert sum(terms.values()).item() == pytest.approx(recorded["loss"], rel=rel)


@pytest.mark.parametrize("captions", ["full", "short"])
def test_features_similarity_and_losses(golden, captions):
    model = converted(golden)
    assert not model.training
    with torch.no_grad():
        output, terms = run(model, golden, captions)
    for name in ("image_global", "image_local", "text_global", "text_local", "similarity"):
        recorded = golden.tensors[f"{captions}.eval.{name}"]
        torch.testing.assert_close(output[name], recorded, atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(output.text_embeds @ output.image_embeds.T, output.similarity)
    # On padded captions the original lets padding into the cross-modal layers: its MLM loss is another one there.
    recorded = golden.values[f"{captions}.eval.losses"]
    check_losses(terms, recorded, 1e-4, skip=() if captions == "full" else ("mlm",))
    assert terms["mlm"].item() == pytest.approx(recorded["mlm"], rel=0.01)


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


def training_arguments(tmp_path, **changes):
    return CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes)


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
    model = converted(golden).train()
    recorded = golden.values["optimizer"]
    assert recorded["name"] == "Adam"
    arguments = training_arguments(tmp_path, learning_rate=recorded["lr"])
    assert (arguments.adam_beta1, arguments.adam_beta2) == tuple(recorded["betas"])
    assert arguments.adam_epsilon == recorded["eps"]
    optimizer = torch.optim.Adam(
        parameter_groups(model, arguments), betas=tuple(recorded["betas"]), eps=recorded["eps"]
    )
    for step, losses in enumerate(golden.values["full.trajectory"]):
        _, terms = run(model, golden, "full")
        total = sum(terms.values())
        assert total.item() == pytest.approx(losses["loss"], rel=0.01), f"step {step}"
        check_losses(terms, losses, 0.01)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert step == 11


def test_schedule(golden):
    ours = [warmup_cosine_factor(epoch, warmup_epochs=5, total_epochs=60, warmup_start=0.1) for epoch in range(60)]
    assert ours == pytest.approx(golden.values["lr_by_epoch"], abs=1e-9)


@pytest.mark.parametrize("batch", ["loss8", "loss64", "loss100"])
def test_alignment_losses(golden, batch):
    text, image, labels = (golden.loss_tensors[f"{batch}.{name}"] for name in ("text", "image", "ids"))
    similarity = cosine_similarity(text, image)
    recorded = golden.loss_values

    def same(ours, theirs):
        assert ours.item() == pytest.approx(theirs, rel=1e-5, abs=1e-6)

    for reduction in ("sum", "mean"):
        mal = multi_association_loss(similarity, labels, mal_scale="batch", reduction=reduction)
        same(mal, recorded[f"{batch}.mal"][reduction])
        same(hardest_triplet_loss(similarity, labels, reduction=reduction), recorded[f"{batch}.triplet"][reduction])
        same(info_nce_loss(similarity, labels, reduction=reduction), recorded[f"{batch}.InfoNCE"][reduction])
    # With beta = tau, MAL is the triplet-alignment bound.
    same(multi_association_loss(similarity, labels, mal_scale="temperature"), recorded[f"{batch}.tal"]["sum"])
    same(similarity_distribution_matching_loss(similarity, labels), recorded[f"{batch}.sdm"]["value"])
    same(cross_modal_projection_matching_loss(text, image, labels), recorded[f"{batch}.cmpm"]["value"])


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_metrics(golden, case):
    scores, query_ids, gallery_ids = (
        golden.loss_tensors[f"{case}.{name}"] for name in ("similarity", "query_ids", "gallery_ids")
    )
    metrics = retrieval_metrics(match_ranks_from_scores(scores, query_ids, gallery_ids))
    for name, value in golden.loss_values[case].items():
        assert metrics[name] == pytest.approx(value, abs=1e-3), name
