"""What `from cffa_hf import ...` gives, and what it does not cost."""

import subprocess
import sys
from pathlib import Path

import pytest

import cffa_hf
from cffa_hf.arguments import CFFATrainingArguments
from cffa_hf.cli import main
from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.data.seen import read_seen
from cffa_hf.errors import InputError
from tests.tiny import person_rows

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {"init_from": None, "hidden_size": 64, "num_layers": 1, "projection_dim": 32, "local_dim": 16}
SMALL |= {"cross_modal_layers": 1, "vocabulary_size": 560, "image_size": [32, 16], "context_length": 24}


def test_every_public_name_is_there_and_no_other():
    for name in cffa_hf.__all__:
        assert getattr(cffa_hf, name) is not None
        assert name in dir(cffa_hf)
    with pytest.raises(AttributeError, match="no attribute 'Galery'"):
        cffa_hf.Galery


def test_importing_the_package_brings_nothing_but_the_model():
    code = (
        "import sys, cffa_hf; heavy = {'datasets', 'evaluate', 'matplotlib', 'accelerate', 'peft'} & set(sys.modules);"
        "print(sorted(heavy)); print(cffa_hf.retrieval_metrics.__module__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=120)
    loaded, module = done.stdout.splitlines()
    assert "datasets" not in loaded
    assert "matplotlib" not in loaded
    assert "evaluate" not in loaded
    assert module == "cffa_hf.metrics.averages"


NEEDED = {"train": ["--dataset", "x", "--output_dir", "y"], "evaluate": ["x"], "push": ["x", "--repo-id", "me/x"]}


@pytest.mark.parametrize("program", sorted(NEEDED))
def test_the_scripts_are_commands_and_their_mistakes_end_with_2(program, capsys):
    try:
        status = main([program, *NEEDED[program], "--nonsense_", "x"])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert "--nonsense_" in capsys.readouterr().err


@pytest.mark.slow
def test_training_from_python_makes_pairs_collator_and_transform_by_itself(tmp_path):
    data = PersonDatasetDict(
        {"train": person_rows(8), "validation": person_rows(3, first_id=90)}, Division(how="source")
    )
    model, processor = cffa_hf.model_for(data["train"], **SMALL)
    args = CFFATrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        caption_corruption=0.0,
    )
    trainer = cffa_hf.CFFATrainer(
        model, args, train_dataset=data["train"], eval_dataset=data["validation"], processing_class=processor
    )
    assert trainer.training_transform.caption_corruption == 0
    trainer.train()
    trainer.save_published()
    checkpoint = cffa_hf.open_checkpoint(tmp_path / "run", device="cpu")
    assert set(read_seen(checkpoint.folder).datasets[0].splits) == {"train", "validation"}
    assert any("eval_rank1" in entry for entry in trainer.state.log_history)


def test_data_that_do_not_fit_the_model_are_refused_before_training(tmp_path):
    rows = person_rows(8)
    model, processor = cffa_hf.model_for(person_rows(4), **SMALL)
    args = CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(InputError, match=r"8 identities, but the model's classifier has 4 classes.*num_identities=8"):
        cffa_hf.CFFATrainer(model, args, train_dataset=rows, processing_class=processor)
    with pytest.raises(InputError, match="no column captions"):
        cffa_hf.CFFATrainer(model, args, train_dataset=rows.remove_columns("captions"), processing_class=processor)
    with pytest.raises(InputError, match="hidden_sise"):
        cffa_hf.model_for(rows, hidden_sise=3)
