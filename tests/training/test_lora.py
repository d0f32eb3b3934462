import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.errors import InputError
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel
from cffa_hf.training.lora import add_lora, is_adapted, save_embedding_model, training_model
from cffa_hf.training.optimisation import parameter_groups
from cffa_hf.training.trainer import CFFATrainer
from tests.tiny import images, person_rows, tiny_model, tiny_processor
from tests.trainers import FixedTransform, tiny_trainer

peft = pytest.importorskip("peft", reason="the extra cffa_hf[lora] is not installed")
LORA = {"r": 4, "lora_alpha": 8}


def lora_trainer(folder: Path, model: torch.nn.Module, max_steps: int = 4, **options) -> CFFATrainer:
    processor = tiny_processor(person_rows())
    settings = {
        "per_device_train_batch_size": 8,
        "max_steps": max_steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        **options,
    }
    transform = FixedTransform(share=True, mask=processor.tokenizer.mask_token_id)
    return tiny_trainer(folder, model=model, processor=processor, transform=transform, **settings)


def fitting_model() -> CFFAForPreTraining:
    """A model for the tokenizer of the training data."""
    return tiny_model(text={"vocab_size": len(tiny_processor(person_rows()).tokenizer)})


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_encoders_get_lora_and_the_rest_is_trained_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of two libraries, about each other
        model = add_lora(tiny_model(), LORA)
    trained = trained_names(model)
    encoders = {name for name in trained if "_model.encoder" in name}
    assert encoders
    assert all(".lora_" in name and (".q_proj." in name or ".v_proj." in name) for name in encoders)
    assert len(encoders) == 2 * 2 * 2 * 2  # encoders, layers, q and v, two matrices
    parts = ("image_refinement", "text_refinement", "identity_classifier", "cross_modal", "mlm_head")
    plain = tiny_model()
    for part in parts:
        expected = sum(parameter.numel() for name, parameter in plain.named_parameters() if part in name)
        trained_whole = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if part in name and parameter.requires_grad
        )
        assert trained_whole == expected
    assert is_adapted(model)
    assert isinstance(training_model(model), CFFAForPreTraining)


def test_parameter_groups_of_an_adapted_model():
    model = add_lora(tiny_model(), LORA)
    args = CFFATrainingArguments(output_dir="unused", use_cpu=True, precision="float32")
    groups = {group["name"]: group for group in parameter_groups(model, args)}
    assert groups.keys() == {
        "encoders_weights",  # the adapters
        "refinement_weights",
        "refinement_biases",
        "heads_weights",
        "heads_biases",
        "cross_modal_weights",
        "cross_modal_biases",
    } | ({"encoders_biases"} & groups.keys())
    assert sum(len(group["params"]) for group in groups.values()) == len(trained_names(model))
    assert groups["refinement_weights"]["lr"] == args.refinement_learning_rate
    assert groups["heads_weights"]["lr"] == args.learning_rate * args.head_rate_factor


@pytest.mark.parametrize("cached", [None, 3])
def test_train_save_merge_and_load(tmp_path, cached):
    base = fitting_model().state_dict()
    model = add_lora(fitting_model(), LORA, base_name="base")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = lora_trainer(tmp_path, model, cached_batch_size=cached, load_best_model_at_end=False)
    trainer.train()
    trainer.save_published(str(tmp_path / "published"))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
        elif "lora_A" not in name or cached is None:
            assert not torch.equal(parameter, before[name]), name

    # The checkpoint is PEFT's own: small, and loaded over the model that training started from.
    checkpoint = tmp_path / "checkpoint-4"
    assert not (checkpoint / "model.safetensors").exists()
    settings = json.loads((checkpoint / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "base"
    again = peft.PeftModel.from_pretrained(fitting_model(), checkpoint).eval()
    pixels = images(3)
    ids = trainer.processing_class.tokenizer(["a red shirt", "blue"], padding=True, return_tensors="pt").input_ids
    expected_images = model.eval().get_image_features(pixels)
    expected_text = model.get_text_features(ids)
    torch.testing.assert_close(again.get_image_features(pixels), expected_images)
    torch.testing.assert_close(again.get_text_features(ids), expected_text)

    # What is published is a whole model without adapters, and the adapter of the embedding model beside it.
    published = CFFAModel.from_pretrained(tmp_path / "published").eval()
    assert not any("lora" in name or "base_layer" in name for name in published.state_dict())
    torch.testing.assert_close(published.get_image_features(pixels), expected_images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(published.get_text_features(ids), expected_text, rtol=1e-4, atol=1e-5)
    adapter = load_file(tmp_path / "published" / "adapter" / "adapter_model.safetensors")
    assert not any("classifier" in name or "mlm" in name or "cross_modal" in name for name in adapter)
    trunk = fitting_model().cffa
    trunk.load_state_dict({name.removeprefix("cffa."): value for name, value in base.items() if "cffa." in name})
    loaded = peft.PeftModel.from_pretrained(trunk, tmp_path / "published" / "adapter").eval()
    torch.testing.assert_close(loaded.get_image_features(pixels), expected_images)
    torch.testing.assert_close(loaded.get_text_features(ids), expected_text)


def test_an_adapted_run_goes_on_where_it_stopped(tmp_path):
    whole = lora_trainer(tmp_path / "whole", add_lora(fitting_model(), LORA))
    whole.train()
    first = lora_trainer(tmp_path / "parts", add_lora(fitting_model(), LORA), max_steps=2)
    first.train()
    second = lora_trainer(tmp_path / "parts", add_lora(fitting_model(), LORA))
    second.train(resume_from_checkpoint="auto")
    assert second.state.global_step == 4
    for (name, expected), (_, actual) in zip(
        whole.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(actual, expected), name


def test_plain_model_is_saved_as_before(tmp_path):
    model = tiny_model()
    save_embedding_model(model, tmp_path)
    assert torch.equal(
        CFFAModel.from_pretrained(tmp_path).get_image_features(images(1)), model.get_image_features(images(1))
    )
    assert not (tmp_path / "adapter").exists()


def test_targets_of_ones_own_and_wrong_settings():
    model = add_lora(tiny_model(), {"r": 2, "target_modules": ["fc1"], "modules_to_save": ["image_refinement"]})
    trained = trained_names(model)
    assert all(".fc1." in name or "image_refinement" in name for name in trained)
    assert not any("cross_modal" in name for name in trained)
    with pytest.raises(InputError, match="unknown setting 'rank'"):
        add_lora(tiny_model(), {"rank": 8})
    with pytest.raises(InputError, match="lora: No modules were targeted"):
        add_lora(tiny_model(), {"target_modules": ["nothing"]})


def test_settings_from_yaml_and_command_line(tmp_path):
    config = tmp_path / "lora.yaml"
    config.write_text("lora: {r: 8, target_modules: [q_proj]}\n")
    (model,) = parse_arguments(["--config", str(config)], [ModelArguments])
    assert model.lora == {"r": 8, "target_modules": ["q_proj"]}
    (model,) = parse_arguments(["--config", str(config), "--lora", '{"r": 2}'], [ModelArguments])
    assert model.lora == {"r": 2}
    for wrong in ("8", "r=8"):
        with pytest.raises(InputError, match="lora must be"):
            parse_arguments(["--lora", wrong], [ModelArguments])


def test_missing_peft_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'cffa_hf\[lora\]'"):
        add_lora(tiny_model(), {})
