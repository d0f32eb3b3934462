"""Queries as links, and the history of a visit."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.page.query import COUNTS, REMEMBERED, History, Query, link_of, read_link

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip).map(str.strip)
conditions = st.dictionaries(
    words,
    st.lists(words, min_size=1, max_size=3)
    | st.dictionaries(st.sampled_from(["min", "max"]), words, min_size=1, max_size=2),
    max_size=3,
)


@given(words, st.booleans(), st.sampled_from(COUNTS), conditions)
def test_a_link_gives_back_its_query(text, like, count, where):
    query = Query(text="" if like else text, like=text if like else None, count=count, where=where)
    assert read_link(parse_qsl(link_of(query).removeprefix("?"))) == query


def test_a_link_of_others_is_no_query_and_a_wrong_one_is_explained():
    assert read_link([("utm_source", "x"), ("__theme", "dark"), ("is.", "x")]).is_empty
    assert link_of(Query(picture=Image.new("RGB", (2, 2)))) == "?"
    with pytest.raises(InputError, match=r"asks for '7' results; choose 10, 20, 50\."):
        read_link([("q", "a man"), ("count", "7")])


def test_one_column_is_limited_in_one_way():
    assert read_link([("is.time", "a"), ("min.time", "b")]).where == {"time": ["a"]}
    assert read_link([("min.time", "b"), ("is.time", "a")]).where == {"time": {"min": "b"}}


def test_history_goes_back_and_remembers():
    history = History()
    assert history.query.is_empty
    assert history.undone() == history
    for text in ("a man", "a woman", "a woman", "a man"):
        history = history.asked(Query(text=text))
    assert [query.text for query in history.stack] == ["a man", "a woman", "a man"]
    assert [query.text for query in history.recent] == ["a man", "a woman"]
    assert history.undone().query.text == "a woman"
    assert history.undone().recent == history.recent
    for number in range(2 * REMEMBERED):
        history = history.asked(Query(text=str(number)))
    assert len(history.stack) == len(history.recent) == REMEMBERED


def test_titles_say_what_was_asked():
    picture = Image.new("RGB", (2, 2))
    assert Query(text="a man").title == "a man"
    assert Query(picture=picture).title == "a picture"
    assert Query(text="a man", picture=picture).title == "a man + a picture"
    assert Query(like="a/b.jpg").title == "pictures like a/b.jpg"
    query = Query(text="x", where={"camera": ["a", "b"], "time": {"min": 1, "max": 2}})
    assert query.conditions == ["camera a or b", "time from 1", "time to 2"]
