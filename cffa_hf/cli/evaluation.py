"""`cffa-hf evaluate` and run_eval.py: evaluate a retrieval model."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cffa_hf.arguments.evaluation import EvaluationArguments, EvaluationRun, parse_evaluation_arguments
from cffa_hf.checkpoints.provenance import Checkpoint, open_checkpoint
from cffa_hf.cli.parsers import asks_for_help, configured
from cffa_hf.command_line import CommandParser, run_guarded
from cffa_hf.data.fingerprints import dataset_fingerprint
from cffa_hf.data.seen import read_seen
from cffa_hf.evaluation.evaluator import RetrievalEmbeddings, RetrievalEvaluator
from cffa_hf.evaluation.slices import query_groups, slice_metrics
from cffa_hf.evaluation.split import EvaluationSplit, load_split
from cffa_hf.evaluation.stress import stress
from cffa_hf.inference.embedder import Embedder
from cffa_hf.locks import folder_lock
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks
from cffa_hf.names import REPORT, RESULTS
from cffa_hf.records.files import make_output_folder
from cffa_hf.records.published import check_published, published_entry
from cffa_hf.records.results import (
    comparison_entry,
    confidence_entry,
    entry_key,
    read_splits,
    reranking_entry,
    set_aside_results,
    shared_sentence,
    split_entry,
    write_results,
)
from cffa_hf.reporting.report import ReportFigure, write_report
from cffa_hf.reporting.sections import overview, sections
from cffa_hf.reporting.split_figures import draw_figures
from cffa_hf.reporting.tables import format_table

EVALUATION_LOCK = ".evaluation"
ANALYSES = {"confidence", "published", "comparison", "reranking", "slices", "stress"}
FEW_PEOPLE = 30
"""Identities of a split below which a bootstrap over them shows too little of how people differ."""


def main(words: Sequence[str] | None = None) -> None:
    """Embed each dataset's split, rank, and write and print what was asked for.

    Args:
        words: Command line without the program's name; None: that of the process.

    Raises:
        InputError: If the checkpoint, the data or an option is wrong.
    """
    words = sys.argv[1:] if words is None else words
    if asks_for_help(words):
        configured(CommandParser(prog="cffa-hf evaluate"), "evaluate").print_help()
        return
    run = parse_evaluation_arguments(words)
    options = run.options
    checkpoint = open_checkpoint(run.checkpoint, device=options.device)
    if options.selected_on:
        checkpoint = replace(checkpoint, selected_on=options.selected_on)
    other = open_checkpoint(options.compare, device=options.device) if options.compare else None
    # Before hours of encoding: both models go with the precision.
    precision, *_ = [computed_in(opened, options) for opened in (checkpoint, other) if opened]
    output_dir = make_output_folder(options.output_dir or checkpoint.output_dir)
    with folder_lock(
        output_dir, output_dir / EVALUATION_LOCK, what="is being evaluated into", remedy="give another --output_dir"
    ):
        evaluate(run, checkpoint, other, precision, output_dir)


def evaluate(
    run: EvaluationRun, checkpoint: Checkpoint, other: Checkpoint | None, precision: str, output_dir: Path
) -> None:
    """Evaluate on each dataset into a folder that is locked.

    Args:
        run: What was asked for.
        checkpoint: What is evaluated.
        other: What it is compared with.
        precision: That it computes in.
        output_dir: Where results, figures and report are written.
    """
    options = run.options
    earlier = read_splits(output_dir, checkpoint)
    entries: dict[str, dict[str, Any]] = {}
    figures: dict[str, list[ReportFigure]] = {}

    seen = {opened.name: read_seen(opened.folder) for opened in (checkpoint, other) if opened}
    loaded = [load_split(data_args, options.split, seen, check_leaks=options.check_leaks) for data_args in run.datasets]
    if options.compare_published:
        for part in loaded:
            check_published(part.dataset, part.split, part.rendered)
    set_aside_results(output_dir, checkpoint.weights_sha256)
    for part in loaded:
        evaluator = evaluator_of(part, checkpoint, options)
        embeddings = evaluator.embed(checkpoint.model, camera_aware=options.camera_aware)
        ranks = embeddings.text_to_image(), embeddings.image_to_text()
        key = entry_key(earlier | entries, entries, part.dataset, part.split)
        entry = entries[key] = split_entry(part.dataset, part.split, dataset_fingerprint(part.rows), *ranks)
        entry |= {"precision": precision, "camera_aware": options.camera_aware, "rendered": part.rendered}
        entry |= {"division": part.division, "shared": part.shared, "unrecorded": part.unrecorded}
        entry |= analyses(part, checkpoint, other, options, evaluator, embeddings, ranks)
        prefix = "" if key == "test" else key.replace("/", "-") + "-"
        figures[key] = draw_figures(output_dir, prefix, checkpoint, part.rows, embeddings, ranks, entry)

    results = write_results(output_dir, checkpoint, entries)
    written = [RESULTS, *(figure.path.name for drawn in figures.values() for figure in drawn)]
    if options.report:
        written.append(write_report(output_dir / REPORT, results, entries, figures).name)
    print(f"{checkpoint.name} (checkpoint chosen on: {checkpoint.selected_on}; precision: {precision})")
    print_entries(entries)
    for notice in notices(earlier, entries, (output_dir / REPORT).exists() and not options.report):
        print(f"\nnote: {notice}")
    print(f"\nwritten to {output_dir}: {', '.join(written)}")


def notices(earlier: dict[str, Any], entries: dict[str, Any], old_report: bool) -> Iterator[str]:
    """Say what the new results do not hold, and what can hardly be told from them.

    Args:
        earlier: Entries of these weights that were there before.
        entries: The new ones.
        old_report: Whether a report of before stays.
    """
    for key, entry in entries.items():
        if lost := sorted(ANALYSES & earlier.get(key, {}).keys() - entry.keys()):
            verb = "was" if len(lost) == 1 else "were"
            yield f"{' and '.join(lost)} of the earlier evaluation on {key} {verb} not asked for and left {RESULTS}."
        people = entry["counts"]["identities"]
        if people < FEW_PEOPLE:
            meaning = "scores say little"
            if "comparison" in entry:
                meaning = "intervals are too narrow; of a comparison believe the p value"
            elif "confidence" in entry:
                meaning = "intervals are too narrow"
            yield f"{key} has {people} identities: with fewer than {FEW_PEOPLE} the {meaning}."
    if old_report:
        yield f"{REPORT} is that of an earlier evaluation; --report writes it anew."


def evaluator_of(part: EvaluationSplit, checkpoint: Checkpoint, options: EvaluationArguments) -> RetrievalEvaluator:
    """Prepare a split for a checkpoint."""
    return RetrievalEvaluator(
        part.rows,
        checkpoint.processor,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        precision=options.precision,
    )


def computed_in(checkpoint: Checkpoint, options: EvaluationArguments) -> str:
    """Say in which precision a checkpoint is evaluated.

    Raises:
        InputError: If it does not go with the one that is asked for.
    """
    return Embedder(checkpoint.model, checkpoint.processor, precision=options.precision).precision


def analyses(
    part: EvaluationSplit,
    checkpoint: Checkpoint,
    other: Checkpoint | None,
    options: EvaluationArguments,
    evaluator: RetrievalEvaluator,
    embeddings: RetrievalEmbeddings,
    ranks: tuple[MatchRanks, MatchRanks],
) -> dict[str, Any]:
    """Make the parts of an entry that were asked for beside its metrics."""
    entry: dict[str, Any] = {}
    if options.confidence or options.compare_published:
        entry["confidence"] = confidence_entry(*ranks)
    if options.compare_published:
        intervals = entry["confidence"]["text_to_image"]
        entry["published"] = published_entry(part.dataset, retrieval_metrics(ranks[0]), intervals)
    if other:
        embedded = evaluator_of(part, other, options).embed(other.model, camera_aware=options.camera_aware)
        entry["comparison"] = comparison_entry(other, (embedded.text_to_image(), embedded.image_to_text()), ranks)
    if options.rerank:
        reranking, *reranked = embeddings.rerank(options.rerank_neighbours)
        entry["reranking"] = reranking_entry(reranking.settings, ranks, (reranked[0], reranked[1]))
    if options.slices:
        entry["slices"] = slice_metrics(ranks[0], query_groups(part.rows))
    if options.stress:
        entry["stress"] = stress(checkpoint.model, part.rows, evaluator, embeddings)
    return entry


def print_entries(entries: dict[str, dict[str, Any]]) -> None:
    """Print the metrics of all entries, how each was divided, and the sections of each, as the report has them."""
    first = overview(entries)
    print(format_table(first.table, left=first.left))
    if first.text:
        print(first.text)
    for key, entry in entries.items():
        print(*filter(None, [f"{key}: {entry['division']}", shared_sentence(entry)]), sep=" ")
        for section in sections(entry):
            print(f"\n{key}: {section.title[0].lower()}{section.title[1:]}")
            print(format_table(section.table, left=section.left))


if __name__ == "__main__":
    run_guarded(main)
