"""Tables and figure of benchmarks/ablation.py, from the files of its cells.

An interval is a bootstrap that draws seeds and, within them, the same identities for all methods, 2,000 times. Three seeds
say little about the spread between seeds, so the range over the seeds stands beside it. A paired test exchanges two
methods' results of an identity, averaged over the seeds, at random (10,000 times).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from cffa_hf.files import write_text

BOOTSTRAPS, EXCHANGES = 2000, 10_000
BEGIN, END = "<!-- {}: written by benchmarks/ablation.py -->", "<!-- end of {} -->"


@dataclass(frozen=True)
class Measured:
    """A cell with all its seeds.

    Attributes:
        name: Of the method.
        noise: Share of shuffled captions.
        sums: Metric summed over the queries of an identity, `(seeds, identities)`, by metric.
        queries: Queries of each identity, `(identities,)`.
        seconds: Of one training, on one thread, mean.
        consensus: Last entry of the consensus division, of each seed.
    """

    name: str
    noise: float
    sums: dict[str, np.ndarray]
    queries: np.ndarray
    seconds: float
    consensus: list[dict[str, Any]]

    def mean(self, metric: str) -> float:
        """Return the mean over queries and seeds, in percent."""
        return float(self.sums[metric].mean(axis=0).sum() / self.queries.sum())

    def of_seeds(self, metric: str) -> np.ndarray:
        """Return the mean over the queries, of each seed."""
        return self.sums[metric].sum(axis=1) / self.queries.sum()


def read_cell(cell: Any, files: list[Path]) -> Measured:
    """Read the results of all seeds of a cell, a file each."""
    results = [json.loads(path.read_text()) for path in files]
    owner = np.unique(results[0]["identities"], return_inverse=True)[1]
    sums = {
        metric: np.stack([np.bincount(owner, weights=result["values"][metric]) for result in results])
        for metric in results[0]["values"]
    }
    seconds = float(np.mean([result["seconds"] for result in results]))
    consensus = [entry for result in results for entry in result["consensus"]]
    return Measured(cell.name, cell.noise, sums, np.bincount(owner), seconds, consensus)


def resampled_difference(first: Measured, second: Measured | None, metric: str) -> tuple[float, float]:
    """Return the 95% interval of a metric, or of a second method's minus the first's, over seeds and identities."""
    generator = np.random.default_rng(0)
    values = first.sums[metric] if second is None else second.sums[metric] - first.sums[metric]
    seeds, identities = values.shape
    means = []
    for _ in range(BOOTSTRAPS):
        chosen = generator.integers(identities, size=identities)
        rows = values[generator.integers(seeds, size=seeds)].mean(axis=0)
        means.append(rows[chosen].sum() / first.queries[chosen].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def exchange_test(first: Measured, second: Measured, metric: str) -> float:
    """Return the two-sided p value of a difference between two methods, from exchanges within identities."""
    generator = np.random.default_rng(0)
    differences = (second.sums[metric] - first.sums[metric]).mean(axis=0)
    signs = generator.integers(2, size=(EXCHANGES, len(differences))) * 2 - 1
    reached = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + reached.sum()) / (1 + EXCHANGES))


def row_of(cell: Measured, reference: Measured) -> str:
    """Write a line of the table of methods."""
    low, high = resampled_difference(cell, None, "rank1")
    seeds = cell.of_seeds("rank1")
    line = (
        f"| {cell.name} | {cell.mean('rank1'):.1f} | {low:.1f} to {high:.1f} | {seeds.min():.1f} to {seeds.max():.1f} "
    )
    line += f"| {cell.mean('mAP'):.1f} | {cell.mean('mINP'):.1f} | {cell.seconds:.0f} "
    if cell is reference:
        return line + "| | |"
    low, high = resampled_difference(reference, cell, "rank1")
    difference = cell.mean("rank1") - reference.mean("rank1")
    return line + f"| {difference:+.1f} ({low:+.1f} to {high:+.1f}) | {exchange_test(reference, cell, 'rank1'):.4f} |"


def method_table(cells: list[Measured], reference: Measured) -> str:
    """Write the cells as a table, each beside the reference."""
    head = f"| method | Rank-1 | 95% interval | seeds | mAP | mINP | seconds | against {reference.name} | p |"
    return "\n".join([head, "| --- " * 9 + "|", *(row_of(cell, reference) for cell in cells)])


def noise_table(cells: list[Measured]) -> str:
    """Write Rank-1 by method and share of shuffled captions, with intervals."""
    rates = sorted({cell.noise for cell in cells})
    found = {(cell.name, cell.noise): cell for cell in cells}
    names = [
        name for name in dict.fromkeys(cell.name for cell in cells) if all((name, rate) in found for rate in rates)
    ]
    lines = [
        "| method | " + " | ".join(f"{rate:.0%} shuffled" for rate in rates) + " |",
        "| --- " * (1 + len(rates)) + "|",
    ]
    for name in names:
        values = []
        for rate in rates:
            cell = found[name, rate]
            low, high = resampled_difference(cell, None, "rank1")
            values.append(f"{cell.mean('rank1'):.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def draw(cells: list[Measured], path: Path) -> None:
    """Draw Rank-1 of all clean cells with intervals, and against the noise, as a PNG file."""
    clean = [cell for cell in cells if cell.noise == 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.38 * len(clean) + 1.6), layout="constrained")
    for place, cell in enumerate(reversed(clean)):
        low, high = resampled_difference(cell, None, "rank1")
        left.plot([low, high], [place, place], color="#4477aa", linewidth=3)
        left.plot(cell.of_seeds("rank1"), [place] * len(cell.of_seeds("rank1")), "|", color="black")
        left.plot(cell.mean("rank1"), place, "o", color="#4477aa")
    left.set_yticks(range(len(clean)), [cell.name for cell in reversed(clean)])
    left.set(xlabel="Rank-1, percent", title="clean captions (bar: 95% interval, strokes: seeds)")
    for name in dict.fromkeys(cell.name for cell in cells if cell.noise):
        own = sorted((cell for cell in cells if cell.name == name), key=lambda cell: cell.noise)
        right.plot([100 * cell.noise for cell in own], [cell.mean("rank1") for cell in own], "o-", label=name)
    right.set(xlabel="shuffled captions, percent", ylabel="Rank-1, percent", title="noisy captions")
    if right.lines:
        right.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def consensus_lines(cells: list[Measured]) -> str:
    """Say what the last consensus division of each noisy cell kept."""
    lines = []
    for cell in cells:
        kept = [entry for entry in cell.consensus if "clean_pairs_kept" in entry]
        if kept:
            clean, noisy = (np.mean([entry[f"{kind}_pairs_kept"] for entry in kept]) for kind in ("clean", "noisy"))
            lines.append(
                f"- {cell.name}, {cell.noise:.0%} shuffled: {clean:.0f}% of the right pairs and {noisy:.0f}% of the wrong "
                "ones counted in the last epoch."
            )
    return "\n".join(lines)


def write_report(
    name: str, cells: list[Any], files: dict[tuple[str, int], Path], folder: Path, page: Path | None
) -> None:
    """Print the tables, and put them with the figure into a page.

    Args:
        name: Of the set of cells; the page has two marks with it, between which the tables stand.
        cells: All of them finished.
        files: Of the results, by key of the cell and seed.
        folder: The figure of the methods is drawn there, or beside the page.
        page: Markdown page; None: only print.
    """
    seeds = sorted({seed for _, seed in files})
    measured = [read_cell(cell, [files[cell.key, seed] for seed in seeds]) for cell in cells]
    clean = [cell for cell in measured if cell.noise == 0]
    parts = [
        f"Seeds {', '.join(map(str, seeds))}; {len(clean[0].queries)} test identities, {clean[0].queries.sum():,} captions "
        "as queries. Percent; seconds of one training on one thread, other work beside it."
    ]
    parts.append(method_table(clean, clean[0]))
    if any(cell.noise for cell in measured):
        parts += [noise_table(measured), consensus_lines(measured)]
        figure = (page.parent if page else folder) / "ablation.png"
        draw(measured, figure)
        parts.append(f"![Rank-1 of all methods]({figure.name})")
    text = "\n\n".join(part for part in parts if part)
    print(text)
    if page:
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = page.read_text().partition(begin)
        write_text(page, f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
