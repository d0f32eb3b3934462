"""Report every evaluation in a readable line."""

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cffa_hf.names import IMAGE_TO_TEXT, METRICS, metric_prefixes


def metrics_line(metrics: dict[str, Any], prefix: str = "") -> str:
    """Put the metrics of both directions on one line, percent.

    Args:
        metrics: As `RetrievalEvaluator` returns them, perhaps with a prefix before each name.
        prefix: That prefix, `eval_` for instance.
    """
    parts = []
    for direction, start in (("text-to-image", ""), ("image-to-text", IMAGE_TO_TEXT)):
        values = {title: metrics.get(f"{prefix}{start}{name}") for name, title in METRICS.items()}
        numbers = "  ".join(f"{title} {value:.2f}" for title, value in values.items() if value is not None)
        if numbers:
            parts.append(f"{direction}: {numbers}")
    return " | ".join(parts)


class RetrievalEvaluationCallback(TrainerCallback):
    """Print the retrieval metrics of every evaluation in a readable line."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print one line for each evaluated split, on the main process."""
        if not state.is_world_process_zero or not metrics:
            return
        for prefix in metric_prefixes(metrics):
            split = prefix.removeprefix("eval_").removesuffix("_") or "validation"
            tqdm.write(f"epoch {state.epoch or 0:.1f}  {split}  {metrics_line(metrics, prefix)}")
