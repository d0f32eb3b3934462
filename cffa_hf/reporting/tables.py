"""The results of an evaluation as tables: lists of lines of text, the first the head, for the screen and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from cffa_hf.errors import visible
from cffa_hf.names import DIRECTIONS, METRICS

Table = list[list[str]]


def metrics_table(entries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a line for each entry and direction; percent, with confidence intervals where there are some."""
    lines = [["", "", *METRICS.values(), "queries", "gallery"]]
    for key, entry in entries.items():
        name = key if key.startswith(f"{entry['dataset']}/") else f"{entry['dataset']}/{key}"
        for direction, title in DIRECTIONS.items():
            counts = entry["counts"]
            sizes = (counts["captions"] - counts["excluded_captions"], counts["images"])
            if direction == "image_to_text":
                sizes = (counts["images"] - counts["excluded_images"], counts["captions"])
            intervals = entry.get("confidence", {}).get(direction, {})
            cells = [_with_interval(entry[direction][metric], intervals.get(metric)) for metric in METRICS]
            lines.append([name, title, *cells, *(f"{size:,}" for size in sizes)])
    return lines


def comparison_table(comparison: Mapping[str, Any], names: tuple[str, str] | None = None) -> Table:
    """Return a line for each direction and metric: both systems, the difference with its interval, the p value.

    Args:
        comparison: Two checkpoints, or plain and re-ranked.
        names: Of the other and of this; by default the other checkpoint's, and `this`.
    """
    lines = [["", "", *(names or (comparison["other"]["name"], "this")), "difference", "p"]]
    for direction, title in DIRECTIONS.items():
        for metric, values in comparison[direction].items():
            difference = f"{values['difference']:+.2f} [{values['low']:+.2f}, {values['high']:+.2f}]"
            pair = (f"{values['other']:.2f}", f"{values['this']:.2f}")
            lines.append([title, METRICS[metric], *pair, difference, f"{values['p_value']:.4f}"])
    return lines


def published_table(published: Sequence[Mapping[str, Any]]) -> Table:
    """Return a line for each method and metric of papers, with ours beside it."""
    lines = [["method", "metric", "published", "this", "difference", "interval", ""]]
    for entry in published:
        numbers = (f"{entry['published']:.2f}", f"{entry['this']:.2f}", f"{entry['difference']:+.2f}")
        place = (
            "inside" if entry["inside"] else "published is above" if entry["difference"] < 0 else "published is below"
        )
        interval = f"[{entry['low']:.2f}, {entry['high']:.2f}]"
        lines.append([entry["method"], METRICS[entry["metric"]], *numbers, interval, place])
    return lines


def stress_table(stress: Mapping[str, Any], baseline: Mapping[str, float]) -> Table:
    """Return a line for each disturbance and strength, text-to-image, with the loss in Rank-1 against the baseline."""
    lines = [["disturbed", "by", "strength", *METRICS.values(), "lost Rank-1"]]
    lines.append(["nothing", "", "", *(f"{baseline[metric]:.2f}" for metric in METRICS), ""])
    for kind, disturbances in stress.items():
        for name, strengths in disturbances.items():
            for strength, metrics in strengths.items():
                cells = [f"{metrics[metric]:.2f}" for metric in METRICS]
                lines.append([kind, name, strength, *cells, f"{baseline['rank1'] - metrics['rank1']:.2f}"])
    return lines


def slices_table(slices: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a line for each group of captions, text-to-image."""
    lines = [["captions", *METRICS.values(), "queries"]]
    for name, metrics in slices.items():
        lines.append([name, *(f"{metrics[metric]:.2f}" for metric in METRICS), f"{metrics['queries']:,}"])
    return lines


def format_table(lines: Table, left: int = 1) -> str:
    """Align a table; the first `left` columns are flush left, the others right."""
    lines = [[visible(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def row(line: list[str]) -> str:
        cells = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])


def _with_interval(value: float, interval: list[float] | None) -> str:
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
