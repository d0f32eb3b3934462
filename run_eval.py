"""Evaluate a person searcher: `python run_eval.py CHECKPOINT --config configs/demo.yaml [--setting value ...]`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from cffa_hf.arguments import DataArguments
from cffa_hf.data.images import check_images
from cffa_hf.data.leaks import warn_of_leaks
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.workers import plain_error
from cffa_hf.errors import InputError
from cffa_hf.evaluation import RetrievalEvaluator
from cffa_hf.evaluation_arguments import EvaluationArguments, parse_evaluation_arguments
from cffa_hf.evaluation_figures import draw_figures
from cffa_hf.output_folder import make_output_folder
from cffa_hf.provenance import dataset_fingerprint, open_checkpoint
from cffa_hf.report import ReportFigure, write_report
from cffa_hf.results import (
    comparison_entry,
    confidence_entry,
    entry_key,
    read_splits,
    reranking_entry,
    split_entry,
    write_results,
)
from cffa_hf.slices import query_groups, slice_metrics
from cffa_hf.stress import stress
from cffa_hf.tables import comparison_table, format_table, metrics_table, slices_table, stress_table


def main() -> None:
    """Embed each dataset's split, rank, and write and print what was asked for."""
    run = parse_evaluation_arguments()
    options = run.options
    checkpoint = open_checkpoint(run.checkpoint, device=options.device)
    if options.selected_on:
        checkpoint = replace(checkpoint, selected_on=options.selected_on)
    other = open_checkpoint(options.compare, device=options.device) if options.compare else None
    output_dir = make_output_folder(options.output_dir or checkpoint.output_dir)
    earlier = read_splits(output_dir, checkpoint)
    entries: dict[str, dict[str, Any]] = {}
    figures: dict[str, list[ReportFigure]] = {}

    loaded = [(data_args, load_split(data_args, options)) for data_args in run.datasets]
    for data_args, rows in loaded:
        name, split = Path(str(data_args.dataset)).name, options.split
        evaluator = RetrievalEvaluator(
            rows, checkpoint.processor, batch_size=options.batch_size, num_workers=options.num_workers
        )
        embeddings = evaluator.embed(checkpoint.model, camera_aware=options.camera_aware)
        ranks = embeddings.text_to_image(), embeddings.image_to_text()
        key = entry_key(earlier | entries, entries, name, split)
        entry = entries[key] = split_entry(name, split, dataset_fingerprint(rows), *ranks)
        entry["camera_aware"] = options.camera_aware
        if options.confidence:
            entry["confidence"] = confidence_entry(*ranks)
        if other:
            evaluator_of_other = RetrievalEvaluator(
                rows, other.processor, batch_size=options.batch_size, num_workers=options.num_workers
            )
            embedded = evaluator_of_other.embed(other.model, camera_aware=options.camera_aware)
            entry["comparison"] = comparison_entry(other, (embedded.text_to_image(), embedded.image_to_text()), ranks)
        if options.rerank:
            reranking, *reranked = embeddings.rerank(options.rerank_neighbours)
            entry["reranking"] = reranking_entry(reranking.settings, ranks, (reranked[0], reranked[1]))
        if options.slices:
            entry["slices"] = slice_metrics(ranks[0], query_groups(rows))
        if options.stress:
            entry["stress"] = stress(checkpoint.model, rows, evaluator, embeddings)
        prefix = "" if key == "test" else key.replace("/", "-") + "-"
        figures[key] = draw_figures(output_dir, prefix, checkpoint, rows, embeddings, ranks, entry)

    results = write_results(output_dir, checkpoint, entries)
    print(f"{checkpoint.name} (checkpoint chosen on: {checkpoint.selected_on})")
    print(format_table(metrics_table(entries), left=2))
    for key, entry in entries.items():
        if "comparison" in entry:
            print(f"\n{key}: compared with {options.compare}")
            print(format_table(comparison_table(entry["comparison"]), left=2))
        if "reranking" in entry:
            print(f"\n{key}: re-ranked by {options.rerank}")
            print(format_table(comparison_table(entry["reranking"], ("plain", "re-ranked")), left=2))
        if "stress" in entry:
            print(f"\n{key}: text-to-image under disturbance")
            print(format_table(stress_table(entry["stress"], entry["text_to_image"]), left=3))
        if "slices" in entry:
            print(f"\n{key}: text-to-image by group of captions")
            print(format_table(slices_table(entry["slices"])))
    written = ["results.json", *(figure.path.name for drawn in figures.values() for figure in drawn)]
    if options.report:
        written.append(write_report(output_dir / "report.html", results, entries, figures).name)
    print(f"\nwritten to {output_dir}: {', '.join(written)}")


def load_split(data_args: DataArguments, options: EvaluationArguments) -> Dataset:
    """Read a dataset, check it, and return the split that is evaluated."""
    data = load_person_dataset(
        str(data_args.dataset),
        data_args.dataset_root,
        annotation_file=data_args.annotation_file,
        validation_identities=data_args.validation_identities,
        test_identities=data_args.test_identities,
        seed=data_args.split_seed,
    )
    split = options.split
    if split not in data:
        name = Path(str(data_args.dataset)).name
        raise InputError(f"{name} has no {split} split, only {', '.join(data)}; choose one of these with --split.")
    if data_args.check_images:
        check_images(DatasetDict({split: data[split]}))
    if options.check_leaks:
        warn_of_leaks(data)
    return data[split]


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {plain_error(error)}", file=sys.stderr)
        sys.exit(2)
