"""What the page does, without a browser and without Gradio."""

import dataclasses
import re

import pytest
from PIL import Image

from cffa_hf.inference.embedder import Embedder
from cffa_hf.page.filters import MAX_CHOICES, Filter, filters_of, shown, values_of, where_of
from cffa_hf.page.page import EXAMPLES, Fields, SearchPage, Visit
from cffa_hf.page.query import MAX_TEXT
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.results import ColumnSummary
from tests.page.test_pictures import encoded
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model().base_model, tiny_processor(person_rows()), precision="float32")


@pytest.fixture(scope="module")
def page(embedder, tmp_path_factory):
    """A page of 12 pictures, with a camera, a time, a number and a text that is different for each."""
    folder = tmp_path_factory.mktemp("people")
    metadata = {}
    for place, row in enumerate(person_rows()):
        (folder / row["file_path"]).write_bytes(row["image"]["bytes"])
        known = {"camera": f"cam_{place % 3}", "time": f"2024-05-{place + 1:02d}T10:00", "floor": place % 4}
        metadata[row["file_path"]] = known | {"note": f"<b>{place}</b> & more"}
    return SearchPage(Gallery.from_folder(embedder, folder, metadata=metadata, progress=False))


def blank(page: SearchPage, **fields) -> Fields:
    return Fields(filters=values_of(page.filters, {}), **fields)


def test_columns_become_filters():
    columns = {
        "camera": ColumnSummary("camera", "text", ("a", "b")),
        "same": ColumnSummary("same", "text", ("a",)),
        "many": ColumnSummary("many", "text", tuple(map(str, range(MAX_CHOICES + 1)))),
        "endless": ColumnSummary("endless", "text", None),
        "time": ColumnSummary("time", "time", None, "2024-05-01T08:00:00.000000", "2024-05-02T08:00:00.500000"),
        "floor": ColumnSummary("floor", "number", None, 0.0, 3.5),
        "constant": ColumnSummary("constant", "number", None, 1.0, 1.0),
        "nothing": ColumnSummary("nothing", "number"),
    }
    filters = filters_of(columns)
    assert filters == (
        Filter("camera", choices=("a", "b")),
        Filter("time", bounds=("2024-05-01T08:00:00", "2024-05-02T08:00:00.500000")),
        Filter("floor", bounds=("0", "3.5")),
    )
    where = {"camera": ["a"], "floor": {"max": "2"}}
    assert where_of(filters, values_of(filters, where)) == where
    assert where_of(filters, [None, None, " ", "", None]) == {}
    assert shown(1234567.0) == "1234567"


def test_searching_refining_and_going_back(page):
    assert [one.column for one in page.filters] == ["camera", "floor", "note", "time"]
    first = page.searched(Visit(), blank(page, text="  a red shirt "))
    assert first.history.query.text == "a red shirt"
    found = page.gallery.search("a red shirt", 10)
    assert [one.result for one in first.answer.found] == found
    narrowed = dataclasses.replace(blank(page), filters=[["cam_1"], "1", "", [], "", "2024-05-06"])
    second = page.refined(first, narrowed)
    assert [one.result for one in second.answer.found] == page.gallery.search(
        "a red shirt", where={"camera": "cam_1", "floor": {"min": 1}, "time": {"max": "2024-05-06"}}
    )
    assert page.fields(second).filters == narrowed.filters
    third = page.acted(second, narrowed, "undo", 0)
    assert third.answer == first.answer
    assert page.acted(third, narrowed, "recall", 0).answer == second.answer
    assert page.acted(third, narrowed, "recall", 7) == third
    assert page.acted(third, narrowed, "format the disk", 0) == third
    assert page.acted(third, narrowed, "choose", 99) == third


def test_searching_with_nothing_typed_refines_images_like_one(page):
    visit = page.searched(Visit(), blank(page, text="a red shirt"))
    item = visit.answer.found[2].result.id
    alike = page.acted(visit, blank(page), "like", item)
    assert [one.result for one in alike.answer.found] == page.gallery.search_like(item, 10)
    limited = page.searched(alike, dataclasses.replace(blank(page), filters=[["cam_2"], "", "", [], "", ""]))
    assert [one.result for one in limited.answer.found] == page.gallery.search_like(item, 10, where={"camera": "cam_2"})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": " "}, "Type a sentence"),
        ({"text": "x" * (MAX_TEXT + 1)}, "at most 2,000 characters"),
        ({"text": "a man", "filters": [[], "high", "", [], "", ""]}, "holds numbers; 'high' is none"),
        ({"text": "a man", "filters": [[], "", "", [], "in May", ""]}, "holds times such as"),
        ({"text": "a man", "filters": [["cam_9"], "", "", [], "", ""]}, "No picture fits these filters"),
    ],
)
def test_mistakes_are_one_sentence_and_what_was_found_stays(page, fields, reason):
    before = page.searched(Visit(), blank(page, text="a red shirt"))
    after = page.searched(before, dataclasses.replace(blank(page), **fields))
    problem = re.search(r"role='alert'>(.*?)</p>", page.parts(after)["status"])[1].replace("&#x27;", "'")
    assert reason in problem
    assert problem.endswith(".")
    if "fits" not in reason:
        assert after.answer == before.answer
        assert after.history == before.history


def test_a_picture_is_kept_until_it_is_removed(page):
    visit = page.uploaded(Visit(), blank(page), encoded(Image.new("RGB", (30, 60), "red")))
    assert visit.answer.query.title == "a picture"
    assert page.parts(visit)["uploaded"].count("<img") == 1
    wrong = page.uploaded(visit, blank(page), b"no picture")
    assert wrong.answer == visit.answer
    assert "cannot be used" in wrong.error
    both = page.searched(visit, blank(page, text="a red shirt", text_weight=1.0))
    assert [one.result.id for one in both.answer.found] == [one.id for one in page.gallery.search("a red shirt", 10)]
    assert page.acted(both, blank(page, text="a red shirt"), "remove", 0).answer.query.picture is None
    assert page.acted(visit, blank(page), "remove", 0).picture is None
    assert page.parts(page.acted(both, blank(page), "example", 0))["uploaded"] == ""


def test_an_empty_gallery_says_so_at_once(embedder):
    page = SearchPage(Gallery.new(embedder))
    visit = page.opened([])
    assert "This gallery is empty" in page.parts(visit)["status"]
    assert page.filters == ()
    again = page.searched(visit, Fields(text="a man"))
    assert "This gallery is empty" in page.parts(again)["status"]
    assert page.parts(again)["results"] == ""


def test_metadata_and_queries_are_escaped(page):
    visit = page.searched(Visit(), blank(page, text="<script>alert(1)</script> red"))
    visit = page.acted(visit, blank(page), "choose", visit.answer.found[0].result.id)
    parts = page.parts(visit)
    assert "<script" not in "".join(parts.values())
    assert "&lt;b&gt;" in parts["why"]
    assert "&amp; more" in parts["results"]


def test_a_model_without_local_features_says_that_it_chooses_nothing(tmp_path):
    rows = person_rows(3)
    for row in rows:
        (tmp_path / row["file_path"]).write_bytes(row["image"]["bytes"])
    embedder = Embedder(tiny_model(use_flfr=False).base_model, tiny_processor(person_rows()), precision="float32")
    page = SearchPage(Gallery.from_folder(embedder, tmp_path, progress=False))
    visit = page.acted(page.opened([("q", "a red shirt")]), Fields(), "choose", 0)
    assert "has no local features" in page.parts(visit)["why"]
    assert len(EXAMPLES) == 3
