"""Every text of every record, replaced in turn by hostile ones: cards and reports show them and obey none of them."""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from cffa_hf.errors import InputError
from cffa_hf.publishing.cards import dataset_card, model_card, read_notes
from cffa_hf.publishing.curves import draw_training_curves
from cffa_hf.records.results import comparison_entry, confidence_entry, write_results
from cffa_hf.reporting.report import write_report
from tests.publishing.test_cards import CUHK_TEST, METRICS, results, run_record
from tests.records.test_results import IMAGE as IMAGE_RANKS
from tests.records.test_results import TEXT, WORSE, checkpoint, entry
from tests.tiny import tiny_config

markdown_it = pytest.importorskip("markdown_it")

HARMLESS = "word"
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\"><b onclick='x'>", "</td></tr></table><h1>Owned",
    "](javascript:alert(1))", "[x](javascript:alert(1))", "![x](https://evil.example/x.png)", "https://evil.example/x",
    "www.evil.example", "<https://evil.example>", "x\n# Owned", "x\r\n\r\n## Owned\n", "x\u2028# Owned", "`x`", "```\n# Owned",
    "a|b|c", "a\\|b", "[^1]\n\n[^1]: note", "---", "x\n---\nlicense: mit\n---\n# Owned", "<!-- begin notes -->",
    "<!-- end notes -->", "-->", "{{ 7 * 7 }}{% raw %}", "*b* **b** _i_ __b__ ~~s~~", "$$x$$", "&lt;b&gt; &#60;", "\\",
    "x: [1, 2]\ny: !!python/object/apply:os.system [id]", "\u202eabc", "\ud800", "\x00\x1b[31m", "y" * 100_000,
]  # fmt: skip
OTHERS: list[Any] = [None, True, -1, 1e308, int("9" * 4000), float("nan"), [], {}, [[["x"]]], {"a": {"b": []}}]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to all values and keys of a structure of JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), "key"
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))
    yield path, "value"


def replaced(record: Any, path: tuple, kind: str, new: Any) -> Any:
    """The record with one value, or one key, replaced."""
    if not path:
        return new
    changed = copy.deepcopy(record)
    place = changed
    for step in path[:-1]:
        place = place[step]
    if kind == "value":
        place[path[-1]] = new
    else:
        place[new] = place.pop(path[-1])
    return changed


def texts(record: Any) -> list[tuple]:
    """Places of all texts: keys, and values that are texts."""
    found = []
    for path, kind in places(record):
        value = record
        for step in path:
            value = value[step]
        if kind == "key" or isinstance(value, str):
            found.append((path, kind))
    return found


def structure(text: str) -> list:
    """What a Markdown parser makes of a card, without its plain texts: blocks, links, images, HTML, code blocks."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(text):
        if token.type != "inline":
            found.append((token.type, token.tag, token.content if token.type == "html_block" else ""))
            continue
        for child in token.children or []:
            if child.type not in ("text", "code_inline", "text_special", "softbreak"):
                found.append(
                    (child.type, tuple(child.attrs.items()), child.content if child.type == "html_inline" else "")
                )
    return found


def front_matter(text: str) -> Any:
    """The metadata, without their texts."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__

    assert text.startswith("---\n")
    return shape(yaml.safe_load(text[4 : text.index("\n---\n")]))


def card_of(folder, run: Any, result: Any) -> str:
    for name, record in (("run.json", run), ("results.json", result)):
        (folder / name).write_text(json.dumps(record))
    card = str(model_card(folder, "owner/model"))
    card.encode("utf-8")
    assert read_notes(card, "card") == ""
    return card


