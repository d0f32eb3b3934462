import pytest
from hypothesis import given
from hypothesis import strategies as st

from cffa_hf.errors import InputError
from cffa_hf.search.filters import Condition, kind_of, parse_filter, parse_where, to_time

KINDS = {"camera": "text", "floor": "number", "time": "time"}


def test_filters_become_conditions():
    where = {"time": {"min": "2024-01-31", "max": "2024-01-31"}, "camera": ["a", "b"], "floor": 3}
    assert parse_filter(where, KINDS) == (
        Condition("camera", ("a", "b")),
        Condition("floor", (3.0,)),
        Condition("time", None, "2024-01-31T00:00:00.000000", "2024-01-31T23:59:59.999999"),
    )
    assert parse_filter(None, KINDS) == parse_filter({}, KINDS) == ()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": "red"}, "no column 'colour' to filter by; there is camera, floor, time"),
        ({"floor": "high"}, "holds numbers; 'high' is none"),
        ({"floor": True}, "holds numbers"),
        ({"floor": float("nan")}, "holds numbers"),
        ({"floor": 10**400}, "holds numbers"),
        ({"time": "soon"}, "holds times"),
        ({"time": "2024-13-45"}, "holds times"),
        ({"camera": {"a": 1}}, "has min or max"),
        ({"camera": {}}, "has min or max"),
        ({"camera": []}, "1 to 1,000 values"),
        ({"camera": ["a"] * 1001}, "1 to 1,000 values"),
        ({"camera": [["a"]]}, "holds texts"),
        ({"camera": None}, "holds texts"),
    ],
)
def test_wrong_filters_are_one_sentence(where, message):
    with pytest.raises(InputError, match=message):
        parse_filter(where, KINDS)


def test_words_of_a_command_line():
    words = ["camera=a,b", "floor>=2", "floor<=3.5", "camera=c", "time>=2024-01-01T10:00"]
    assert parse_where(words) == {
        "camera": ["a", "b", "c"],
        "floor": {"min": "2", "max": "3.5"},
        "time": {"min": "2024-01-01T10:00"},
    }
    for words in (["camera"], ["=a"], [""], ["floor=2", "floor>=1"], ["floor>=1", "floor=2"]):
        with pytest.raises(InputError):
            parse_where(words)


@given(st.datetimes(timezones=st.none() | st.timezones()), st.datetimes(timezones=st.just(None)))
def test_texts_of_times_sort_like_times(one, other):
    if one.tzinfo is None:
        assert (to_time(one) < to_time(other)) == (one < other)
    assert to_time(one) is None or len(to_time(one)) == len(to_time(other))


def test_kinds():
    assert kind_of([1, None, 2.5]) == "number"
    assert kind_of(["2024-01-01", None]) == "time"
    assert kind_of(["2024-01-01", "x"]) == kind_of([1, "x"]) == kind_of([None]) == kind_of([True]) == "text"
