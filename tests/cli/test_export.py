"""`cffa-hf export`: a folder that embeds, or one sentence and nothing written."""

import sys

import pytest

from cffa_hf import Embedder
from cffa_hf.checkpoints import weights_digest
from cffa_hf.cli import main
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(text={"num_hidden_layers": 1}, vision={"num_hidden_layers": 1}).base_model.save_pretrained(folder)
    tiny_processor(person_rows(3)).save_pretrained(folder)
    return folder


def test_a_model_is_exported_in_int8(model, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["export", str(model), str(out), "--int8"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"wrote {out}: image.onnx ")
    assert "onnx-int8, vectors of 96" in shown[0]
    assert len(shown) == 3
    embedder = Embedder.from_onnx(out)
    assert embedder.model.record.weights_sha256 == weights_digest(model)
    assert embedder.captions(["a red coat"]).norm() == pytest.approx(1, abs=1e-3)


def test_mistakes_end_with_2_and_one_sentence(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for words, message in (
        ((tmp_path / "absent", tmp_path / "out"), "absent"),
        ((tmp_path / "full", tmp_path / "out"), "config.json"),
        ((model, tmp_path / "full"), "exists and is not empty"),
        ((model, tmp_path / "file"), "exists and is not empty"),
        ((model, model), "exists and is not empty"),
        ((model, tmp_path / "file" / "out"), "cannot be written"),
    ):
        assert main(["export", *map(str, words)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert message in line
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(model), str(tmp_path / "out")]) == 2
    assert "pip install 'cffa_hf[export]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
