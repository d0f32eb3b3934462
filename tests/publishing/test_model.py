"""Publishing: the folder, the round trip over HTTP, refusals, and what a cut connection leaves."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, load_dataset
from huggingface_hub import ModelCard
from PIL import Image
from transformers import CLIPProcessor, Trainer

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.cli import main
from cffa_hf.data.rows import FEATURES
from cffa_hf.demo import write_demo_dataset
from cffa_hf.errors import InputError
from cffa_hf.modeling_cffa import CFFAModel
from cffa_hf.publishing.cards import BEGIN_NOTES, END_NOTES, read_notes
from cffa_hf.publishing.dataset import write_dataset_folder
from cffa_hf.publishing.model import dry_run_model, publish_model
from cffa_hf.publishing.space import publish_space
from cffa_hf.records.run import changed_settings, write_run_record
from cffa_hf.training.start import starting_model
from tests.hub_server import LoopbackHub, running_hub
from tests.processes import without_package
from tests.publishing.test_cards import CUHK_TEST, DEMO_TEST, results, run_record
from tests.tiny import person_rows, tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {
    *("README.md", "config.json", "configuration_cffa.py", "modeling_cffa.py", "model.safetensors"),
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "sentence_cffa.py"),
}
# A fresh process that cannot import this package runs the code of each card.
EMBED = """
import re, sys, torch
from pathlib import Path
from PIL import Image
from huggingface_hub import ModelCard
vectors = []
for name in sys.argv[2:]:
    readme = Path(name) / "README.md"
    card = readme.read_text() if readme.is_file() else ModelCard.load(name).content
    code = re.search(r"```python\\n(.*?)```", card, re.S)[1].replace("owner/model", name)
    for name, width in (("first.jpg", 40), ("second.jpg", 41)):  # without loss, whatever their names say
        Image.linear_gradient("L").resize((width, 90)).save(name, format="PNG")
    code = re.sub(r"captions = .*", 'captions = ["A person in a red shirt and blue trousers.", "yellow top"]', code)
    exec(code)
    vectors += [model.get_image_features(inputs["pixel_values"]).detach(), scores.detach()]
