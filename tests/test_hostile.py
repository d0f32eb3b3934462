"""Hostile input that reaches several rooms: settings, secrets, names and records, each refused in one sentence."""

import ast
import json
import os
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest

from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.cli import main
from cffa_hf.command_line import guarded
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.errors import InputError, RunStopped, keep_secret, mask_tokens
from cffa_hf.json_files import LARGEST, parse_json, read_json, read_object
from cffa_hf.records.files import read_record
from cffa_hf.search.folders import find_images
from cffa_hf.search.indexes.addresses import parse_address
from cffa_hf.search.items import TABLE, Items
from cffa_hf.training.batches import check_best_metric
from tests.tiny import person_rows

PACKAGE = Path(__file__).resolve().parents[1] / "cffa_hf"
DEEP, LONG = "[" * 100_000, "9" * 5000


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert len(text) <= 500
    assert "\n" not in text
    assert text.endswith(".")
    return text


# Settings

OUT_OF_RANGE = {
    "num_train_epochs": "0 -1 nan inf", "max_steps": "0 -5", "seed": "-1 4294967296", "data_seed": "-1", "split_seed": "-1",
    "per_device_train_batch_size": "-1 0", "per_device_eval_batch_size": "-1 0", "gradient_accumulation_steps": "-1 0",
    "learning_rate": "-1 nan inf", "refinement_learning_rate": "-1 nan", "bias_rate_factor": "-1", "head_rate_factor": "nan",
    "weight_decay": "-1 nan", "adam_epsilon": "-1 nan", "adam_beta1": "2", "adam_beta2": "-1", "max_grad_norm": "-1 nan",
    "warmup_epochs": "-1 nan", "warmup_start": "-5 nan 2", "logging_steps": "0 -1 nan", "save_total_limit": "0 -1",
    "save_steps": "-1", "dataloader_num_workers": "-1 1000000", "crop_padding": "-1 1000000000", "neftune_noise_alpha": "-1",
    "num_layers": "0 1000000000", "hidden_size": "-64 0 1000000000", "projection_dim": "0", "local_dim": "-1",
    "cross_modal_layers": "-1 1000000000", "patch_size": "0", "stride": "-1", "context_length": "0 -1 1000000000",
    "text_attention_dropout": "2 nan", "caption_noise_seed": "-1", "report_to": "x", "metric_for_best_model": "nonsense rank2",
    "temperature": "0 nan", "margin": "nan", "mlm_probability": "nan", "lora": f"{DEEP} [3]", "datasets": f"{DEEP} {{}}",
    "search": f"{DEEP} {LONG}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values.split()]
)
def test_settings_that_no_run_can_have_are_refused_at_once(tmp_path, name, value):
    given = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    given += [] if name == "datasets" else ["--dataset", "x"]
    with pytest.raises(InputError, match=name) as error:
        parse_arguments([*given, f"--{name}={value}"])
    one_sentence(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["0x" + "f" * 9000, '"\\0"', '"\\ud800"', "[0x" + "f" * 9000 + "]"])
def test_values_of_a_config_that_are_none(tmp_path, value):
    (tmp_path / "a.yaml").write_text(f"dataset: x\nrun_name: {value}\n")
    with pytest.raises(InputError, match="sets run_name to a") as error:
        parse_arguments(["--config", str(tmp_path / "a.yaml"), "--output_dir", str(tmp_path)])
    one_sentence(error)


