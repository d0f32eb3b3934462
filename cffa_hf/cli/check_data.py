"""`cffa-hf check-data`: all problems of a dataset, or a copy without them."""

import argparse
import json

from cffa_hf.data_check import Fixed, Report, check_dataset, check_target, find_place, write_fixed
from cffa_hf.data_check.findings import KINDS
from cffa_hf.data_check.fixing import CHANGES
from cffa_hf.errors import InputError, mask_tokens
from cffa_hf.reporting.tables import format_table

LINES = 5
"""Findings of one kind that are printed."""


def run(arguments: argparse.Namespace) -> int:
    """Check, print what was found, and write the copy.

    Returns:
        0; 2 if there are errors and no copy without them was asked for.
    """
    if arguments.link and not arguments.fix:
        raise InputError("--link goes with --fix only; give a folder for the copy, or leave --link out.")
    if arguments.fix:
        check_target(find_place(arguments.root, arguments.dataset), arguments.fix)
    report = check_dataset(
        arguments.root,
        arguments.dataset,
        validation_identities=arguments.validation_identities,
        test_identities=arguments.test_identities,
        seed=arguments.split_seed,
    )
    fixed = None
    try:
        if arguments.fix:
            fixed = write_fixed(arguments.root, arguments.fix, report, arguments.dataset, link=arguments.link)
    finally:  # what was found is told even where nothing can be written
        print(as_json(report, fixed) if arguments.json else as_text(report, fixed))
    return 2 if report.number("error") and fixed is None else 0


def as_json(report: Report, fixed: Fixed | None) -> str:
    """Return everything that was found as a JSON document."""
    content = report.to_dict()
    if fixed is not None:
        numbers = {action.replace(" ", "_"): fixed.number(action) for action in ("left out", "changed")}
        content["fixed"] = {"folder": fixed.folder, "rows": fixed.rows, "images": fixed.images, **numbers}
    return mask_tokens(json.dumps(content, indent=2, ensure_ascii=False))


def as_text(report: Report, fixed: Fixed | None) -> str:
    """Return what was found as tables, and the first findings of each kind."""
    parts = [f"{report.root}: {report.dataset}"]
    if report.splits:
        lines = [["split", "identities", "images", "captions"]]
        lines += [[split, *(f"{number:,}" for number in counts)] for split, counts in report.splits.items()]
        parts.append(format_table(lines))
    found = list(report.by_kind())
    if found:
        lines = [["severity", "problem", "number"]]
        lines += [[KINDS[kind], kind, f"{len(findings):,}"] for kind, findings in found]
        parts.append(format_table(lines, left=2))
    for kind, findings in found:
        shown = [f"  {finding.sentence}" for finding in findings[:LINES]]
        if len(findings) > LINES:
            shown.append(f"  ... and {len(findings) - LINES:,} more; --json lists all")
        parts.append("\n".join([f"{KINDS[kind]}: {kind}", *shown]))
    numbers = [(report.number(severity), severity) for severity in ("error", "warning", "note")]
    parts.append(", ".join(f"{number:,} {word}{'' if number == 1 else 's'}" for number, word in numbers))
    if fixed is not None:
        parts.append(
            f"{fixed.folder}: {fixed.rows:,} rows and {fixed.images:,} images without errors; "
            f"{fixed.number('left out'):,} rows left out, {fixed.number('changed'):,} changed, listed in {CHANGES}"
        )
    return mask_tokens("\n\n".join(parts))
