"""Charts: match curves, and how metrics fall under disturbances."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cffa_hf.reporting.pictures import NEUTRAL, new_figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv<"
STYLES = ("-", "--", "-.", ":")


def cmc_figure(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw cumulative match curves.

    Args:
        curves: Rank-1, Rank-2 ... in percent, by name; all of them on one pair of axes.
    """
    figure = new_figure(4.6, 3.3)
    axes = figure.add_subplot()
    for place, (name, values) in enumerate(curves.items()):
        ranks, style = np.arange(1, len(values) + 1), STYLES[place % len(STYLES)]
        label = f"{name} (Rank-1 {values[0]:.1f})"
        axes.plot(ranks, values, style, color=COLORS[place % len(COLORS)], linewidth=1.6, label=label)
    longest = max(len(values) for values in curves.values())
    low = min(min(values) for values in curves.values())
    axes.set(xlabel="rank k", ylabel="queries with a match in the first k (%)")
    axes.set_xlim(1, max(2, longest))
    axes.set_xticks([1, *(range(10, longest + 1, 10) if longest > 20 else range(5, longest + 1, 5))])
    axes.set_ylim(max(0, 10 * np.floor(low / 10 - 0.5)), 100.5)
    axes.legend(loc="lower right", fontsize=7.5, frameon=False)
    tidy(axes)
    figure.tight_layout()
    return figure


def stress_figure(
    stress: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
    baseline: Mapping[str, float],
    metric: str = "rank1",
) -> Figure:
    """Draw how a metric falls with the strength of each disturbance, captions and images side by side.

    Args:
        stress: As `cffa_hf.evaluation.stress.stress` returns it.
        baseline: Metrics without disturbance.
        metric: Which one is drawn.
    """
    figure = new_figure(7.4, 3.9)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, disturbances) in zip(panels, stress.items(), strict=True):
        axes.axhline(baseline[metric], color=NEUTRAL, linewidth=0.8, linestyle=":")
        for place, (name, strengths) in enumerate(disturbances.items()):
            values = [baseline[metric], *(metrics[metric] for metrics in strengths.values())]
            label = f"{name} ({amounts(list(strengths))})"
            axes.plot(
                range(len(values)),
                values,
                color=COLORS[place],
                marker=MARKERS[place],
                markersize=4.5,
                linewidth=1.5,
                label=label,
            )
        axes.set_title(f"disturbed {kind}", fontsize=9)
        axes.set_xticks(range(4), ["none", "weak", "medium", "strong"])
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.12))
        tidy(axes)
    panels[0].set_ylim(bottom=0)  # of both, and only now: setting it ends the scaling to what is drawn
    panels[0].set_ylabel("text-to-image Rank-1 (%)", fontsize=8.5)
    figure.tight_layout()
    return figure


def amounts(labels: Sequence[str]) -> str:
    """Join labels that differ in their number only: "10, 20, 40% of words"."""
    words = [label.split() for label in labels]
    varied = [place for place in range(len(words[0])) if len({label[place] for label in words}) > 1]
    if len({len(label) for label in words}) > 1 or len(varied) != 1:
        return ", ".join(labels)
    joined = words[0].copy()
    numbers = [label[varied[0]] for label in words]
    shared = "%" if all(number.endswith("%") for number in numbers) else ""
    joined[varied[0]] = ", ".join(number.removesuffix(shared) for number in numbers) + shared
    return " ".join(joined)


def tidy(axes: Axes) -> None:
    """Give axes a light grid and no box."""
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
