import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from tests.processes import run_python
from tests.tiny import tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two small rendered datasets with configs, and two models."""
    folder = tmp_path_factory.mktemp("world")
    for layout in ("cuhk_pedes", "rstpreid"):
        write_demo_dataset(folder / "data", layout, identities=(2, 2, 4), images_per_identity=3, workers=1)
        (folder / f"{layout}.yaml").write_text(
            f"dataset: {layout}\ndataset_root: {folder / 'data'}\nlearning_rate: 5e-4\noutput_dir: elsewhere\n"
        )
    train = load_person_dataset("cuhk_pedes", folder / "data")["train"]
    for seed, name in enumerate(("model", "other")):
        tiny_model(seed=seed, text={"max_position_embeddings": 40}).base_model.save_pretrained(folder / name)
        processor = tiny_processor(train)
        processor.tokenizer.model_max_length = 40
        processor.save_pretrained(folder / name)
    state = {"best_model_checkpoint": "x/checkpoint-4", "best_global_step": 4, "global_step": 4}
    (folder / "model" / "trainer_state.json").write_text(json.dumps(state))
    return folder


def run_eval(*words):
    return run_python(REPOSITORY / "run_eval.py", *words)


def test_everything_at_once_over_two_datasets(world):
    model = world / "model"
    done = run_eval(
        *(model, "--config", world / "cuhk_pedes.yaml", world / "rstpreid.yaml", "--num_workers", 0),
        *("--confidence", "--compare", world / "other", "--stress", "--slices", "--check-leaks", "--report"),
        *("--rerank", "k_reciprocal", "--rerank_neighbours", 4),
    )
    assert done.returncode == 0, done.stderr
    assert "chosen on: validation" in done.stdout
    assert "cuhk_pedes/test" in done.stdout
    assert "rstpreid/test" in done.stdout
    assert "test: re-ranked by k_reciprocal" in done.stdout
    assert (
        "note: test has 4 identities: with fewer than 30 the intervals are too narrow; of a comparison" in done.stdout
    )
    assert "note: report.html" not in done.stdout
    assert "Encoding" not in done.stderr  # no progress bars in a log file
    results = json.loads((model / "results.json").read_text())
    assert list(results["splits"]) == ["test", "rstpreid/test"]
    assert results["selected_on"] == "validation"
    assert results["checkpoint"]["name"] == "model"
    for entry in results["splits"].values():
        assert entry["counts"]["captions"] == 24
        assert entry["counts"]["images"] == 12
        assert {"confidence", "comparison", "stress", "slices"} <= entry.keys()
        assert entry["reranking"]["neighbours"] == 4
        for direction in ("text_to_image", "image_to_text"):
            reranked = entry["reranking"][direction]["mAP"]
            assert reranked["other"] == entry[direction]["mAP"]
            assert 0 < reranked["this"] <= 100
        assert 0 <= entry["text_to_image"]["rank1"] <= 100
    names = {"ranking.png", "failures.png", "cmc.png", "selection.png", "stress.png"}
    assert names | {f"rstpreid-test-{name}" for name in names} | {"report.html"} <= {
        path.name for path in model.iterdir()
    }
    with Image.open(model / "ranking.png") as image:
        assert image.width > 1000
    assert str(world) not in (model / "results.json").read_text()


def test_another_split_joins_the_results(world, evaluate, tmp_path):
    words = (world / "model", "--config", world / "cuhk_pedes.yaml", "--num_workers", 0, "--output_dir", tmp_path)
    evaluate(*words)
    before = json.loads((tmp_path / "results.json").read_text())["splits"]
    evaluate(
        *words,
        "--split",
        "validation",
        "--camera_aware",
        "--batch_size",
        5,
        "--selected_on",
        "test",
        "--precision",
        "bfloat16",
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["selected_on"] == "test"
    assert list(results["splits"]) == ["test", "validation"]
    assert results["splits"]["test"] == before["test"]
    assert results["splits"]["validation"]["camera_aware"]
    assert [entry["precision"] for entry in results["splits"].values()] == ["float32", "bfloat16"]
    assert (tmp_path / "validation-ranking.png").is_file()


def test_what_a_plain_evaluation_leaves_out_is_told(world, evaluate, tmp_path, capsys):
    words = (world / "model", "--config", world / "cuhk_pedes.yaml", "--num_workers", 0, "--output_dir", tmp_path)
    evaluate(*words, "--confidence", "--slices", "--report")
    assert "with fewer than 30 the intervals are too narrow." in capsys.readouterr().out
    evaluate(*words)
    printed = capsys.readouterr().out
    assert "note: confidence and slices of the earlier evaluation on test were not asked for" in printed
    assert "note: report.html is that of an earlier evaluation" in printed
    evaluate(*words, "--report")
    assert capsys.readouterr().out.count("note:") == 1  # of few people


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "--config", "cuhk_pedes.yaml"], "no config.json"),
        (["model", "--config", "missing.yaml"], "does not exist"),
        (["model", "--config", "cuhk_pedes.yaml", "--output_dir", "cuhk_pedes.yaml"], "choose another output_dir"),
        (["model", "--rerank", "best"], "k_reciprocal"),
        (["model", "--precision", "float16"], "bfloat16"),
        (["model", "--config", "cuhk_pedes.yaml", "--rerank_neighbours", "201"], "from 1 to 200"),
        (["model", "--config", "cuhk_pedes.yaml", "--dataset_root", "model"], "CUHK-PEDES"),
        (["model", "--config", "cuhk_pedes.yaml", "--annotation_file", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes_end_in_one_sentence(world, evaluate, monkeypatch, capfd, words, message):
    monkeypatch.chdir(world)
    with pytest.raises(SystemExit) as end:
        evaluate(*words)
    assert end.value.code == 2
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in sentence


def test_beside_published_results(world, evaluate, tmp_path, capsys):
    words = (world / "model", "--dataset", "cuhk_pedes", "--num_workers", 0, "--output_dir", tmp_path / "out")
    words = (*words, "--compare_published", "--report", "--dataset_root")
    with pytest.raises(SystemExit):
        evaluate(*words, world / "data")
    assert "not on the test split of rendered images in the layout of cuhk_pedes" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
    real = tmp_path / "data" / "CUHK-PEDES"
    shutil.copytree(world / "data" / "CUHK-PEDES", real)
    (real / "demo.json").unlink()
    evaluate(*words, tmp_path / "data")
    printed = capsys.readouterr().out
    entry = json.loads((tmp_path / "out" / "results.json").read_text())["splits"]["test"]
    first = entry["published"][0]
    assert (first["method"], first["metric"], first["published"]) == ("CFFA", "rank1", 75.44)
    assert first["this"] == entry["text_to_image"]["rank1"]
    assert first["difference"] == pytest.approx(first["this"] - 75.44, abs=1e-3)
    assert [first["low"], first["high"]] == entry["confidence"]["text_to_image"]["rank1"]
    assert first["inside"] == (first["low"] <= 75.44 <= first["high"])
    assert {row["method"] for row in entry["published"]} >= {"CFFA", "RDE", "IRRA"}
    for text in (printed, (tmp_path / "out" / "report.html").read_text()):
        assert "eside published results, text-to-image" in text
        assert "75.44" in text
    with pytest.raises(SystemExit):
        evaluate(*words, tmp_path / "data", "--split", "validation")
    assert "not on the validation split of cuhk_pedes" in capsys.readouterr().err