def test_a_date_of_no_year_in_a_column_that_nobody_reads(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = person_rows(1, 1)[0]
    (tmp_path / "0.png").write_bytes(row["image"]["bytes"])
    table = pa.table({"file_name": ["0.png"], "caption": ["a red coat"], "person_id": [1]})
    pq.write_table(table.append_column("taken", pa.array([2**62], pa.timestamp("us"))), tmp_path / "metadata.parquet")
    with pytest.raises(InputError, match=r"metadata\.parquet: the file cannot be read") as error:
        load_person_dataset(tmp_path)
    one_sentence(error)


def test_an_image_size_of_a_million_is_refused(tmp_path):
    words = ["--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true", "--image_size", "1000000", "64"]
    with pytest.raises(InputError, match="image_size must be from 1 to 8,192, got 1,000,000"):
        parse_arguments(words)


@pytest.mark.parametrize(
    ("metric", "evaluated", "allowed"),
    [
        ("eval_rank1", ["a"], True),
        ("image_to_text_mAP", ["a"], True),
        ("eval_near_rank1", {"near": []}, True),
        ("eval_near_rank1", ["a"], False),
        ("eval_rank1", {"near": []}, False),
        ("eval_near_rank1", None, True),
    ],
)
def test_the_best_checkpoint_is_told_by_a_metric_of_the_run(tmp_path, metric, evaluated, allowed):
    words = ["--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true", "--metric_for_best_model", metric]
    *_, args = parse_arguments(words)
    if allowed:
        check_best_metric(args, evaluated)
        return
    with pytest.raises(InputError, match="the evaluations of this run have") as error:
        check_best_metric(args, evaluated)
    one_sentence(error)


# Secrets


def test_no_secret_is_printed_or_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    secrets = {
        **{
            "HF_TOKEN": "odd-shape-of-a-token",
            "WANDB_API_KEY": "0123456789abcdef" * 2,
            "PGPASSWORD": "postgres-pass-1",
        },
        **{"CFFA_HF_SERVICE_KEY": "first-key-of-two-16,second-key-of-two", "QDRANT_API_KEY": "qdrant-secret"},
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    *_, args = parse_arguments(
        ["--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true", "--hub_token", "given-on-the-line"]
    )
    parse_address("postgresql://me:in-the-address@host/db?sslpassword=of-the-key#lobby")
    told = [
        *secrets.values(),
        "second-key-of-two",
        args.hub_token,
        "in-the-address",
        "of-the-key",
        "wandb_v1_abcdef0123",
    ]
    told += ["hf_" + "a1" * 17, "https://user:pass@proxy"]
    for kind in (InputError, RunStopped, KeyError):
        for words in ([], ["--debug"]):

            def main(_, kind=kind):
                raise kind(" ".join(told)) from ValueError(f"tried {told}")

            assert guarded(main, words) in (1, 2)
    printed = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.glob("cffa-hf-error-*"))
    assert "Traceback" in printed.err
    assert "Traceback" in written
    for secret in [*told[:-1], "user:pass"]:
        assert secret not in printed.out + printed.err + written


def test_words_that_look_like_none_stay():
    for text in ("cffa_hf_publishing", "postgresql://user@host/db#name", "http://host:6333/a", "the key is too short"):
        assert mask_tokens(text) == text
    keep_secret(None, "", "red")
    assert mask_tokens("a red coat") == "a red coat"


# Names


def test_words_that_are_no_text_are_refused(capsys):
    for word in ("caf\udce9", "a\0b"):
        assert guarded(lambda words: 0, ["search", word]) == 2
        assert "which is no UTF-8 text" in capsys.readouterr().err


def test_an_empty_name_is_not_the_working_directory(capsys):
    for words in (["search", "", "a red coat"], ["index", "", "out"], ["push", "--repo-id", "a/b", ""]):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("error: The command line holds an empty word")


def test_warnings_are_one_printable_line(capsys):
    former = warnings.formatwarning

    def main(words):  # pytest collects warnings itself, so that what Python would print is asked for
        print(warnings.formatwarning("first\nsecond \x1b[31m hf_abcdefghijkl", UserWarning, __file__, 1), end="")

    assert guarded(main, []) == 0
    assert capsys.readouterr().out == "warning: first second ?[31m hf_...\n"
    assert warnings.formatwarning is former


def test_images_whose_names_no_record_can_hold_are_left_out(tmp_path):
    content = person_rows(1)[0]["image"]["bytes"]
    (tmp_path / "a.png").write_bytes(content)
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(content)
    except OSError:
        pytest.skip("the file system has no such names")
    with pytest.warns(UserWarning, match=r"1 names are no UTF-8 and are left out, the first is .*caf\\udce9\.png"):
        assert find_images(tmp_path) == [str(tmp_path / "a.png")]


# Records and data


def test_json_is_read_from_regular_files_of_a_bounded_size(tmp_path):
    path = tmp_path / "trainer_state.json"
    for content in (DEEP, f'{{"a": {LONG}}}', "{", "", "\ud800"):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        for read in (read_json, read_object, read_record):
            with pytest.raises(InputError, match=r"trainer_state\.json cannot be read as JSON") as error:
                read(path)
            one_sentence(error)
    path.write_text("[1]")
    assert read_json(path) == [1]
    with pytest.raises(InputError, match="no JSON file with names and values"):
        read_object(path)
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InputError, match="no file of at most 128 MiB"):
        read_json(path)
    path.unlink()
    assert read_record(path) == {}
    os.mkfifo(path)  # whose reading would wait for ever
    for read in (read_json, read_record):
        with pytest.raises(InputError, match="no file of at most"):
            read(path)
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(DEEP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "a\ud800.png"}, "is no UTF-8 text; rename the image"),
        ({"camera": "\udce9"}, "as 'camera'; it must be text or a whole number"),
        ({"captions": ["ab" * 10_001]}, "of 20,002 characters, but at most 20,000 are read; shorten it"),
    ],
)
def test_rows_that_no_dataset_can_hold_are_named(tmp_path, changes, message):
    rows = []
    for number, row in enumerate(person_rows(3, 1)):
        (tmp_path / f"{number}.png").write_bytes(row["image"]["bytes"])
        rows.append({"file_name": f"{number}.png", "captions": row["captions"], "person_id": number})
    rows[1] |= changes
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=message) as error:
        load_person_dataset(tmp_path)
    assert "row 2" in one_sentence(error)


