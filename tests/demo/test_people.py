"""The people of the demo: attributes, visibility, neighbours, captions and pictures."""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cffa_hf.demo.attributes import (
    COLORS,
    FIELDS,
    Attributes,
    View,
    change_one,
    differing,
    sample_people,
    sample_person,
    sample_views,
    side_in_image,
    visible,
)
from cffa_hf.demo.captions import MENTION_RATES, write_caption, write_captions
from cffa_hf.demo.render import render

PERSON = Attributes(
    gender="woman",
    build="slim",
    skin=0,
    hair_style="short",
    hair_color="brown",
    upper_type="jacket",
    upper_color="green",
    pattern=None,
    pattern_color=None,
    inner_color="white",
    lower_type="jeans",
    lower_color="blue",
    shoes_type="boots",
    shoes_color="red",
    bag="handbag",
    bag_color="pink",
    bag_side="left",
    hat=None,
    hat_color=None,
    glasses=True,
    umbrella=None,
)
seeds = st.integers(0, 2**32 - 1)


def view(facing: str, occluder: str | None = None, side: int = 1) -> View:
    return View(0, facing, True, occluder, side)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_one_change_changes_one_attribute(seed: int):
    rng = np.random.default_rng(seed)
    person = sample_person(rng)
    assert len(differing(person, change_one(person, rng))) == 1


def test_many_have_a_neighbour_within_two_attributes_and_nobody_a_double():
    taken: set[Attributes] = set()
    people = sample_people(100, np.random.default_rng(0), taken)
    others = sample_people(100, np.random.default_rng(1), taken)
    assert len(set(people) | set(others)) == 200
    close = [any(0 < len(differing(a, b)) <= 2 for b in people) for a in people]
    assert 0.3 < np.mean(close) < 0.75
    # A neighbour stands beside the person it resembles.
    beside = [len(differing(a, b)) <= 2 for a, b in pairwise(people)]
    assert 0.1 < np.mean(beside) < 0.4


def test_details_of_an_absent_thing_do_not_count_as_differences():
    bare = replace(PERSON, bag=None, bag_color=None, bag_side=None)
    assert differing(PERSON, bare) == {"bag"}
    assert differing(PERSON, replace(PERSON, bag_color="black")) == {"bag_color"}


def test_what_a_view_hides():
    assert {"glasses", "inner_color", "bag"} <= visible(PERSON, view("front"))
    assert not {"glasses", "inner_color"} & visible(PERSON, view("back"))
    assert {"bag", "bag_color"} <= visible(PERSON, view("left"))
    assert not {"bag", "bag_color", "bag_side"} & visible(PERSON, view("right"))
    assert "shoes_color" not in visible(PERSON, view("back", "bush"))
    assert "hat" not in visible(PERSON, view("front"))
    packed = replace(PERSON, bag="backpack", bag_side=None)
    assert "bag" in visible(packed, view("back"))
    assert "bag" not in visible(packed, view("front"))
    assert "hair_color" not in visible(replace(PERSON, hat="cap", hat_color="red"), view("front"))


def test_an_occluder_hides_the_bag_on_its_side_only():
    assert side_in_image("left", "front") == 1
    assert side_in_image("left", "back") == -1
    assert "bag" not in visible(PERSON, view("front", "pole", 1))
    assert "bag" in visible(PERSON, view("front", "pole", -1))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_captions_mention_only_what_is_visible_and_always_the_garments(seed: int):
    rng = np.random.default_rng(seed)
    person = sample_person(rng)
    (seen,) = sample_views(1, 8, rng)
    first, second = write_captions(person, seen, rng)
    assert first.text != second.text
    for caption in (first, second):
        mentioned = set(caption.mentions)
        assert mentioned <= visible(person, seen) <= set(FIELDS)
        assert {"gender", "upper_type", "upper_color"} <= mentioned
        assert person.upper_color in caption.text.lower().replace("grey", "gray")
        if person.lower_color:
            assert "lower_color" in mentioned
            assert person.lower_color in caption.text.lower().replace("grey", "gray")
        # No colour is named that the person does not wear.
        worn = {str(value) for value in person.to_dict().values()}
        words = caption.text.lower().replace("grey", "gray").replace("blonde", "blond").replace(",", "").split()
        assert {word.strip(".") for word in words} & set(COLORS) <= worn
        assert "  " not in caption.text
        assert " a a " not in caption.text
        assert caption.text.count("..") == 0


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_a_thing_that_is_not_mentioned_is_not_in_the_words(seed: int):
    rng = np.random.default_rng(seed)
    person = replace(sample_person(rng), umbrella="red", hat=None, hat_color=None)
    caption = write_caption(person, view("front"), rng, {"gender": 1.0, "upper_type": 1.0, "upper_color": 1.0})
    assert "umbrella" not in caption.text
    assert set(caption.mentions) == {"gender", "upper_type", "upper_color"}


def test_a_caption_can_mention_everything():
    rng = np.random.default_rng(0)
    caption = write_caption(PERSON, view("front"), rng, dict.fromkeys(MENTION_RATES, 1.0))
    assert set(caption.mentions) == visible(PERSON, view("front"))
    for word in ("pink", "left", "red", "boots", "brown", "white", "blue", "green"):
        assert word in caption.text


def pixels(person: Attributes, seen: View, seed: int = 0, image_id: int = 0) -> np.ndarray:
    with Image.open(BytesIO(render(person, seen, seed, image_id))) as image:
        return np.asarray(image.convert("RGB").resize((32, 96)), dtype=np.float32)


@pytest.mark.parametrize("facing", ["front", "back", "left", "right"])
def test_garment_colours_are_clear_at_training_size(facing: str):
    person = replace(PERSON, upper_type="t-shirt", inner_color=None, upper_color="red", lower_color="blue")
    image = pixels(person, view(facing))
    upper, lower = image[28:42, 12:20].mean((0, 1)), image[54:64, 11:21].mean((0, 1))
    assert upper[0] > upper[1] + 40
    assert upper[0] > upper[2] + 40
    assert lower[2] > lower[0] + 20


def test_every_kind_of_person_can_be_drawn_from_every_side():
    rng = np.random.default_rng(5)
    for image_id, facing in enumerate(("front", "back", "left", "right") * 6):
        person = sample_person(rng)
        occluder = (None, "pole", "bush", "person")[image_id // 4 % 4]
        image = pixels(person, view(facing, occluder), image_id=image_id)
        assert image.std() > 10


def test_a_changed_attribute_changes_the_picture_where_it_is_visible():
    bare = replace(PERSON, glasses=False)
    shown = np.abs(pixels(PERSON, view("front")) - pixels(bare, view("front"))).max()
    hidden = np.abs(pixels(PERSON, view("back")) - pixels(bare, view("back"))).max()
    assert shown > 40 > hidden
