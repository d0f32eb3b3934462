"""A page of the Space that computes the metric from pasted match ranks."""

import json
from pathlib import Path

import gradio as gr
from person_retrieval import DESCRIPTION, metrics_from_match_ranks

EXAMPLE = "[[1, 2], [3], []]"


def compute(text: str) -> dict[str, float]:
    """Compute the metrics from a JSON list of one list of ranks per query."""
    try:
        return metrics_from_match_ranks(json.loads(text))
    except (TypeError, ValueError) as error:
        raise gr.Error(f"Give one list of ranks per query, for instance {EXAMPLE}. {error}") from error


def build() -> gr.Interface:
    """Build the page."""
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return gr.Interface(
        fn=compute,
        inputs=gr.Textbox(EXAMPLE, lines=5, label="Ranks of the matches, one list per query"),
        outputs=gr.JSON(label="Metrics"),
        title="Person retrieval",
        description=DESCRIPTION,
        article=readme.split("---", 2)[2],
        flagging_mode="never",
    )


if __name__ == "__main__":
    build().launch()
