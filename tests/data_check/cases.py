"""Damaged folders: what loading says of them, what the check says, and what becomes of a copy without errors."""

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from cffa_hf.data.checks import check_images
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data_check import Report, check_dataset, write_fixed
from cffa_hf.errors import InputError
from tests.fuzz.targets import TARGETS, Target

KINDS = {target.name: target for target in TARGETS[:7]}
NAMES = ("cuhk_pedes", "icfg_pedes", "rstpreid")


def refusal(folder: Path, name: str | None) -> str:
    """Return why training would not begin; an empty text if it would."""
    try:
        check_images(load_person_dataset(name or folder, folder if name else None), progress=False)
    except InputError as error:
        return str(error)
    return ""


def errors_of(report: Report) -> list[str]:
    """Return the sentences of all errors."""
    return [finding.sentence for finding in report.findings if finding.severity == "error"]


def try_case(whole: Path, work: Path, name: str | None, damage: Callable[[Path], object], fixes: bool = True) -> str:
    """Damage a copy of a folder; return what contradicts, or an empty text.

    Args:
        whole: The folder.
        work: A new folder.
        name: Of the benchmark or set.
        damage: What is done to the copy.
        fixes: Whether a copy without errors is written.
    """
    folder, out = work / "data", work / "fixed"
    shutil.copytree(whole, folder, symlinks=True)
    done = damage(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = refusal(folder, name)
        report = check_dataset(folder, name, progress=False)
        errors = errors_of(report)
        if bool(refused) != bool(errors):
            return f"{done}: loading says {refused!r}, the check {errors}"
        if fixes:
            try:
                write_fixed(folder, out, report, name, progress=False)
            except InputError as error:
                return "" if not out.exists() and errors else f"{done}: not fixed: {error}"
            if (left := refusal(out, name)) or errors_of(check_dataset(out, name, progress=False)):
                return f"{done}: the copy is refused: {left}"
    return ""


def damaged(kind: str, seed: int) -> Callable[[Path], str]:
    """Return what does one to three random damages to a folder."""
    target: Target = KINDS[kind]

    def damage(folder: Path) -> str:
        rng = random.Random(f"{kind}-{seed}")
        done = []
        for _ in range(rng.choice((1, 1, 3))):
            try:
                done.append(target.damage(folder, rng))
            except (OSError, ValueError, IndexError, RecursionError):  # the file of an earlier damage is none any more
                break
        return "; ".join(done)

    return damage