RUN = run_record(
    init_from="word/word",
    dataset={
        "name": "my_people",
        "evaluated": "word",
        "rendered": False,
        "division": {"how": "divided", "seed": 3, "identities": {"train": 5, "test": 2}},
        "splits": {"train": CUHK_TEST, "test": CUHK_TEST},
    },
)
ENTRY = {
    "dataset": "my_people",
    "split": "test",
    "counts": CUHK_TEST,
    "text_to_image": METRICS,
    "image_to_text": METRICS,
}
SHARED = {
    "shared": [{"people": 3, "images": 4, "role": "trained", "name": "x"}],
    "division": "x",
    "precision": "float32",
}
RESULT = results() | {
    "splits": {"test": ENTRY | SHARED, "near": ENTRY},
    "checkpoint": {"name": "run", "weights_sha256": "0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_config().save_pretrained(path)
    return path


@cache
def harmless_card(folder, where: str, path: tuple, kind: str) -> tuple:
    """What a harmless word in a place makes of the card."""
    changed = replaced(RUN if where == "run" else RESULT, path, kind, HARMLESS)
    card = card_of(folder, *((changed, RESULT) if where == "run" else (RUN, changed)))
    return structure(ModelCard(card).text), front_matter(card), len(card)


def everywhere(record: Any, new: str) -> Any:
    """The record with all its texts replaced, not its keys."""
    if isinstance(record, dict):
        return {key: everywhere(value, new) for key, value in record.items()}
    if isinstance(record, list):
        return [everywhere(value, new) for value in record]
    return new if isinstance(record, str) else record


def test_a_record_of_hostile_texts_alone_makes_the_card_of_a_harmless_one(folder):
    cards = [card_of(folder, everywhere(RUN, text), everywhere(RESULT, text)) for text in (HARMLESS, *HOSTILE)]
    blocks, data = structure(ModelCard(cards[0]).text), front_matter(cards[0])
    for text, card in zip(HOSTILE, cards[1:], strict=True):
        assert structure(ModelCard(card).text) == blocks, text[:80]
        assert front_matter(card) == data, text[:80]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_text_of_a_record_is_markup_in_a_model_card(folder, number):
    # The least and the most that it may change is what a harmless word in its place changes, too.
    hostile = HOSTILE[number]
    for record, where in ((RUN, "run"), (RESULT, "result")):
        for path, kind in texts(record)[number % 10 :: 10]:  # each place meets several of the texts
            changed = replaced(record, path, kind, hostile)
            card = card_of(folder, *((changed, RESULT) if where == "run" else (RUN, changed)))
            blocks, data, length = harmless_card(folder, where, path, kind)
            assert structure(ModelCard(card).text) == blocks, path
            assert front_matter(card) == data, path
            assert len(card) < length + 5000, path


@pytest.mark.slow
def test_values_of_another_kind_make_a_card_or_one_sentence(folder):
    for record, where in ((RUN, "run"), (RESULT, "result")):
        values = [path for path, kind in places(record) if kind == "value"]
        for number, path in enumerate(values):
            for new in OTHERS[number % 10 :: 10]:
                changed = replaced(record, path, "value", new)
                records = (changed, RESULT) if where == "run" else (RUN, changed)
                if path or isinstance(new, dict):
                    assert front_matter(card_of(folder, *records))["library_name"] == "str"
                else:
                    with pytest.raises(InputError, match=r"(run|results)\.json"):
                        card_of(folder, *records)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_of_a_dataset_and_its_pictures_are_no_markup(folder, tmp_path, hostile):
    cards = []
    for name in (hostile, HARMLESS):
        card = dataset_card(
            {"train": CUHK_TEST, name: CUHK_TEST}, name, "owner/data", rendered=False, division=f"By {name}"
        )
        cards.append(str(card))
        assert read_notes(cards[-1], "card") == ""
    assert structure(ModelCard(cards[0]).text) == structure(ModelCard(cards[1]).text)
    assert front_matter(cards[0]) == front_matter(cards[1])
    file = hostile[:40].replace("/", "").replace("\x00", "").replace("\ud800", "")
    tiny_config().save_pretrained(tmp_path)
    for picture in (f"{file}-ranking.png", f"{file}-cmc.png"):
        (tmp_path / picture).write_bytes(b"")
    found = structure(ModelCard(card_of(tmp_path, RUN, RESULT)).text)
    sources = [dict(attributes)["src"] for kind, attributes, _ in found if kind == "image"]
    assert len(sources) == 1
    assert re.fullmatch(r"[\w.%~-]*-ranking\.png", sources[0], re.ASCII)  # a file beside the card
    links = {dict(attributes)["href"] for kind, attributes, _ in found if kind == "link_open"}
    own = {"https://github.com/lqfhello/CFFA"}  # of the template: the code of the method's authors
    assert all(link.startswith("https://huggingface.co/") for link in links - own)
    html = [content for kind, _, content in found if kind == "html_block" and "<img" in content]
    assert len(html) == 1
    assert tags(html[0]) == [("img", ("src", "width", "alt"))]


@pytest.mark.parametrize(
    "log", [[3], ["x"], [{"epoch": "x", "loss": 1}], [{"epoch": 1, "loss": []}], [{"epoch": 1, "eval_rank1": {}}]]
)
def test_a_log_of_something_else_draws_nothing(tmp_path, log):
    assert draw_training_curves(log, tmp_path / "training.png") is False


class Tags(HTMLParser):
    """The elements of a page with the names of their attributes, and their addresses."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}", ()))

    def handle_comment(self, data):
        self.found.append(("comment", ()))


def tags(page: str) -> list[tuple]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    return parser.found


def test_no_text_of_results_is_markup_in_a_report(tmp_path):
    part = entry(dataset="people") | {
        "camera_aware": False,
        "precision": "float32",
        "division": "as the source",
        "confidence": confidence_entry(TEXT, IMAGE_RANKS),
        "comparison": comparison_entry(checkpoint(), (WORSE, IMAGE_RANKS), (TEXT, IMAGE_RANKS)),
        "slices": {"mentions a hat": {**entry()["text_to_image"], "queries": 12}},
        "stress": {"captions": {"typos": {"10% of words": entry()["text_to_image"]}}, "images": {}},
        "shared": [{"people": 3, "images": 4, "role": "trained"}],
    }
    record = {"results": write_results(tmp_path, checkpoint(), {"test": part}), "entries": {"test": part}}
    # Names of metrics and parts are the package's own.
    own = {
        *METRICS,
        *record["results"],
        *part,
        *part["counts"],
        "people",
        "images",
        "role",
        "other",
        "this",
        "difference",
    }
    own |= {
        "low",
        "high",
        "p_value",
        "queries",
        "level",
        "name",
        "commit",
        "weights_sha256",
        "results",
        "entries",
        "captions",
    }
    changed = [(path, kind) for path, kind in texts(record) if kind == "value" or path[-1] not in own]
    assert len(changed) > 30
    for path, kind in changed:
        # In one string: the report escapes all alike.
        new = "".join(HOSTILE[:-4])
        pages = [
            write_report(tmp_path / "report.html", given["results"], given["entries"], {}).read_text()
            for given in (replaced(record, path, kind, text) for text in (new, HARMLESS))
        ]
        assert tags(pages[0]) == tags(pages[1]), path
        assert "javascript:alert" not in "".join(str(tag) for tag in tags(pages[0]))
