from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from cffa_hf.losses import LossSettings
from cffa_hf.modeling_cffa import ChosenTokens
from cffa_hf.training.batch_loss import BatchLoss
from cffa_hf.training.gradient_cache import cached_backward, joined
from tests.tiny import END, MASK, START, captions, images, mask_of, random_words, tiny_model
from tests.training.test_distributed import train

PAIRS = 7


def batch(share: bool = True) -> dict[str, torch.Tensor]:
    """Seven pairs with captions of very different lengths, one of them without a word."""
    words = [random_words(length, seed=length) for length in (1, 20, 3, 2, 40, 0, 5)]
    ids = captions(*words)
    chosen = (ids % 3 == 0) & (ids != START) & (ids < MASK)
    inputs = {
        "input_ids": ids.masked_fill(chosen, MASK) if share else ids,
        "attention_mask": mask_of(ids),
        "pixel_values": images(PAIRS),
        "mlm_labels": ids.masked_fill(~chosen, -100),
        "person_labels": torch.tensor([0, 1, 2, 0, 3, 4, 1]),
    }
    assert ids[5].tolist()[:2] == [START, END]
    if not share:
        inputs |= {"masked_input_ids": ids.masked_fill(chosen, MASK), "masked_attention_mask": mask_of(ids)}
    return inputs


def whole_step(model, inputs, settings):
    loss = BatchLoss.of(settings, inputs)
    output = model(**{name: value for name, value in inputs.items() if name != "person_labels"})
    local = None if output.text_local is None else (output.text_local, output.image_local)
    terms = loss.alignment((output.text_global, output.image_global), local)
    terms |= loss.predictions(output, inputs["person_labels"], inputs.get("mlm_labels"))
    torch.stack(list(terms.values())).sum().backward()
    return terms


class ScaledAccelerator(Accelerator):
    """One process that multiplies every loss, as fp16 does."""

    def __init__(self, scale):
        super().__init__(cpu=True)
        self.scaler = SimpleNamespace(get_scale=lambda: scale, scale=lambda loss: loss * scale)


def cached_step(model, inputs, settings, chunk_size, scale=1.0):
    loss = BatchLoss.of(settings, inputs)
    return cached_backward(
        model,
        inputs,
        chunk_size,
        alignment=loss.alignment,
        predictions=lambda output, chunk: loss.predictions(output, chunk["person_labels"], chunk.get("mlm_labels")),
        accelerator=ScaledAccelerator(scale),
        divisor=1,
    )


def compare(whole, cached, scale=1.0):
    for (name, expected), actual in zip(whole.named_parameters(), cached.parameters(), strict=True):
        size = max(float(parameter.grad.abs().max()) for parameter in whole.parameters())
        torch.testing.assert_close(actual.grad / scale, expected.grad, rtol=1e-4, atol=1e-5 * size, msg=name)
    for (name, expected), actual in zip(whole.named_buffers(), cached.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
@pytest.mark.parametrize("share", [True, False])
def test_chunks_equal_the_whole_batch(chunk_size, share):
    settings = LossSettings(temperature=0.1)
    whole, cached = tiny_model().train(), tiny_model().train()
    expected = whole_step(whole, batch(share), settings)
    actual = cached_step(cached, batch(share), settings, chunk_size)
    assert {name: value.item() for name, value in actual.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )
    compare(whole, cached)
    if chunk_size >= PAIRS:  # one chunk: to the last bit
        for here, there in zip(whole.buffers(), cached.buffers(), strict=True):
            assert torch.equal(here, there)
        for here, there in zip(whole.parameters(), cached.parameters(), strict=True):
            assert torch.equal(here.grad, there.grad)


@pytest.mark.parametrize("fields", [{"use_flfr": False}, {"use_identity": False, "use_mlm": False}])
def test_chunks_equal_the_whole_batch_without_some_parts(fields):
    inputs = batch()
    if not fields.get("use_mlm", True):
        del inputs["mlm_labels"]
    settings = LossSettings(alignment_loss="sdm")
    whole, cached = tiny_model(**fields).train(), tiny_model(**fields).train()
    whole_step(whole, inputs, settings)
    cached_step(cached, inputs, settings, 3)
    compare(whole, cached)


def test_dropout_is_the_same_in_both_passes():
    fields = {"text": {"attention_dropout": 0.5}}
    whole, cached = tiny_model(**fields).train(), tiny_model(**fields).train()
    torch.manual_seed(5)
    expected = whole_step(whole, batch(share=False), LossSettings())
    torch.manual_seed(5)
    actual = cached_step(cached, batch(share=False), LossSettings(), PAIRS)
    assert actual["mlm"].item() == pytest.approx(expected["mlm"].item(), rel=1e-5)
    compare(whole, cached)


def test_scaled_losses_scale_the_gradient_once():
    whole, cached = tiny_model().train(), tiny_model().train()
    whole_step(whole, batch(), LossSettings())
    cached_step(cached, batch(), LossSettings(), 3, scale=1024.0)
    compare(whole, cached, scale=1024.0)


def test_chosen_tokens_of_chunks_are_padded_to_the_longest():
    short, long = (ChosenTokens(torch.ones(2, k, 3), torch.ones(2, k).long(), torch.ones(2, k) > 0) for k in (1, 4))
    whole = joined([short, long, short])
    assert whole.tokens.shape == (6, 4, 3)
    assert whole.positions.shape == whole.kept.shape == (6, 4)
    assert whole.kept.sum(dim=1).tolist() == [1, 1, 4, 4, 1, 1]
    assert joined([ChosenTokens(torch.ones(2, 1, 3), torch.ones(2, 1).long())]).kept is None


@pytest.mark.parametrize("accumulated", [1, 2])
def test_trainer_steps_alike_with_and_without_chunks(tmp_path, accumulated):
    options = {"gradient_accumulation_steps": accumulated, "max_steps": 2}
    whole = train(str(tmp_path), 1, **options)
    cached = train(str(tmp_path), 1, cached_batch_size=3, **options)
    for here, there in zip(whole["log"], cached["log"], strict=True):
        assert there == pytest.approx(here, rel=1e-4)
    for key, value in whole["weights"].items():
        torch.testing.assert_close(cached["weights"][key], value, rtol=1e-4, atol=1e-5)


# What TrainingArguments offers: it starts, and the loss stays what it was, as far as its precision allows.
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"activation_checkpointing": True}, 1e-5),
        ({"activation_checkpointing": True, "cached_batch_size": 3}, 1e-5),
        ({"precision": "bfloat16"}, 0.03),
        # Which tokens are chosen may change with the last digit of bfloat16, and with them the local alignment.
        ({"precision": "bfloat16", "cached_batch_size": 3}, 0.1),
        ({"optim": "adamw_torch_fused"}, 1e-5),
        pytest.param({"torch_compile": True, "torch_compile_backend": "eager"}, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_usual_arguments(tmp_path, options, tolerance):
    plain = {"optim": "adamw_torch", "max_steps": 2}
    expected = train(str(tmp_path), 1, **plain)["log"]
    result = train(str(tmp_path), 1, **(plain | options))["log"]
    for here, there in zip(expected, result, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=tolerance)
