"""A search for settings: short runs from the same weights, chosen by Optuna, compared on the validation split.

Trials are runs of the Trainer's own `hyperparameter_search`. Optuna's study is a file in `output_dir`: a search that was
killed goes on with the trials that are missing, and tries what it would have tried.
"""

import copy
import dataclasses
import importlib.util
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import yaml
from datasets import Dataset
from torch import nn

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.search_space import Range, SearchSpace, space_record
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.seen import SeenData
from cffa_hf.errors import InputError, LossNotFinite, RunStopped
from cffa_hf.evaluation.callback import RetrievalEvaluationCallback
from cffa_hf.files import write_text
from cffa_hf.names import DIRECTIONS, METRICS, public_name
from cffa_hf.records.run import changed_settings
from cffa_hf.training.batches import fit_arguments, training_transform_of
from cffa_hf.training.lora import training_model
from cffa_hf.training.printing import PrintedLines
from cffa_hf.training.run_folder import refuse_earlier_run, run_lock
from cffa_hf.training.saving import StopOnSignal
from cffa_hf.training.trainer import CFFATrainer

STUDY, SEARCH_RECORD, BEST_SETTINGS = "search.db", "search.json", "best_settings.yaml"
# The one attribute of a study that is not Optuna's: what is searched, on which data, with which other settings.
SUBJECT = "subject"
STATES = {"COMPLETE": "complete", "PRUNED": "not finite", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def refuse_what_cannot_be_searched(args: CFFATrainingArguments) -> None:
    """Say before anything is read why a search cannot be made.

    Args:
        args: With a `search`, which has been checked when they were made.

    Raises:
        InputError: If Optuna is missing, several processes are started, or trials cannot be compared.
    """
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search needs the package optuna: pip install 'cffa_hf[tune]'.")
    if args.world_size > 1 or args.deepspeed or args.fsdp:
        raise InputError(
            "search works in one process, without DeepSpeed and FSDP: accelerate launch --num_processes 1."
        )
    prefixes = {"text_to_image": "eval_", "image_to_text": "eval_image_to_text_"}
    compared = [prefixes[direction] + name for direction in DIRECTIONS for name in METRICS]
    if metric_name(args) not in compared:
        known = ", ".join(compared)
        raise InputError(
            f"search compares trials by metric_for_best_model, and {metric_name(args)} is none of {known}."
        )


def metric_name(args: CFFATrainingArguments) -> str:
    """Name the metric that trials are compared by, as evaluations call it."""
    return "eval_" + str(args.metric_for_best_model).removeprefix("eval_")


def holds_search(folder: str | Path) -> bool:
    """Tell whether a folder holds a search, finished or not."""
    return (Path(folder) / STUDY).is_file()


class StopAtOnce(StopOnSignal):
    """End the search when SIGTERM or SIGINT comes: there is nothing to save, finished trials are on the disk."""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        text = f"\n{signal.Signals(number).name}: the search stops; started again, it goes on with the missing trials\n"
        os.write(2, text.encode())
        raise SystemExit(128 + number)


class SearchTrainer(CFFATrainer):
    """A trainer whose runs are the trials of a search: they start from the same weights and leave nothing behind.

    Args:
        model: As for `CFFATrainer`; every trial starts from a copy of it.
        args: Settings with a `search`. What it names has the values of a trial while that runs, and its own afterwards.
        **kwargs: As for `CFFATrainer`; `training_transform` is made of the settings of each trial.

    Raises:
        InputError: As `CFFATrainer` and `refuse_what_cannot_be_searched`, or if there is no validation split.
    """

    def __init__(self, model: Any, args: CFFATrainingArguments, **kwargs: Any):
        refuse_what_cannot_be_searched(args)
        if not isinstance(kwargs.get("eval_dataset"), Dataset):
            raise InputError(
                "search compares trials on one validation split, and there is none: set validation_identities."
            )
        args.disable_tqdm = True
        args.save_strategy, args.load_best_model_at_end = "no", False
        self._first_model = copy.deepcopy(model)
        super().__init__(model, args, **kwargs)
        self.model_init = self._new_model
        self.space: SearchSpace = args.search_space()
        self._own_settings = {each.name: getattr(args, each.name) for each in dataclasses.fields(args)}
        for callback in (self.stop_on_signal, RetrievalEvaluationCallback, PrintedLines):
            self.pop_callback(callback)
        self.stop_on_signal = StopAtOnce()
        self._started = True  # whether the folder may be used is asked by the search, not by each of its trials

    def _new_model(self) -> nn.Module:
        """Copy the first weights, which draws nothing: random generators stand as in a run that is no trial."""
        model = copy.deepcopy(self._first_model)
        self.fit_layers(model)
        return model

    def _set_settings(self, changes: Mapping[str, Any]) -> None:
        for name, value in {**self._own_settings, **changes}.items():
            setattr(self.args, name, value)

    def _hp_search_setup(self, trial: Any) -> None:
        """Begin a trial with its own settings, and with nothing of the trial before."""
        # The Trainer would cast values of a trial to the types of those before: 0.5 to 0 where the run has 1.
        self._set_settings({} if trial is None else suggest(trial, self.space))
        super()._hp_search_setup(trial)
        fit_arguments(self.args, self.train_dataset, self.eval_dataset)
        config = training_model(self.model).config
        self.training_transform = training_transform_of(self.args, config, self.processing_class)
        self._batch_of_step = (-1, 0)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `CFFATrainer` does.

        Raises:
            TrialPruned: If a loss is not finite: the trial is over, and the search goes on with other settings.
        """
        import optuna

        try:
            return super().train(*args, **kwargs)
        except LossNotFinite as error:
            self.model = self.model_wrapped = None
            self.accelerator.free_memory()
            raise optuna.TrialPruned(str(error)) from None

    def _best_so_far(self, metrics: dict[str, float]) -> float:
        """Return the best of the evaluations of the running trial."""
        value, before = metrics[metric_name(self.args)], self.objective
        return value if before is None else max(value, before) if self.args.greater_is_better else min(value, before)

    def search(self, subject: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run the trials that are missing, and write what came of all.

        Args:
            subject: What is searched, as `search_subject` describes it: only trials of the same can be compared.

        Returns:
            The settings of the best trial.

        Raises:
            InputError: If the folder is in use, or holds an earlier run, another search, or one that cannot be read.
            RunStopped: If the study cannot be written, or the loss was finite in no trial.
            SystemExit: After SIGTERM (status 143) or SIGINT (130).
        """
        folder = Path(self.args.output_dir)
        with run_lock(folder):
            refuse_earlier_run(folder, resuming=holds_search(folder), overwrite=self.args.overwrite_output_dir)
            return self._search_in(folder, subject)

    def _search_in(self, folder: Path, subject: Mapping[str, Any] | None) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        signals = StopAtOnce()
        study, storage = open_study(folder, self.args, dict(subject or {}) | {"space": space_record(self.space)})
        signals.install()
        try:
            with _explained_storage(folder):
                while (done := len(finished_trials(study))) < self.args.search_trials:
                    self._run_trial(study, storage, done)
                    write_search(folder, study, self.args)
                    print(trial_line(study, self.args), flush=True)
                write_search(folder, study, self.args)
                best = best_trial(study)
        finally:
            signals.uninstall()
            self._set_settings({})
            storage.engine.dispose()
        if best is None:
            raise RunStopped(
                f"the loss was finite in none of {done} trials: search smaller rates, with overwrite_output_dir true or in "
                "another output_dir."
            )
        print(f"best of {done} trials: {trial_words(best, self.args)}; its settings are in {folder / BEST_SETTINGS}")
        return dict(best.params)

    def _run_trial(self, study: Any, storage: Any, done: int) -> None:
        """Run one trial; what it tries depends on the seed and on the `done` trials before."""
        import optuna

        seed = int(np.random.SeedSequence([self.args.seed, done]).generate_state(1)[0])
        try:
            self.hyperparameter_search(
                hp_space=lambda trial: suggest(trial, self.space),
                compute_objective=self._best_so_far,
                hp_name=lambda trial: f"trial-{trial.number}",
                n_trials=1,
                direction=study.direction.name.lower(),
                backend="optuna",
                study_name=study.study_name,
                storage=storage,
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=seed, multivariate=False),
                pruner=optuna.pruners.NopPruner(),
            )
        except ValueError as error:
            # It asks for the best trial at once, and there is none as long as no loss was finite.
            if isinstance(error, InputError) or study.trials[-1].state.name != "PRUNED":
                raise


