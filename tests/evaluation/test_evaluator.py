import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from cffa_hf.data.pairs import CaptionDataset
from cffa_hf.errors import InputError
from cffa_hf.evaluation.callback import RetrievalEvaluationCallback, metrics_line
from cffa_hf.evaluation.evaluator import RetrievalEmbeddings, RetrievalEvaluator
from cffa_hf.inference.modes import evaluation_mode
from tests.tiny import IMAGE_SIZE, person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def rows():
    return person_rows()


@pytest.fixture(scope="module")
def processor(rows):
    return tiny_processor(rows)


@pytest.fixture(scope="module")
def model(processor):
    return tiny_model(text={"vocab_size": len(processor.tokenizer), "max_position_embeddings": 24})


def evaluator(rows, processor, **options):
    return RetrievalEvaluator(rows, processor, progress=False, **options)


def test_embeddings_stand_in_the_order_of_the_rows(rows, processor, model):
    embeddings = evaluator(rows, processor, batch_size=5).embed(model)
    assert embeddings.image.shape == (12, 96)
    assert embeddings.text.shape == (24, 96)
    assert embeddings.image_ids.tolist() == list(rows["person_id"])
    assert embeddings.text_ids.tolist() == [person for person in rows["person_id"] for _ in range(2)]
    captions = [caption for texts in rows["captions"] for caption in texts]
    with torch.no_grad():
        for index, caption in enumerate(captions):
            single = processor.tokenizer(caption.lower(), return_tensors="pt")
            expected = model.get_text_features(single["input_ids"], single["attention_mask"])[0]
            torch.testing.assert_close(embeddings.text[index], expected, atol=1e-5, rtol=0)
        for index, row in enumerate(rows.cast_column("image", type(rows.features["image"])())):
            pixels = processor(images=row["image"], return_tensors="pt")["pixel_values"]
            expected = model.get_image_features(pixels)[0]
            torch.testing.assert_close(embeddings.image[index], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 100}, {"batch_size": 7, "num_workers": 1}])
def test_batches_and_workers_do_not_change_the_result(rows, processor, model, options):
    expected = evaluator(rows, processor, batch_size=6).embed(model)
    ours = evaluator(rows, processor, **options).embed(model)
    torch.testing.assert_close(ours.text, expected.text, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.image, expected.image, atol=1e-5, rtol=0)


def slow_rank1(scores, query_ids, gallery_ids):
    """Share of queries, in percent, whose best item is of the right identity."""
    best = gallery_ids[scores.argmax(dim=1)]
    return 100 * np.mean([found == person for found, person in zip(best.tolist(), query_ids.tolist(), strict=True)])


def test_metrics_are_percent_in_both_directions(rows, processor, model):
    evaluate = evaluator(rows, processor)
    metrics, embeddings = evaluate(model), evaluate.embed(model)
    names = {"rank1", "rank5", "rank10", "mAP", "mINP"}
    assert names | {f"image_to_text_{name}" for name in names} <= set(metrics)
    assert all(type(value) is float for value in metrics.values())
    scores = embeddings.text @ embeddings.image.T
    assert metrics["rank1"] == pytest.approx(slow_rank1(scores, embeddings.text_ids, embeddings.image_ids))
    assert metrics["image_to_text_rank1"] == pytest.approx(
        slow_rank1(scores.T, embeddings.image_ids, embeddings.text_ids)
    )
    assert 0 <= metrics["rank1"] <= metrics["rank5"] <= metrics["rank10"] <= 100


class Knowing(nn.Module):
    """Not a network: it reads a colour out of the middle of an image and gives captions a fixed place."""

    def __init__(self, text):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.text, self.calls = text, []

    def get_image_features(self, pixel_values):
        self.calls.append(("image", tuple(pixel_values.shape), self.training, torch.is_grad_enabled()))
        return pixel_values.mean(dim=(2, 3)) * self.scale

    def get_text_features(self, input_ids, attention_mask):
        self.calls.append(("text", tuple(input_ids.shape), self.training, torch.is_grad_enabled()))
        words = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        return torch.stack([self.text[tuple(row)] for row in words])


