"""The page in Gradio: components, and which method of `SearchPage` each event calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from cffa_hf.page import fragments
from cffa_hf.page.filters import Filter
from cffa_hf.page.page import Fields, SearchPage, Visit
from cffa_hf.page.query import COUNTS
from cffa_hf.page.style import ADDRESS, PRESSED, SHOW

HOUR = 3600


def build(page: SearchPage, *, model: str = "") -> gr.Blocks:
    """Lay out the page.

    Args:
        page: What it does.
        model: What to call the model in its head.
    """
    with gr.Blocks(title="Find a person by a description", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
        visit = gr.State(Visit(), time_to_live=24 * HOUR)
        _part(fragments.heading(len(page.gallery), model))
        with gr.Row(equal_height=True):
            text = gr.Textbox(
                label="Description of a person",
                placeholder="a woman in a green coat and a gray skirt",
                max_length=2000,
                scale=5,
                min_width=260,
                autofocus=True,
                elem_id="sentence",
            )
            search = gr.Button("Search", variant="primary", scale=1, min_width=110, elem_id="search")
        examples = _part(fragments.examples(page.sentences), js=PRESSED)
        with gr.Accordion("Filters and number of results" if page.filters else "Number of results", open=False), gr.Row():
            filters = [field for one in page.filters for field in _filter_fields(one)]
            count = gr.Dropdown(
                list(COUNTS), value=COUNTS[0], label="results", min_width=110, filterable=False, elem_id="count"
            )
        with gr.Accordion("Search by a picture", open=False):
            upload = gr.UploadButton("Choose a picture", type="filepath", file_types=["image"], elem_id="upload", size="md")
            uploaded = _part("", js=PRESSED)
            weight = gr.Slider(0, 1, 0.5, step=0.05, label="Weight of the sentence beside a picture", elem_id="weight")
        status = _part("", js=PRESSED + ADDRESS, elem_id="status")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                results = _part("", js=PRESSED, elem_id="results")
            with gr.Column(scale=2, min_width=320):
                why = _part("", js=PRESSED + SHOW, elem_id="why")
        with gr.Accordion("Queries of this visit", open=False):
            recent = _part("", js=PRESSED, elem_id="recent")
        _part(f"<p class='quiet'>{fragments.PURPOSE}</p>", elem_id="purpose")

        inputs = [visit, text, weight, count, *filters]
        outputs = [*inputs, status, results, why, recent, uploaded]

        def shown(after: Visit, typed: Fields) -> list[Any]:
            fields = page.fields(after, typed)
            return [after, fields.text, fields.text_weight, fields.count, *fields.filters, *page.parts(after).values()]

        def opened(request: gr.Request) -> list[Any]:
            return shown(page.opened(request.query_params.multi_items()), Fields(filters=[None] * len(filters)))

        def searched(before: Visit, *values: Any) -> list[Any]:
            return shown(page.searched(before, _fields(values)), _fields(values))

        def refined(before: Visit, *values: Any) -> list[Any]:
            return shown(page.refined(before, _fields(values)), _fields(values))

        def sent(before: Visit, *values: Any) -> list[Any]:
            path, *typed = values
            content = Path(path).read_bytes()
            Path(path).unlink()  # Gradio would keep it for an hour
            return shown(page.uploaded(before, _fields(typed), content), _fields(typed))

        def pressed(event: gr.EventData, before: Visit, *values: Any) -> list[Any]:
            action, value = str(event.action), event.value
            value = value if isinstance(value, int) else -1
            return shown(page.acted(before, _fields(values), action, value), _fields(values))

        # One at a time: there is one model. Nothing of it is an API for others.
        options: dict[str, Any] = {
            "outputs": outputs,
            "api_visibility": "private",
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress": "minimal",
            "show_progress_on": [status],
        }
        blocks.load(opened, None, **options)
        typed = [field for field in filters if isinstance(field, gr.Textbox)]
        chosen = [count, *(field for field in filters if field not in typed)]
        gr.on([text.submit, search.click, *(field.submit for field in typed)], searched, inputs, **options)
        gr.on([weight.release, *(field.input for field in chosen)], refined, inputs, **options)
        upload.upload(sent, [visit, upload, *inputs[1:]], **options)
        for part in (examples, uploaded, status, results, why, recent):
            part.click(pressed, inputs, **options)
    return blocks


def _fields(values: Sequence[Any]) -> Fields:
    text, weight, count, *filters = values
    return Fields(str(text or ""), float(weight), int(count), filters)


def _part(value: str, *, js: str | None = None, **options: Any) -> gr.HTML:
    return gr.HTML(value, js_on_load=js, elem_classes=["page"], apply_default_css=False, **options)


def _filter_fields(one: Filter) -> list[gr.components.Component]:
    if one.bounds is None:
        choices = list(one.choices)
        return [gr.Dropdown(choices, value=[], multiselect=True, label=one.column, min_width=200)]
    return [
        gr.Textbox(label=f"{one.column} {end}", placeholder=bound, min_width=200)
        for end, bound in zip(("from", "to"), one.bounds, strict=True)
    ]