def suggest(trial: Any, space: SearchSpace) -> dict[str, Any]:
    """Let a trial of Optuna choose within a space."""
    values: dict[str, Any] = {}
    for name, bounds in space.items():
        if not isinstance(bounds, Range):
            values[name] = trial.suggest_categorical(name, bounds.values)
        elif bounds.whole:
            values[name] = trial.suggest_int(name, int(bounds.low), int(bounds.high), log=bounds.log)
        else:
            values[name] = trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log)
    return values


def search_subject(
    model_args: ModelArguments, data_args: TrainingDataArguments, args: CFFATrainingArguments, seen: SeenData | None
) -> dict[str, Any]:
    """Describe all that the results of trials depend on, besides the space.

    Args:
        model_args: Of the run.
        data_args: Of the run.
        args: Of the run.
        seen: What the run sees; its newest dataset counts.

    Returns:
        `data`, fingerprints by split, and `settings` by name, where they differ from the published recipe.
    """
    changes = changed_settings(model_args, data_args, args)
    settings = {change["name"]: change["value"] for change in changes if change["name"] not in args.search_space()}
    settings |= {"init_from": public_name(model_args.init_from), "seed": args.seed}
    settings |= {"metric_for_best_model": metric_name(args), "greater_is_better": bool(args.greater_is_better)}
    settings.pop("load_best_model_at_end", None)  # trials save nothing
    splits = seen.datasets[-1].splits if seen else {}
    data = {split: splits[split].fingerprint for split in ("train", "validation") if split in splits}
    return {"data": data, "settings": settings}


