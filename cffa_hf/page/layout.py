"""The page in Gradio: components, and which method of `SearchPage` each event calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from cffa_hf.page import fragments
from cffa_hf.page.filters import Filter
from cffa_hf.page.page import Fields, SearchPage, Visit
from cffa_hf.page.query import COUNTS, MAX_TEXT
from cffa_hf.page.style import ADDRESS, PRESSED, SHOW

HOUR = 3600
TITLE = "Find a person by a description"


@dataclass(frozen=True)
class Parts:
    """The components of the page that are read or written."""

    visit: gr.State
    text: gr.Textbox
    search: gr.Button
    examples: gr.HTML
    filters: list[gr.components.Component]
    count: gr.Dropdown
    upload: gr.UploadButton
    uploaded: gr.HTML
    weight: gr.Slider
    status: gr.HTML
    results: gr.HTML
    why: gr.HTML
    recent: gr.HTML

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The visit, and the fields that `_fields` reads."""
        return [self.visit, self.text, self.weight, self.count, *self.filters]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The same, and what `SearchPage.parts` writes, in its order."""
        return [*self.inputs, self.status, self.results, self.why, self.recent, self.uploaded]


def build(page: SearchPage, *, model: str = "") -> gr.Blocks:
    """Lay out the page.

    Args:
        page: What it does.
        model: What to call the model in its head.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
        _part(fragments.heading(len(page.gallery), model))
        _connect(blocks, page, _lay_out(page))
        _part(f"<p class='quiet'>{fragments.PURPOSE}</p>", elem_id="purpose")
    return blocks


def _lay_out(page: SearchPage) -> Parts:
    visit = gr.State(Visit(), time_to_live=24 * HOUR)
    with gr.Row(equal_height=True):
        text = gr.Textbox(
            label="Description of a person",
            placeholder="a woman in a green coat and a gray skirt",
            max_length=MAX_TEXT,
            scale=5,
            min_width=260,
            autofocus=True,
            elem_id="sentence",
        )
        search = gr.Button("Search", variant="primary", scale=1, min_width=110, elem_id="search")
    examples = _part(fragments.examples(page.sentences), js=PRESSED)
    with gr.Accordion("Filters and number of results" if page.filters else "Number of results", open=False), gr.Row():
        filters = [field for one in page.filters for field in _filter_fields(one)]
        count = gr.Dropdown(list(COUNTS), value=COUNTS[0], label="results", min_width=110, filterable=False)
    with gr.Accordion("Search by a picture", open=False):
        upload = gr.UploadButton("Choose a picture", type="filepath", file_types=["image"], size="md", elem_id="upload")
        uploaded = _part("", js=PRESSED)
        weight = gr.Slider(0, 1, 0.5, step=0.05, label="Weight of the sentence beside a picture")
    status = _part("", js=PRESSED + ADDRESS, elem_id="status")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            results = _part("", js=PRESSED, elem_id="results")
        with gr.Column(scale=2, min_width=320):
            why = _part("", js=PRESSED + SHOW, elem_id="why")
    with gr.Accordion("Queries of this visit", open=False):
        recent = _part("", js=PRESSED)
    return Parts(visit, text, search, examples, filters, count, upload, uploaded, weight, status, results, why, recent)


def _connect(blocks: gr.Blocks, page: SearchPage, parts: Parts) -> None:
    def shown(after: Visit, fields: Fields | None = None) -> list[Any]:
        values: list[Any] = [gr.skip()] * (3 + len(parts.filters))  # somebody may be typing
        if fields:
            values = [fields.text, fields.text_weight, fields.count, *fields.filters]
        return [after, *values, *page.parts(after).values()]

    def opened(before: Visit, request: gr.Request) -> list[Any]:
        if before.history.stack:  # somebody was faster than the page
            return shown(before)
        after = page.opened(request.query_params.multi_items())
        return shown(after, page.fields(after) if after.history.stack else None)

    def pressed(event: gr.EventData, before: Visit, *values: Any) -> list[Any]:
        number = event.value if isinstance(event.value, int) else -1
        after = page.acted(before, _fields(values), str(event.action), number)
        changed = after.history.query is not before.history.query
        return shown(after, page.fields(after) if changed else None)

    def sent(before: Visit, path: str, *values: Any) -> list[Any]:
        if not Path(path).is_file():  # read before: the event was sent twice
            return shown(before)
        content = Path(path).read_bytes()
        Path(path).unlink()  # Gradio would keep it for an hour
        return shown(page.uploaded(before, _fields(values), content))

    def asked(action: Callable[[Visit, Fields], Visit]) -> Callable[..., list[Any]]:
        return lambda before, *values: shown(action(before, _fields(values)))

    # One at a time: there is one model. Nothing of it is an API for others.
    options: dict[str, Any] = {
        "outputs": parts.outputs,
        "api_visibility": "private",
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "trigger_mode": "always_last",
        "show_progress": "minimal",
        "show_progress_on": [parts.status],
    }
    typed = [field for field in parts.filters if isinstance(field, gr.Textbox)]
    chosen: list[Any] = [parts.count, *(field for field in parts.filters if field not in typed)]
    searching = [parts.text.submit, parts.search.click, *(field.submit for field in typed)]
    blocks.load(opened, [parts.visit], **options)
    gr.on(searching, asked(page.searched), parts.inputs, **options)
    gr.on([parts.weight.release, *(field.input for field in chosen)], asked(page.refined), parts.inputs, **options)
    parts.upload.upload(sent, [parts.visit, parts.upload, *parts.inputs[1:]], **options)
    for part in (parts.examples, parts.uploaded, parts.status, parts.results, parts.why, parts.recent):
        part.click(pressed, parts.inputs, **options)


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
