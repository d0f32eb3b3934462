"""The curves of a training, drawn from its log for the card."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cffa_hf.files import new_file
from cffa_hf.publishing.card_text import is_number


def draw_training_curves(log_history: list[dict[str, float]], path: Path) -> bool:
    """Draw loss terms and the metrics of validation, or of the test split that chose, over the epochs into a PNG.

    Args:
        log_history: That of `trainer_state.json`.
        path: The picture's path.

    Returns:
        Whether there was anything to draw.
    """
    losses = {
        "loss": ("sum", "#1b1f24", 2.0),
        "loss_alignment_global": ("alignment, global", "#0b6bcb", 1.3),
        "loss_alignment_local": ("alignment, local", "#1a9c6b", 1.3),
        "loss_identity": ("identity", "#c2410c", 1.3),
        "loss_mlm": ("masked words", "#8250df", 1.3),
    }
    on_test = any(isinstance(entry, dict) and "eval_test_rank1" in entry for entry in log_history)
    prefix = "eval_test_" if on_test else "eval_"
    metrics = {
        f"{prefix}rank1": ("Rank-1, text to image", "#0b6bcb", "-"),
        f"{prefix}mAP": ("mAP, text to image", "#1a9c6b", "-"),
        f"{prefix}image_to_text_rank1": ("Rank-1, image to text", "#0b6bcb", ":"),
    }
    trained = {name: points(log_history, name) for name in losses}
    measured = {name: points(log_history, name) for name in metrics}
    panels = [series for series in (trained, measured) if any(series.values())]
    if not panels:
        return False
    figure = Figure(figsize=(5.2 * len(panels), 3.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    for column, series in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        for name, line in series.items():
            if line and series is trained:
                label, color, width = losses[name]
                axes.plot(*zip(*line, strict=True), label=label, color=color, linewidth=width)
            elif line:
                label, color, style = metrics[name]
                axes.plot(*zip(*line, strict=True), style, label=label, color=color, marker="o", markersize=3)
        split = "Test split, which chose the checkpoint" if on_test else "Validation"
        axes.set_title("Training loss, weighted terms" if series is trained else f"{split}, percent", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    with new_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return True


def points(log_history: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Collect (epoch, value) of one logged name, as far as both are numbers."""
    found = [(entry.get("epoch"), entry.get(name)) for entry in log_history if isinstance(entry, dict)]
    return [(epoch, value) for epoch, value in found if is_number(epoch) and is_number(value)]