def test_a_path_of_a_gallery_that_is_no_text_is_found_out(tmp_path):
    items = Items(tmp_path, 4, create=True)
    items.append(["a.png", "b.png"], np.eye(2, 4), [{}, {}])
    with sqlite3.connect(tmp_path / TABLE) as base:
        base.execute("UPDATE items SET path = x'ff00' WHERE id = 1")
    assert items.get([0])[0][0] == "a.png"
    with pytest.raises(InputError, match="the path of image 1 is no text") as error:
        items.get([0, 1])
    one_sentence(error)


@pytest.mark.parametrize("kind", ["outside", "custom"])
def test_a_graph_that_reaches_out_of_its_folder_is_refused(tmp_path, kind):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from cffa_hf.inference.onnx_model import OnnxTower

    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "export"
    folder.mkdir()
    given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy")
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4], [0.0] * 4)
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    outside = kind == "outside"
    node = onnx.helper.make_node(*(("Add", ["x", "w"], ["y"]) if outside else ("Run", ["x"], ["y"])))
    node.domain = "" if outside else "evil"
    graph = onnx.helper.make_graph([node], "g", [given], [made], [weight] if outside else [])
    versions = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("evil", 1)]
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=9)
    (folder / "image.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="cannot be read") as error:
        OnnxTower(folder / "image.onnx")
    one_sentence(error)


SAFE = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
REFUSED = (
    "pickle.load",
    "pickle.loads",
    "torch.jit.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
    "os.system",
)


def test_nothing_is_unpickled_or_evaluated():
    calls = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in REFUSED, f"{path}: {name}"
            if name in SAFE:
                calls += 1
                assert given.get(SAFE[name]) == ("True" if name == "torch.load" else "False"), f"{path}: {name}"
            if name == "yaml.load":
                assert ast.unparse(node.args[1]) == "SettingsLoader"
            assert given.get("trust_remote_code", "False") == "False", f"{path}: {name}"
            assert given.get("shell") != "True", f"{path}: {name}"
    assert calls >= 3