torch.save(vectors, sys.argv[1])
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No Hub at all, unless a test starts one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that the client in this process talks to, too."""
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder: a training checkpoint with its records, and the published model in `published`."""
    folder = tmp_path_factory.mktemp("work") / "run"
    rows = person_rows()
    model, processor = tiny_model(), tiny_processor(rows)
    for target, part in ((folder, model), (folder / "published", model.base_model)):
        part.save_pretrained(target)
        processor.save_pretrained(target)
    history = [{"epoch": 1.0, "loss": 3.0, "loss_identity": 1.0}, {"epoch": 1.0, "eval_rank1": 20.0}]
    state = {"log_history": [*history, {"epoch": 2.0, "loss": 2.0, "loss_identity": 0.5}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "training_args.bin").write_bytes(b"pickle")
    dataset = {"name": "cuhk_pedes", "rendered": True, "splits": {"train": DEMO_TEST}}
    (folder / "run.json").write_text(json.dumps(run_record(dataset=dataset, init_from=None)))
    (folder / "results.json").write_text(json.dumps(results(DEMO_TEST, rendered=True)))
    for name in ("ranking.png", "cmc.png", "failures.png"):
        (folder / name).write_bytes(b"\x89PNG" + name.encode() * 100)
    return folder


def environment(hub: LoopbackHub, home: Path, token: str = "hf_writer") -> dict[str, str]:
    """Environment of a process that knows no Hub but this one, with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PYTHONPATH"))}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "OMP_NUM_THREADS": "1"}
    return kept | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def start(hub: LoopbackHub, home: Path, *words: str | Path, token: str = "hf_writer", package: bool = True):
    """Start Python as a process of its own."""
    env = environment(hub, home, token) | ({"PYTHONPATH": str(REPOSITORY)} if package else {})
    home.mkdir(parents=True, exist_ok=True)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *map(str, words)] if package else without_package(*words)
    return subprocess.Popen(command, env=env, cwd=home, text=True, **pipes)


def run_python(*arguments, **options) -> tuple[int, str, str]:
    """Run such a process to its end: status, output, errors."""
    process = start(*arguments, **options)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def embed_here(folder: Path) -> list[torch.Tensor]:
    """Embed as EMBED does, with the classes of this package."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, processor = CFFAModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    images = [Image.linear_gradient("L").resize((width, 90)).convert("RGB") for width in (40, 41)]
    captions = ["A person in a red shirt and blue trousers.", "yellow top"]
    inputs = processor(text=captions, images=images, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        vectors = [model.get_image_features(inputs["pixel_values"]), model(**inputs).similarity]
    torch.set_num_threads(threads)
    return vectors


def test_dry_run_writes_the_trunk_out_of_a_training_checkpoint(run, tmp_path):
    out = tmp_path / "out"
    dry_run_model(run, out, "owner/model")
    names = {path.name for path in out.iterdir()}
    assert names == FILES | {"run.json", "results.json", "ranking.png", "cmc.png", "training.png"}
    published, trained = CFFAModel.from_pretrained(out).state_dict(), tiny_model().base_model.state_dict()
    assert published.keys() == trained.keys()
    assert all(torch.equal(published[name], trained[name]) for name in trained)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["CFFAModel"]
    assert not any(
        b"/tmp" in path.read_bytes() or str(tmp_path).encode() in path.read_bytes() for path in out.iterdir()
    )
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    dry_run_model(run, out, "owner/model")  # a former dry run is replaced by the same
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_dry_run_keeps_the_notes_beside_the_checkpoint(run, tmp_path, caplog):
    source = tmp_path / "published"
    shutil.copytree(run / "published", source)
    dry_run_model(source, tmp_path / "one", "owner/model")
    text = (tmp_path / "one" / "README.md").read_text()
    (source / "README.md").write_text(text.replace(BEGIN_NOTES, f"{BEGIN_NOTES}\nTried on a campus."))
    dry_run_model(source, tmp_path / "two", "owner/model")
    assert read_notes((tmp_path / "two" / "README.md").read_text(), "card") == "Tried on a campus."
    own = f"---\nlicense: cc-by-nc-4.0\ntags: [film-archive]\n---\n{BEGIN_NOTES}\nMine.\n{END_NOTES}\n"
    (source / "README.md").write_text(own)
    dry_run_model(source, tmp_path / "three", "owner/model")
    card = ModelCard((tmp_path / "three" / "README.md").read_text())
    assert card.data.license == "cc-by-nc-4.0"
    assert "film-archive" in card.data.tags
    assert read_notes(card.content, "card") == "Mine."
    assert "only its metadata" not in caplog.text
    (source / "README.md").write_text(own.replace(BEGIN_NOTES, "").replace(END_NOTES, ""))
    dry_run_model(source, tmp_path / "four", "owner/model")
    assert "README.md: only its metadata goes into the card" in caplog.text
    assert ModelCard((tmp_path / "four" / "README.md").read_text()).data.license == "cc-by-nc-4.0"


def test_auto_map_of_another_repository_is_not_published(run, tmp_path):
    source = tmp_path / "published"
    shutil.copytree(run / "published", source)
    config = json.loads((source / "config.json").read_text())
    config["auto_map"] = {name: f"somebody/else--{value}" for name, value in config["auto_map"].items()}
    (source / "config.json").write_text(json.dumps(config))
    dry_run_model(source, tmp_path / "out", "owner/model")
    assert "somebody" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    ("counts", "rendered", "options", "shown"),
    [
        (CUHK_TEST, None, {}, False),
        (CUHK_TEST, True, {}, False),  # whatever a record claims, these are the counts of the benchmark
        (DEMO_TEST, False, {}, False),  # one's own people
        (DEMO_TEST, None, {}, False),  # not known
        (DEMO_TEST, "yes", {}, False),
        (CUHK_TEST, None, {"private": True}, True),
        (DEMO_TEST, False, {"with_pictures": True}, True),
        (DEMO_TEST, True, {}, True),
    ],
)
def test_pictures_of_people_are_published_only_if_they_are_rendered_or_agreed(
    run, tmp_path, caplog, counts, rendered, options, shown
):
    source = tmp_path / "published"
    shutil.copytree(run / "published", source)
    shutil.copyfile(run / "ranking.png", source / "ranking.png")
    (source / "results.json").write_text(json.dumps(results(counts, rendered=rendered)))
    dry_run_model(source, tmp_path / "out", "owner/model", **options)
    assert (tmp_path / "out" / "ranking.png").exists() == shown
    assert ("ranking.png" in (tmp_path / "out" / "README.md").read_text()) == shown
    assert ("--with-pictures" in caplog.text) != shown


def test_results_of_other_weights_stay_behind(run, tmp_path):
    source = tmp_path / "published"
    shutil.copytree(run / "published", source)
    (source / "results.json").write_text(json.dumps(results(checkpoint={"weights_sha256": "0" * 64})))
    dry_run_model(source, tmp_path / "out", "owner/model")
    assert not (tmp_path / "out" / "results.json").exists()


def test_refusals_name_what_is_wrong(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "broken").mkdir()
    shutil.copyfile(run / "config.json", tmp_path / "broken" / "config.json")
    out = tmp_path / "out"
    for words, message in (
        ((tmp_path / "absent", out, "a/b"), "no such folder"),
        ((tmp_path / "mine", out, "a/b"), r"no config\.json"),
        ((tmp_path / "broken", out, "a/b"), "no weights"),
        ((run, tmp_path / "mine", "a/b"), "not empty"),
        ((run, run, "a/b"), "overwrite"),
        ((run, run.parent, "a/b"), "overwrite"),
        ((run, out, "a b"), "no name of a repository"),
    ):
        with pytest.raises(InputError, match=message):
            dry_run_model(*words)
    weights = (run / "model.safetensors").read_bytes()
    (tmp_path / "broken" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="truncated"):
        dry_run_model(tmp_path / "broken", out, "a/b")
    assert not out.exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.slow
def test_round_trip_without_this_package_is_bit_equal(hub, run, tmp_path):
    script = REPOSITORY / "push_to_hub.py"
    status, output, errors = run_python(hub, tmp_path / "home", script, run, "--repo-id", "model")
    assert status == 0, errors
    assert output.startswith(f"{hub.endpoint}/tester/model/commit/")
    assert f"{run} now goes for everybody to see to model; a repository that is there already" in errors
    repository = hub.model("tester/model")
    assert repository.titles == ["initial commit", "Publish model"]
    names = FILES | {"run.json", "results.json", "ranking.png", "cmc.png", "training.png"}
    assert set(repository.files()) == names | {".gitattributes"}

    dry_run_model(run, tmp_path / "dry", "tester/model")
    for name in names:
        assert (tmp_path / "dry" / name).read_bytes() == repository.files()[name], name
    words = ("-c", EMBED, tmp_path / "vectors.pt", tmp_path / "dry", "tester/model")
    status, output, errors = run_python(hub, tmp_path / "empty", *words, token="hf_reader", package=False)
    assert status == 0, errors
    assert "run the custom code" not in output + errors
    there, here = torch.load(tmp_path / "vectors.pt"), embed_here(tmp_path / "dry")
    assert len(there) == 4
    assert all(torch.equal(one, other) for one, other in zip(there, here + here, strict=True))


def test_who_will_see_a_model_is_told_before_it_goes(hub, run, capsys):
    main(["push", str(run), "--repo-id", "tester/quiet", "--private"])
    assert f"{run} now goes privately to tester/quiet" in capsys.readouterr().err
    assert hub.model("tester/quiet").private


def test_publishing_again_keeps_what_people_did_there(hub, run):
    publish_model(run, "model")
    repository = hub.model("tester/model")
    card = repository.files()["README.md"].decode().replace(BEGIN_NOTES, f"{BEGIN_NOTES}\nFound wanting in fog.")
    repository.commit("main", {**repository.files(), "README.md": card.encode(), "thanks.txt": b"Thanks!"}, "notes")
    publish_model(run / "published", "tester/model")
    files = repository.files()
    assert read_notes(files["README.md"].decode(), "card") == "Found wanting in fog."
    assert "thanks.txt" in files
    assert not {"results.json", "ranking.png", "training.png"} & set(files)  # withdrawn with this publication
    assert len(repository.titles) == 4


def test_a_model_of_the_hub_opens_strictly_and_another_kind_is_not_downloaded(hub, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    publish_model(run / "published", "model")
    repository = hub.model("tester/model")
    opened = open_checkpoint("tester/model", device="cpu")
    assert opened.commit == opened.folder.name
    assert str(opened.output_dir) == "outputs/tester--model"
    trained = tiny_model().base_model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in opened.model.state_dict().items())
    assert not list(opened.folder.glob("*.py"))
    model, _ = starting_model(ModelArguments(init_from="tester/model", image_size=[64, 32]), [], 6)
    assert torch.equal(model.cffa.visual_projection.weight, trained["visual_projection.weight"])

    files = repository.files()
    repository.commit("main", files | {"config.json": b'{"model_type": "llama"}'}, "another model")
    hub.requests.clear()
    with pytest.raises(InputError, match=r"^tester/model: .* holds a llama model"):
        open_checkpoint("tester/model", device="cpu")
    assert not any("safetensors" in line for line in hub.requests)

    config = {"config.json": files["config.json"]}
    weights = {name: value for name, value in files.items() if "safetensors" not in name}
    repository.commit("main", weights | config, "no weights")
    with pytest.raises(InputError, match=r"^tester/model: .*there are no weights"):
        open_checkpoint("tester/model", device="cpu")


def test_push_whose_commit_is_cut_off_can_be_repeated(hub, run):
    hub.break_on = r"POST /api/models/tester/model/commit"
    with pytest.raises(InputError, match=r"broke off.*run the same command again"):
        publish_model(run, "model", private=True)
    repository = hub.model("tester/model")
    assert repository.private
    assert set(repository.files()) == {".gitattributes"}
    hub.break_on = None
    publish_model(run, "model")
    assert set(repository.files()) >= FILES
    uploads = [line for line in hub.requests if line.startswith("PUT")]
    assert len(uploads) == len(set(uploads))  # what had arrived is not sent again


@pytest.mark.slow
def test_push_that_dies_halfway_can_be_repeated(hub, run, tmp_path):
    hub.break_on, hub.break_after = "PUT /lfs/", 100_000
    words = (REPOSITORY / "push_to_hub.py", run / "published", "--repo-id", "tester/model")
    process = start(hub, tmp_path / "home", *words)
    assert hub.breaking.wait(100)
    process.kill()
    process.communicate()
    repository = hub.model("tester/model")
    assert set(repository.files()) == {".gitattributes"}
    hub.break_on = None
    publish_model(run / "published", "tester/model")
    assert repository.files()["model.safetensors"] == (run / "published" / "model.safetensors").read_bytes()
    assert set(repository.files()) == FILES | {"run.json", ".gitattributes"}


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "There is no Hugging Face token"),
        ("hf_reader", "may only read"),
        ("hf_fine", "may not write to tester/model"),
        ("hf_stranger", "does not accept the token"),
    ],
)
def test_token_that_may_not_write(hub, run, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=message) as caught:
        publish_model(run, "tester/model")
    assert "\n" not in str(caught.value)
    assert not hub.repositories