def open_study(folder: Path, args: CFFATrainingArguments, subject: dict[str, Any]) -> tuple[Any, Any]:
    """Open the study of a folder, or begin one; trials that a killed process left are over.

    Args:
        folder: `output_dir`, which no other process uses.
        args: Of the run; `overwrite_output_dir` begins anew.
        subject: What is searched, fit for JSON.

    Returns:
        The study and its storage.

    Raises:
        InputError: If the study is of another search, or cannot be read.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    path = folder / STUDY
    if args.overwrite_output_dir:
        for name in (STUDY, f"{STUDY}-journal", SEARCH_RECORD, BEST_SETTINGS):
            (folder / name).unlink(missing_ok=True)
    remedy = "give another --output_dir, or set --overwrite_output_dir true to begin anew"
    try:
        address = f"sqlite:///{path.resolve()}".replace("{", "{{").replace("}", "}}")  # Optuna fills braces in
        storage = optuna.storages.RDBStorage(address)
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if args.greater_is_better else directions.MINIMIZE
        study = optuna.create_study(study_name="search", storage=storage, load_if_exists=True, direction=direction)
        subject = json.loads(json.dumps(subject))
        found = study.user_attrs.get(SUBJECT)
        if found is None:
            study.set_user_attr(SUBJECT, found := subject)
        if found == subject:
            for trial in study.get_trials(deepcopy=False):
                if not trial.state.is_finished():
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            return study, storage
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise InputError(f"{path} cannot be used as a study ({_reason(error)}); {remedy}.") from error
    raise InputError(f"{folder} holds a search with other {difference(found, subject)}: {remedy}.")


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the first things in which two subjects differ."""
    for part, words in {"space": "bounds or choices", "data": "data", "settings": "settings"}.items():
        one, other = found.get(part) or {}, wanted.get(part) or {}
        names = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
        if names:
            return f"{words} ({', '.join(names[:3])})"
    return "settings"


def finished_trials(study: Any) -> list[Any]:
    """Return the trials that count: those that came to an end, with a finite loss or without."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]


def best_trial(study: Any) -> Any:
    """Return the first of the best trials, or None if none has a value."""
    sign = 1 if study.direction.name == "MAXIMIZE" else -1
    complete = [trial for trial in finished_trials(study) if trial.state.name == "COMPLETE"]
    return max(complete, key=lambda trial: sign * trial.value, default=None)


def trial_words(trial: Any, args: CFFATrainingArguments) -> str:
    """Say what came of a trial."""
    value = f"{metric_name(args)} {trial.value:.2f}" if trial.state.name == "COMPLETE" else "the loss is not finite"
    return f"{value}, trial {trial.number}"


def trial_line(study: Any, args: CFFATrainingArguments) -> str:
    """Say on one line what came of the newest trial, and which one is the best so far."""
    done, best = finished_trials(study), best_trial(study)
    values = sorted(done[-1].params.items())
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values)
    best_words = f" (best: {trial_words(best, args)})" if best is not None else ""
    return f"{len(done)} of {args.search_trials} trials: {trial_words(done[-1], args)}{best_words}: {', '.join(shown)}"


def write_search(folder: Path, study: Any, args: CFFATrainingArguments) -> None:
    """Write `search.json`, and `best_settings.yaml` as soon as there is a best trial.

    Raises:
        InputError: If they cannot be written.
    """
    best, done = best_trial(study), len(finished_trials(study))
    trials = [
        {
            "number": trial.number,
            "state": STATES[trial.state.name],
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "settings": dict(sorted(trial.params.items())),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    record = {
        "format": 1,
        "metric": metric_name(args),
        "greater_is_better": bool(args.greater_is_better),
        **study.user_attrs[SUBJECT],
        "best": None if best is None else best.number,
        "trials": trials,
    }
    write_text(folder / SEARCH_RECORD, json.dumps(record, indent=2) + "\n")
    if best is not None:
        head = (
            f"# {trial_words(best, args)}, the best of {done} trials, each the best of its evaluations on validation.\n"
        )
        head += "# Give this file after the configs of the search's other settings: the later one wins.\n"
        text = yaml.safe_dump(dict(sorted(best.params.items())), sort_keys=False)
        write_text(folder / BEST_SETTINGS, head + text)


@contextmanager
def _explained_storage(folder: Path) -> Iterator[None]:
    """Say in one sentence that the study cannot be written."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunStopped(
            f"{folder / STUDY} could not be written ({_reason(error)}): make room; started again, the search goes on with "
            "the missing trials."
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())[:160]