def test_each_item_is_encoded_once_in_order_of_length(rows, processor):
    captions = CaptionDataset(rows, processor.tokenizer, 24)
    model = Knowing({tuple(captions.input_ids(i)): torch.randn(3) for i in range(len(captions))}).train()
    evaluator(rows, processor, batch_size=5)(model)
    sizes = {what: sum(shape[0] for kind, shape, *_ in model.calls if kind == what) for what in ("image", "text")}
    assert sizes == {"image": 12, "text": 24}
    lengths = [shape[1] for kind, shape, *_ in model.calls if kind == "text"]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert all(shape[1:] == (3, *IMAGE_SIZE) for kind, shape, *_ in model.calls if kind == "image")
    assert not any(training or gradients for *_, training, gradients in model.calls)
    assert model.training  # as before


def test_the_mode_is_restored_after_an_error(model):
    copy = tiny_model().train()
    with contextlib.suppress(RuntimeError), evaluation_mode(copy):
        assert not copy.training
        raise RuntimeError
    assert copy.training
    with evaluation_mode(model):
        pass
    assert not model.training


def test_gradients_flow_again_after_an_evaluation(rows, processor):
    model = tiny_model(text={"vocab_size": len(processor.tokenizer), "max_position_embeddings": 24}).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluator(rows, processor)(model)
    model.get_text_features(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.cffa.text_projection.weight.grad is not None


def test_perfect_and_reversed_embeddings():
    ids = torch.tensor([1, 2, 3, 4])
    perfect = RetrievalEmbeddings(torch.eye(4), torch.eye(4), ids, ids)
    assert perfect.text_to_image().ranks.flatten().tolist() == [1, 1, 1, 1]
    assert perfect.image_to_text().ranks.flatten().tolist() == [1, 1, 1, 1]
    wrong = RetrievalEmbeddings(-torch.eye(4), torch.eye(4), ids, ids)
    assert wrong.text_to_image().ranks.flatten().tolist() == [4, 4, 4, 4]


METRICS = {
    "eval_rank1": 50.123,
    "eval_rank5": 70.0,
    "eval_mAP": 40.0,
    "eval_image_to_text_rank1": 60.0,
    "eval_runtime": 1.5,
}


def test_one_line_for_both_directions():
    line = metrics_line(METRICS, "eval_")
    assert line == "text-to-image: Rank-1 50.12  Rank-5 70.00  mAP 40.00 | image-to-text: Rank-1 60.00"
    assert metrics_line({"rank1": 1.0}) == "text-to-image: Rank-1 1.00"
    assert metrics_line(METRICS) == ""


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("eval_", "validation"), ("eval_night_", "night"), ("test_", "test"), ("eval_a_rank_", "a_rank")],
)
def test_the_callback_prints_one_line_for_each_split(capsys, prefix, name):
    metrics = {key.replace("eval_", prefix): value for key, value in METRICS.items()}
    state = TrainerState(epoch=2.0, is_world_process_zero=True)
    RetrievalEvaluationCallback().on_evaluate(SimpleNamespace(), state, TrainerControl(), metrics=metrics)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "2.0" in lines[0]
    assert name in lines[0]
    assert "Rank-1 50.12" in lines[0]


def test_the_callback_is_silent_elsewhere(capsys):
    callback, control = RetrievalEvaluationCallback(), TrainerControl()
    callback.on_evaluate(SimpleNamespace(), TrainerState(is_world_process_zero=False), control, metrics=METRICS)
    callback.on_evaluate(SimpleNamespace(), TrainerState(is_world_process_zero=True), control, metrics=None)
    callback.on_evaluate(
        SimpleNamespace(), TrainerState(is_world_process_zero=True), control, metrics={"eval_loss": 1.0}
    )
    assert capsys.readouterr().out == ""


def test_cameras_count_only_when_asked_for(rows, processor, model):
    with pytest.raises(InputError, match="camera"):
        evaluator(rows, processor).embed(model, camera_aware=True)
    with_cameras = rows.map(lambda row: {"camera": "ab"[row["image_id"] % 2]})
    plain = evaluator(with_cameras, processor).embed(model).text_to_image()
    aware = evaluator(with_cameras, processor).embed(model, camera_aware=True).text_to_image()
    assert plain.match_counts.tolist() == [2] * 24
    assert aware.match_counts.tolist() == [1] * 24