def test_hub_that_is_not_there(hub, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="broke off"):
        publish_model(run, "tester/model")


def test_branch_and_pull_request(hub, run):
    publish_model(run / "published", "tester/model", revision="epoch-60")
    repository = hub.model("tester/model")
    assert set(repository.files("main")) == {".gitattributes"}
    assert set(repository.files("epoch-60")) >= FILES
    assert publish_model(run / "published", "tester/model", create_pr=True).pr_url.endswith("/discussions/1")
    assert set(repository.files("main")) == {".gitattributes"}
    with pytest.raises(InputError, match="exclude each other"):
        publish_model(run / "published", "tester/model", create_pr=True, revision="epoch-60")


def people() -> DatasetDict:
    return DatasetDict(train=person_rows(), test=person_rows(3, first_id=90))


def test_dataset_folder_holds_the_images(tmp_path):
    out = tmp_path / "out"
    write_dataset_folder(people(), out, "my_people", "owner/data", rendered=False)
    assert sorted(path.name for path in (out / "data").iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    again = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert again["train"][0]["image"].size == (32, 64)
    rows = again.cast(FEATURES)
    for split, part in people().items():
        assert rows[split].remove_columns("image").to_list() == part.remove_columns("image").to_list()
        assert [image["bytes"] for image in rows[split]["image"]] == [image["bytes"] for image in part["image"]]


@pytest.mark.slow
def test_push_dataset_is_private_and_loads_back(hub, tmp_path, capsys):
    people().save_to_disk(str(tmp_path / "people"))
    words = ["push-dataset", str(tmp_path / "people"), "--repo-id", "tester/people"]
    assert main(words) == 0
    assert "now go privately as tester/people" in capsys.readouterr().err
    repository = hub.repositories["datasets", "tester/people"]
    assert repository.private
    assert repository.titles == ["initial commit", "Publish dataset"]
    load = (
        "from datasets import load_dataset; data = load_dataset('tester/people');"
        "print({split: (len(rows), rows[0]['person_id'], rows[0]['image'].size) for split, rows in data.items()})"
    )
    status, output, errors = run_python(hub, tmp_path / "empty", "-c", load, token="hf_reader", package=False)
    assert status == 0, errors
    assert "{'train': (12, 40, (32, 64)), 'test': (6, 90, (32, 64))}" in output

    repository.private = False  # somebody opened it: nothing more goes there unasked
    assert main(words) == 2
    assert "is public already" in capsys.readouterr().err
    repository.private = True  # and nothing is said to be public that is not
    assert main([*words, "--public"]) == 2
    assert "is there already and private" in capsys.readouterr().err
    assert len(repository.titles) == 2


def test_licence_is_told_before_a_benchmark_is_published(hub, tmp_path, capsys, monkeypatch):
    write_demo_dataset(tmp_path, identities=(4, 1, 1), images_per_identity=2, workers=1)
    words = ["push-dataset", "cuhk_pedes", "--dataset-root", str(tmp_path), "--repo-id", "tester/people"]
    assert main([*words, "--dry-run", str(tmp_path / "one")]) == 0
    assert "may not be passed on" not in capsys.readouterr().err  # rendered people
    (tmp_path / "CUHK-PEDES" / "demo.json").unlink()
    hub.break_on = "commit"
    with pytest.warns(UserWarning, match="official counts"):
        assert main(words) == 2
    told = capsys.readouterr().err
    assert told.index("CUHK-PEDES may not be passed on") < told.index("now go privately") < told.index("broke off")


@pytest.mark.slow
def test_metric_space_works_by_itself(hub, tmp_path):
    publish_space("metric", "tester/person_retrieval")
    repository = hub.repositories["spaces", "tester/person_retrieval"]
    assert repository.sdk == "gradio"
    for name, content in repository.files().items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code = (
        "import person_retrieval as p, torch; print(p.metrics_from_match_ranks([[1, 2], [3], []]));"
        "e = torch.eye(3); print(p.metrics_from_embeddings(e, [1, 2, 3], e, [1, 2, 3]))"
    )
    status, output, errors = run_python(hub, tmp_path / "space", "-c", code, package=False)
    assert status == 0, errors
    assert "'rank1': 50.0" in output
    assert "'rank1': 100.0" in output
    imported = {name.split("==")[0] for name in repository.files()["requirements.txt"].decode().split()}
    assert imported == {"torch", "numpy", "datasets", "evaluate"}
    assert "app.py" in repository.files()


def test_a_wrong_option_of_a_script_echoes_no_token_and_ends_with_2(tmp_path, monkeypatch, capsys):
    secret = "hf_" + "S3cretS3cretS3cret"
    monkeypatch.setattr(
        sys, "argv", ["push_to_hub.py", str(tmp_path), "--repo-id", "me/x", "--token", "of another shape"]
    )
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / "push_to_hub.py"), run_name="__main__")
    assert end.value.code == 2
    assert "another shape" not in capsys.readouterr().err
    for words in (["--repo-id", "me/x", "--dry-run", str(tmp_path / "x")], ["--repo-id", secret, "--dry-run", "x"]):
        monkeypatch.setattr(sys, "argv", ["push_to_hub.py", str(tmp_path), *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(REPOSITORY / "push_to_hub.py"), run_name="__main__")
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert secret not in error
    with pytest.raises(SystemExit):
        main(["search", "a", "b", "c", "--tokne", "of another shape"])
    assert "another shape" not in capsys.readouterr().err


def test_run_record_names_data_and_differences_but_no_path(tmp_path, monkeypatch):
    rows = people()
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "CUHK-PEDES" / "demo.json").write_text("{}")
    data_args = TrainingDataArguments(dataset="cuhk_pedes", dataset_root=str(tmp_path))
    model_args = ModelArguments(init_from=str(tmp_path), image_size=[64, 32])
    args = CFFATrainingArguments(
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        temperature=0.03,
        flip_probability=0.25,
        report_to="none",
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=args)
    trainer.state.log_history = [{"train_runtime": 12.6}]
    write_run_record(tmp_path / "run", model_args, data_args, args, rows, trainer)
    text = (tmp_path / "run" / "run.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert record["dataset"]["rendered"]
    assert record["dataset"]["splits"]["test"] == {"identities": 3, "images": 6, "captions": 12}
    changed = {setting["name"]: (setting["value"], setting["published"]) for setting in record["settings"]}
    assert changed["temperature"] == (0.03, 0.015)
    assert changed["flip_probability"] == (0.25, 0.5)
    assert changed["image_size"] == ([64, 32], [384, 128])
    assert changed["mal_scale"] == ("temperature", "batch")  # not the same number at this temperature
    assert not {"dataset_root", "output_dir", "learning_rate", "hidden_size"} & set(changed)
    assert record["training"]["seconds"] == 13


def test_the_defaults_differ_from_the_published_recipe_in_precision_and_the_last_batch():
    args = CFFATrainingArguments(use_cpu=True, report_to="none")
    model_args = ModelArguments(image_size=[384, 128])  # as a run records what it took from its weights
    changed = changed_settings(model_args, TrainingDataArguments(dataset="cuhk_pedes"), args)
    assert {setting["name"] for setting in changed} == {"precision", "dataloader_drop_last"}


@pytest.mark.slow
@pytest.mark.parametrize(("token", "status"), [("hf_writer", 0), ("hf_reader", 2)])
def test_training_publishes_at_its_end_or_refuses_before_it_begins(hub, tmp_path, token, status):
    write_demo_dataset(tmp_path / "data", identities=(6, 2, 2), images_per_identity=2, workers=1)
    settings = {
        **{"config": REPOSITORY / "configs" / "demo.yaml", "dataset_root": tmp_path / "data"},
        **{"output_dir": tmp_path / "run", "hidden_size": 64, "projection_dim": 64, "local_dim": 32, "num_layers": 1},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 8, "vocabulary_size": 520},
        **{"push_to_hub": "true", "hub_model_id": "tester/trained"},
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    code, _, errors = run_python(hub, tmp_path / "home", REPOSITORY / "run_train.py", *words, token=token)
    assert code == status, errors
    if status:
        assert "may only read" in errors
        assert not hub.repositories
        assert not (tmp_path / "run" / "model.safetensors").exists()
    else:
        repository = hub.model("tester/trained")
        files = repository.files()
        assert {"README.md", "model.safetensors", "modeling_cffa.py", "run.json", "training.png"} <= set(files)
        assert "training_args.bin" not in files
        assert "End of training" in repository.titles[-1]
        assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
