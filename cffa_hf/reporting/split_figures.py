"""All figures of one evaluated split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from cffa_hf.checkpoints.provenance import Checkpoint
from cffa_hf.evaluation.evaluator import RetrievalEmbeddings
from cffa_hf.evaluation.ranked_queries import hardest_queries, rank_queries, sample_queries
from cffa_hf.inference.chosen_tokens import select
from cffa_hf.metrics.averages import cumulative_match_curve
from cffa_hf.metrics.ranking import MatchRanks
from cffa_hf.reporting.charts import cmc_figure, stress_figure
from cffa_hf.reporting.pictures import ranking_figure, save_figure, selection_figure
from cffa_hf.reporting.report import ReportFigure

QUERIES, PAIRS, LONGEST_CURVE = 6, 4, 50


def draw_figures(
    folder: Path,
    prefix: str,
    checkpoint: Checkpoint,
    rows: datasets.Dataset,
    embeddings: RetrievalEmbeddings,
    ranks: tuple[MatchRanks, MatchRanks],
    entry: Mapping[str, Any],
) -> list[ReportFigure]:
    """Draw `ranking.png`, `cmc.png`, `failures.png`, `selection.png` and, with stress results, `stress.png`.

    There are no failures where every query finds its person first, and no selection without local features.

    Args:
        folder: Where the files are written.
        prefix: Put before their names.
        checkpoint: What was evaluated.
        rows: The split.
        embeddings: Of the split.
        ranks: Text-to-image and image-to-text.
        entry: The split's results.
    """
    figures: list[ReportFigure] = []

    def keep(figure, name: str, title: str, text: str) -> None:
        figures.append(ReportFigure(title, text, save_figure(figure, folder / f"{prefix}{name}.png")))

    where = f"{entry['dataset']}, {entry['split']}"
    drawn = sample_queries(ranks[0], QUERIES)
    text = "Queries drawn at random, not chosen, with the image each was written for and the best images by score."
    queries = rank_queries(rows, embeddings, ranks[0], drawn)
    keep(ranking_figure(queries, f"{where}: queries drawn at random"), "ranking", "Ranked images", text)
    hardest = hardest_queries(ranks[0], QUERIES)
    if hardest:
        text = "The queries whose first match stands lowest, one for each person."
        queries = rank_queries(rows, embeddings, ranks[0], hardest)
        keep(ranking_figure(queries, f"{where}: hardest failures"), "failures", "Hardest failures", text)
    curves = {
        "text-to-image": cumulative_match_curve(ranks[0], min(LONGEST_CURVE, ranks[0].gallery_size)).tolist(),
        "image-to-text": cumulative_match_curve(ranks[1], min(LONGEST_CURVE, ranks[1].gallery_size)).tolist(),
    }
    keep(cmc_figure(curves), "cmc", "Cumulative match curve", "Share of queries with a match among the first k.")
    if checkpoint.model.config.use_flfr:
        pairs = rank_queries(rows, embeddings, ranks[0], drawn[:PAIRS], k=1)
        selections = [select(checkpoint.model, checkpoint.processor, pair.described, pair.caption) for pair in pairs]
        text = "The patches and words that make the local features, and the attention that chose them."
        keep(selection_figure(selections), "selection", "Chosen patches and words", text)
    if "stress" in entry:
        text = "Text-to-image Rank-1 with captions or images disturbed more and more."
        keep(stress_figure(entry["stress"], entry["text_to_image"]), "stress", "Robustness", text)
    return figures
