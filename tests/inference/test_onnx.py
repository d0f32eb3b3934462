"""An ONNX export embeds as its model does, whatever the batch and the lengths; a damaged folder is refused in a sentence."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from cffa_hf import Embedder
from cffa_hf.errors import InputError, RunStopped
from cffa_hf.files import file_digest
from cffa_hf.inference import export_onnx, onnx_export
from cffa_hf.inference.onnx_format import IMAGE_TOWER, RECORD, TEXT_TOWER, OnnxRecord
from cffa_hf.search import Gallery
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(3)
PROCESSOR = tiny_processor(ROWS)
TEXTS = [
    "red",
    "a man in a very long blue coat with a hat",
    "",
    "yellow top, red trousers",
    "red " * 100,
    "caf&eacute; ΣΑΣ",
]
DIGEST = "0123456789abcdef" * 4
SHALLOW = {"num_hidden_layers": 1}


def small_model(seed: int = 0, **fields):
    return tiny_model(seed, text=SHALLOW, vision=SHALLOW, **fields).base_model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    export = export_onnx(model, PROCESSOR, folder, weights_sha256=DIGEST)
    assert export.difference < 1e-5
    assert export.cosine == pytest.approx(1, abs=1e-5)
    return folder


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def check_equal(one: Embedder, other: Embedder, tolerance: float = 1e-5) -> None:
    images = ROWS["image"][:]
    torch.testing.assert_close(one.images(images), other.images(images), atol=tolerance, rtol=0)
    torch.testing.assert_close(one.images(images[:1]), other.images(images[:1]), atol=tolerance, rtol=0)
    torch.testing.assert_close(one.captions(TEXTS), other.captions(TEXTS), atol=tolerance, rtol=0)
    for text in TEXTS:
        torch.testing.assert_close(one.captions([text]), other.captions([text]), atol=tolerance, rtol=0)


def test_the_export_embeds_as_the_model(model, exported):
    embedder = Embedder.from_onnx(exported, batch_size=4)
    assert embedder.precision == "onnx-float32"
    assert embedder.width == model.config.embedding_dim
    assert embedder.weights_sha256 == DIGEST
    check_equal(embedder, Embedder(model, PROCESSOR, precision="float32"))
    assert embedder.captions([]).shape == embedder.images([]).shape == (0, embedder.width)
    batches = list(embedder.image_batches([*ROWS["image"][:5], b"no image"]))
    assert [indices for indices, _, _ in batches] == [[0, 1, 2, 3], [4]]
    assert [number for _, _, failures in batches for number, _ in failures] == [5]


def test_a_gallery_takes_it_and_another_precision_is_refused(model, exported, tmp_path):
    (tmp_path / "people").mkdir()
    for row in ROWS:
        (tmp_path / "people" / row["file_path"]).write_bytes(row["image"]["bytes"])
    embedder = Embedder.from_onnx(exported)
    gallery = Gallery.from_folder(embedder, tmp_path / "people", tmp_path / "gallery", progress=False)
    with contextlib.closing(gallery):
        assert len(gallery.search("red shirt", 3)) == 3
    with pytest.raises(InputError, match="onnx-float32"):
        Gallery.open(tmp_path / "gallery", Embedder(model, PROCESSOR, precision="float32"))


def test_the_folder_holds_all_that_is_needed_and_nothing_of_where_it_was_made(exported):
    record = json.loads((exported / RECORD).read_text())
    names = {path.name for path in exported.iterdir()}
    assert {*record["files"], RECORD} == names
    assert names == {
        *(IMAGE_TOWER, TEXT_TOWER, RECORD, "config.json"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert (record["width"], record["image_size"], record["context_length"]) == (96, [64, 32], 77)
    assert not any(str(exported.parent).encode() in path.read_bytes() for path in exported.iterdir())


def test_a_model_without_local_features_in_half_precision(tmp_path):
    model = small_model(use_flfr=False)
    export_onnx(model.bfloat16(), PROCESSOR, tmp_path / "out", weights_sha256=DIGEST)
    embedder = Embedder.from_onnx(tmp_path / "out")
    assert embedder.width == 64
    check_equal(embedder, Embedder(model.float(), PROCESSOR, precision="float32"))


def test_graphs_that_compute_something_else_are_not_written(model, exported, tmp_path, monkeypatch):
    def write_another(tower, path, example, dynamic):
        shutil.copyfile(exported / path.name, path)

    monkeypatch.setattr(onnx_export, "_write_graph", write_another)
    with pytest.raises(RunStopped, match="differ from PyTorch"):
        export_onnx(small_model(seed=1), PROCESSOR, tmp_path / "out", weights_sha256=DIGEST)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(onnx_export, "LEAST_COSINE", 1.01)
    with pytest.raises(RunStopped, match="without --int8"):
        export_onnx(model, PROCESSOR, tmp_path / "out", weights_sha256=DIGEST, int8=True)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_smaller_and_close(model, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(
        onnx_export, "_write_graph", lambda tower, path, example, dynamic: shutil.copyfile(exported / path.name, path)
    )
    export = export_onnx(model, PROCESSOR, tmp_path / "out", weights_sha256=DIGEST, int8=True)
    assert 0.95 < export.cosine < 1
    embedder = Embedder.from_onnx(tmp_path / "out")
    assert embedder.precision == "onnx-int8"
    wanted = Embedder(model, PROCESSOR, precision="float32").captions(TEXTS)
    assert torch.nn.functional.cosine_similarity(embedder.captions(TEXTS), wanted).mean() > 0.95
    for name in (IMAGE_TOWER, TEXT_TOWER):
        assert (tmp_path / "out" / name).stat().st_size < 0.8 * (exported / name).stat().st_size


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Embedder.from_onnx(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")


def rewrite(folder: Path, **changes) -> None:
    """Change the record, and let it name the files as they are now."""
    record = json.loads((folder / RECORD).read_text())
    record["files"] = {name: file_digest(folder / name) for name in record["files"]}
    (folder / RECORD).write_text(json.dumps(record | changes))


def test_what_is_no_export_is_refused(tmp_path):
    refused(tmp_path / "absent", "no ONNX export")
    refused(tmp_path, r"no onnx\.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "[" * 20_000, "\udcff", '"' + "x" * 2**21 + '"'])
def test_a_record_that_is_none(copied, text):
    (copied / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(copied, "is damaged|cannot be read as JSON")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "of format 2, but this version reads 1"),
        ({"precision": "onnx-int4"}, "precision"),
        ({"width": 0}, "width"),
        ({"weights_sha256": "abc"}, "weights_sha256"),
        ({"files": {"../../secret": DIGEST}}, "damaged or of another export"),
        ({"width": 95}, "another model than its record says"),
        ({"image_size": [64, 64]}, "another model than its record says"),
        ({"context_length": 40}, "another model than its record says"),
    ],
)
def test_a_record_of_something_else(copied, changes, message):
    rewrite(copied, **changes)
    refused(copied, message)


@pytest.mark.parametrize("name", [IMAGE_TOWER, TEXT_TOWER, "config.json", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_missing_or_not_the_exported_one(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    refused(copied, f"{name} is damaged or of another export")
    if name.endswith(".onnx"):
        rewrite(copied)  # whatever its digest says
        refused(copied, f"{name} cannot be read")
    (copied / name).unlink()
    refused(copied, f"has no file '{name}'")


def test_files_of_another_model_with_a_record_that_fits(copied, tmp_path):
    (copied / TEXT_TOWER).write_bytes((copied / IMAGE_TOWER).read_bytes())
    rewrite(copied)
    refused(copied, "another model than its record says")


def test_a_processor_of_another_model_with_a_record_that_fits(copied):
    config = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 30}))
    rewrite(copied)
    refused(copied, "the processor of another model")
    (copied / "tokenizer.json").write_text("{}")
    rewrite(copied)
    refused(copied, "damaged processor")


def test_another_precision_is_refused(exported):
    embedder = Embedder.from_onnx(exported)
    assert Embedder(embedder.model, PROCESSOR, precision="onnx-float32").precision == "onnx-float32"
    with pytest.raises(InputError, match="computes in onnx-float32, not in bfloat16"):
        Embedder(embedder.model, PROCESSOR, precision="bfloat16")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(model, exported, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'cffa_hf\[export\]'\.$"):
        export_onnx(model, PROCESSOR, tmp_path / "out", weights_sha256=DIGEST)
    if package == "onnxruntime":
        refused(exported, r"pip install 'cffa_hf\[export\]'\.$")
    assert list(tmp_path.iterdir()) == []


def test_two_exports_have_weights_of_their_own(exported, copied):
    rewrite(copied, files=OnnxRecord.model_validate_json((copied / RECORD).read_text()).files)
    one, other = Embedder.from_onnx(exported).model, Embedder.from_onnx(copied).model
    assert torch.equal(one.digests, other.digests)
    assert one.digests.numel() == 64
