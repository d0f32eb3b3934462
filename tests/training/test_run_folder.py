"""One run at a time in a folder, and none over another one by mistake."""

import json
import signal
from pathlib import Path

import pytest

from cffa_hf.errors import InputError
from cffa_hf.training.run_folder import refuse_earlier_run, run_lock
from tests.processes import CONTEXT, Run, write_people


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "trainer_state.json", "checkpoint-12/"])
def test_an_earlier_run_is_refused_unless_it_is_resumed_or_overwritten(tmp_path, name):
    refuse_earlier_run(tmp_path, resuming=False, overwrite=False)
    (tmp_path / "results.json").write_text("{}")  # an evaluation may have been first
    refuse_earlier_run(tmp_path, resuming=False, overwrite=False)
    (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=rf"{name.strip('/')}.*--resume_from_checkpoint auto.*--overwrite_output_dir"):
        refuse_earlier_run(tmp_path, resuming=False, overwrite=False)
    refuse_earlier_run(tmp_path, resuming=True, overwrite=False)
    refuse_earlier_run(tmp_path, resuming=False, overwrite=True)


def test_the_newest_checkpoint_is_named(tmp_path):
    for step in (2, 15, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(InputError, match="checkpoint-15"):
        refuse_earlier_run(tmp_path, resuming=False, overwrite=False)


def hold(folder, ready):
    with run_lock(folder):
        ready.set()
        signal.pause()


def test_a_second_run_is_refused_by_name_and_a_dead_one_holds_nothing(tmp_path):
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match=rf"in use by another program \(process {process.pid} on "), run_lock(tmp_path):
        pass
    assert json.loads((tmp_path / ".run.holder").read_text())["process"] == process.pid
    process.kill()
    process.join()
    with run_lock(tmp_path), run_lock(tmp_path):  # the trainer asks again within the script
        pass
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("data") / "people")


@pytest.mark.slow
def test_runs_do_not_overwrite_each_other(data, tmp_path):
    folder = tmp_path / "run"
    first = Run(folder, data, num_train_epochs=60, save_steps=100)
    first.wait_for_step(2)
    second = Run(folder, data)
    assert second.end() == 2
    assert f"in use by another program (process {first.process.pid} " in second.output()
    assert first.end() == 0, first.output()

    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = Run(folder, data)
    assert again.end() == 2
    assert "holds an earlier run" in again.output()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files

    # Results of the first weights do not stay beside the second.
    (folder / "results.json").write_text(json.dumps({"checkpoint": {"weights_sha256": "abcdef" * 8}}))
    for name in ("ranking.png", "cuhk_pedes-test-cmc.png", "report.html"):
        (folder / name).write_text(name)
    (folder / "mine.png").write_text("mine")
    over = Run(folder, data, overwrite_output_dir="true", seed=1)
    assert over.end() == 0, over.output()
    assert "results that were measured on other weights are now in results-abcdefab/" in over.output()
    aside = {path.name for path in (folder / "results-abcdefab").iterdir()}
    assert aside == {"results.json", "ranking.png", "cuhk_pedes-test-cmc.png", "report.html"}
    assert (folder / "mine.png").exists()
    assert not (folder / "results.json").exists()
    assert not (folder / ".run.holder").exists()


SECRET = "hf_" + "S3cretS3cretS3cret"


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_token_reaches_no_file_and_no_output(data, tmp_path):
    run = Run(tmp_path / "run", data, hub_token=SECRET, max_steps=2, report_to="tensorboard")
    assert run.end() == 0, run.output()
    assert list((tmp_path / "run").glob("checkpoint-*/training_args.bin"))
    assert SECRET.encode() not in everything(tmp_path / "run")
    assert SECRET not in run.output()
