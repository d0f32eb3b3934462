"""The people of the demo: attributes, similar people, and what a view of a person shows."""

from dataclasses import asdict, dataclass, fields, replace

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (26, 26, 30),
    "white": (238, 238, 234),
    "gray": (126, 129, 134),
    "red": (204, 26, 34),
    "blue": (32, 72, 200),
    "green": (26, 136, 62),
    "yellow": (244, 208, 36),
    "orange": (244, 122, 20),
    "purple": (122, 42, 168),
    "pink": (248, 128, 184),
    "brown": (112, 66, 30),
    "blond": (226, 190, 104),
}

_UPPER_COLORS = ("black", "white", "gray", "red", "blue", "green", "yellow", "orange", "purple", "pink", "brown")
_LOWER_COLORS = {
    "trousers": ("black", "gray", "white", "brown", "green", "red"),
    "jeans": ("blue", "black", "gray"),
    "shorts": ("black", "gray", "white", "blue", "green", "red", "brown"),
    "skirt": ("black", "white", "gray", "red", "blue", "purple", "pink", "yellow"),
    "leggings": ("black", "gray", "purple", "blue", "pink"),
}
_SHOE_COLORS = ("black", "white", "red", "blue", "brown", "yellow")
_BAG_COLORS = ("black", "red", "blue", "brown", "yellow", "pink", "green", "white")
_HAT_COLORS = ("black", "red", "white", "blue", "yellow", "green")
_UMBRELLA_COLORS = ("black", "red", "blue", "yellow", "green", "purple", "pink")
_HAIR_COLORS = ("black", "brown", "blond", "gray")
_HAIR_STYLES = {
    "man": (("short", 0.76), ("bald", 0.14), ("long", 0.10)),
    "woman": (("long", 0.5), ("ponytail", 0.3), ("short", 0.2)),
}
_UPPER_TYPES = {
    "man": (("t-shirt", 0.28), ("shirt", 0.22), ("hoodie", 0.18), ("jacket", 0.2), ("coat", 0.12)),
    "woman": (("t-shirt", 0.22), ("shirt", 0.18), ("hoodie", 0.12), ("jacket", 0.17), ("coat", 0.14), ("dress", 0.17)),
}
_LOWER_TYPES = {
    "man": (("trousers", 0.4), ("jeans", 0.34), ("shorts", 0.26)),
    "woman": (("trousers", 0.2), ("jeans", 0.24), ("shorts", 0.14), ("skirt", 0.26), ("leggings", 0.16)),
}
_BAGS = {
    "man": ((None, 0.36), ("backpack", 0.32), ("shoulder bag", 0.14), ("handbag", 0.06), ("suitcase", 0.12)),
    "woman": ((None, 0.32), ("backpack", 0.22), ("shoulder bag", 0.18), ("handbag", 0.18), ("suitcase", 0.10)),
}

# A colour, side or pattern colour belongs to something; without that thing it is None and never counts on its own.
_OWNERS = {
    "hair_color": "hair_style",
    "pattern_color": "pattern",
    "inner_color": "upper_type",
    "pattern": "upper_type",
    "lower_color": "lower_type",
    "bag_color": "bag",
    "bag_side": "bag",
    "hat_color": "hat",
}


@dataclass(frozen=True)
class Attributes:
    """Everything that tells one demo person from another; None where a thing is absent.

    `lower_type` is None for a dress, `pattern` is None for a plain garment, `inner_color` is the shirt under an open
    jacket or coat, `bag_side` is the person's own left or right (None for a backpack). `skin` is drawn but
    never described.
    """

    gender: str
    build: str
    skin: int
    hair_style: str
    hair_color: str | None
    upper_type: str
    upper_color: str
    pattern: str | None
    pattern_color: str | None
    inner_color: str | None
    lower_type: str | None
    lower_color: str | None
    shoes_type: str
    shoes_color: str
    bag: str | None
    bag_color: str | None
    bag_side: str | None
    hat: str | None
    hat_color: str | None
    glasses: bool
    umbrella: str | None

    def to_dict(self) -> dict[str, str | int | bool | None]:
        """Return the attributes as JSON values, in the order of the fields."""
        return asdict(self)


FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Attributes) if field.name != "skin")


@dataclass(frozen=True)
class View:
    """How one image shows a person.

    Attributes:
        camera: Index of the camera.
        facing: "front", "back", or the side that is turned to the camera: "left", "right".
        walking: A stride rather than a stand.
        occluder: "pole", "bush", "person" or None, in front of the person.
        occluder_side: -1 for the image's left, 1 for its right.
    """

    camera: int
    facing: str
    walking: bool
    occluder: str | None
    occluder_side: int


def side_in_image(side: str, facing: str) -> int:
    """Return where a person's left or right appears: -1 image left, 1 image right, 0 in the middle (side views)."""
    if facing in ("left", "right"):
        return 0
    return 1 if (side == "left") == (facing == "front") else -1


def differing(first: Attributes, second: Attributes) -> set[str]:
    """Return the names of the attributes in which two people differ.

    A detail counts only where both have the thing it belongs to and that thing is of the same kind: a person with a red
    backpack and one with no bag differ in `bag`, not in `bag_color` as well.
    """
    names = {name for name in FIELDS if getattr(first, name) != getattr(second, name)}
    return {name for name in names if _OWNERS.get(name) not in names}


def visible(person: Attributes, view: View) -> set[str]:
    """Return the names of the attributes that can be seen in one view of a person (absent things cannot)."""
    names = {name for name in FIELDS if getattr(person, name) not in (None, False)}
    back, from_side = view.facing == "back", view.facing in ("left", "right")
    if back:
        names.discard("glasses")
    if back or from_side:
        names.discard("inner_color")
    if person.pattern == "print" and view.facing != "front":
        names -= {"pattern", "pattern_color"}
    if person.hair_style == "ponytail" and view.facing == "front":
        names.discard("hair_style")
    if person.hat is not None and person.hair_style in ("short", "bald"):
        names -= {"hair_style", "hair_color"}
    if view.occluder == "bush":
        names -= {"shoes_type", "shoes_color"}
    if person.bag is not None and not _bag_visible(person, view):
        names -= {"bag", "bag_color", "bag_side"}
    return names


def _bag_visible(person: Attributes, view: View) -> bool:
    if person.bag == "backpack":
        return view.facing != "front"
    assert person.bag_side is not None
    at = side_in_image(person.bag_side, view.facing)
    if at == 0 and person.bag == "suitcase":
        at = 1 if view.facing == "left" else -1  # It is pulled behind, on either side.
    elif at == 0:
        return person.bag_side == view.facing and view.occluder is None
    return view.occluder is None or view.occluder_side != at


def _weighted(rng: np.random.Generator, choices: tuple[tuple[str | None, float], ...]) -> str | None:
    values, weights = zip(*choices, strict=True)
    return values[rng.choice(len(values), p=np.array(weights) / sum(weights))]


def _one(rng: np.random.Generator, values: tuple[str, ...], *without: str | None) -> str:
    allowed = [value for value in values if value not in without]
    return allowed[rng.integers(len(allowed))]


def _text(value: str | None) -> str:
    assert value is not None
    return value


def sample_person(rng: np.random.Generator) -> Attributes:
    """Draw a person: garments that go with each other, gender-dependent types, colours nearly uniform."""
    gender = "man" if rng.random() < 0.5 else "woman"
    hair_style = _text(_weighted(rng, _HAIR_STYLES[gender]))
    upper_type = _text(_weighted(rng, _UPPER_TYPES[gender]))
    upper_color = _one(rng, _UPPER_COLORS)
    pattern, pattern_color = _sample_pattern(rng, upper_type, upper_color)
    lower_type = None if upper_type == "dress" else _text(_weighted(rng, _LOWER_TYPES[gender]))
    bag, bag_color, bag_side = _sample_bag(rng, gender)
    umbrella = _one(rng, _UMBRELLA_COLORS) if rng.random() < 0.12 else None
    hat = None
    if umbrella is None and rng.random() < 0.3:
        hat = _one(rng, ("cap", "beanie", "hat"))
    return Attributes(
        gender=gender,
        build=_text(_weighted(rng, (("slim", 0.3), ("average", 0.45), ("heavy", 0.25)))),
        skin=int(rng.integers(4)),
        hair_style=hair_style,
        hair_color=None if hair_style == "bald" else _one(rng, _HAIR_COLORS),
        upper_type=upper_type,
        upper_color=upper_color,
        pattern=pattern,
        pattern_color=pattern_color,
        inner_color=_one(rng, _UPPER_COLORS, upper_color) if upper_type in ("jacket", "coat") else None,
        lower_type=lower_type,
        lower_color=_one(rng, _LOWER_COLORS[lower_type]) if lower_type else None,
        shoes_type="boots" if rng.random() < 0.3 else "sneakers",
        shoes_color=_one(rng, _SHOE_COLORS),
        bag=bag,
        bag_color=bag_color,
        bag_side=bag_side,
        hat=hat,
        hat_color=_one(rng, _HAT_COLORS) if hat else None,
        glasses=bool(rng.random() < 0.22),
        umbrella=umbrella,
    )


def _sample_pattern(rng: np.random.Generator, upper_type: str, color: str) -> tuple[str | None, str | None]:
    if upper_type in ("jacket", "coat") or rng.random() < 0.55:
        return None, None
    patterns = ("stripes", "checks") if upper_type in ("shirt", "dress") else ("stripes", "print")
    # Stripes of two dark or two light colours would vanish at this size.
    dark, light = ("black", "brown", "purple", "blue", "green"), ("white", "yellow", "pink", "gray")
    if color in dark:
        return _one(rng, patterns), _one(rng, ("white", "yellow", "red"))
    if color in light:
        return _one(rng, patterns), _one(rng, ("black", "blue", "red"), color)
    return _one(rng, patterns), _one(rng, ("white", "black"))


def _sample_bag(rng: np.random.Generator, gender: str) -> tuple[str | None, str | None, str | None]:
    bag = _weighted(rng, _BAGS[gender])
    if bag is None:
        return None, None, None
    return bag, _one(rng, _BAG_COLORS), None if bag == "backpack" else _one(rng, ("left", "right"))


def change_one(person: Attributes, rng: np.random.Generator) -> Attributes:
    """Return the person with exactly one attribute changed."""
    # Details weigh more than what every caption tells.
    details = ["shoes_color", "hair_color", "bag", "bag_color", "hat", "hat_color", "glasses", "inner_color", "pattern"]
    changes = [*details, *details, "upper_color", "upper_type", "lower_color", "lower_type", "umbrella"]
    while True:
        changed = _change(person, changes[rng.integers(len(changes))], rng)
        if changed is not None and len(differing(person, changed)) == 1:
            return changed


def _change(person: Attributes, name: str, rng: np.random.Generator) -> Attributes | None:
    """Return the person with a new value of one attribute, or None where it does not apply."""
    if name == "upper_color" and person.pattern is None:
        return replace(person, upper_color=_one(rng, _UPPER_COLORS, person.upper_color, person.inner_color))
    if name == "lower_color" and person.lower_type:
        return replace(person, lower_color=_one(rng, _LOWER_COLORS[person.lower_type], person.lower_color))
    if name == "shoes_color":
        return replace(person, shoes_color=_one(rng, _SHOE_COLORS, person.shoes_color))
    if name == "bag":
        bag, color, side = _sample_bag(rng, person.gender)
        return replace(person, bag=bag, bag_color=color, bag_side=side)
    if name == "bag_color" and person.bag:
        return replace(person, bag_color=_one(rng, _BAG_COLORS, person.bag_color))
    if name == "hat" and person.umbrella is None:
        return replace(person, hat=None, hat_color=None) if person.hat else replace(person, hat="cap", hat_color="red")
    if name == "hat_color" and person.hat:
        return replace(person, hat_color=_one(rng, _HAT_COLORS, person.hat_color))
    if name == "glasses":
        return replace(person, glasses=not person.glasses)
    if name == "umbrella" and person.umbrella:
        return replace(person, umbrella=_one(rng, _UMBRELLA_COLORS, person.umbrella))
    if name == "pattern":
        if person.pattern:
            return replace(person, pattern=None, pattern_color=None)
        pattern, color = _sample_pattern(rng, person.upper_type, person.upper_color)
        return replace(person, pattern=pattern, pattern_color=color)
    if name == "upper_type" and person.upper_type in ("t-shirt", "shirt", "hoodie") and person.pattern is None:
        return replace(person, upper_type=_one(rng, ("t-shirt", "shirt", "hoodie"), person.upper_type))
    if name == "hair_color" and person.hair_color:
        return replace(person, hair_color=_one(rng, _HAIR_COLORS, person.hair_color))
    if name == "lower_type" and person.lower_type and person.lower_color in ("black", "gray"):
        types = tuple(_text(kind) for kind, _ in _LOWER_TYPES[person.gender])
        return replace(person, lower_type=_one(rng, types, person.lower_type))
    if name == "inner_color" and person.inner_color:
        return replace(person, inner_color=_one(rng, _UPPER_COLORS, person.inner_color, person.upper_color))
    return None


def sample_people(count: int, rng: np.random.Generator, taken: set[Attributes]) -> list[Attributes]:
    """Draw `count` different people of one split; about half resemble another but for one or two attributes.

    Whoever resembles another follows that person in the list. `taken` holds everybody drawn so far, in any split, and
    is added to, so that no two identities are alike and the people of the test split are new combinations.
    """
    people: list[Attributes] = []
    alone = True
    while len(people) < count:
        neighbour = bool(people) and alone and rng.random() < 0.28
        if neighbour:
            person = change_one(people[-1], rng)
            if rng.random() < 0.35:
                person = change_one(person, rng)
        else:
            person = sample_person(rng)
        if person in taken or (neighbour and not 1 <= len(differing(people[-1], person)) <= 2):
            continue
        alone = not neighbour
        taken.add(person)
        people.append(person)
    return people


def sample_views(count: int, cameras: int, rng: np.random.Generator) -> list[View]:
    """Draw the views of one person: cameras without repetition while they last, front and back before the rest."""
    facings = ["front", "back"]
    facings += [
        _text(_weighted(rng, (("front", 0.35), ("back", 0.2), ("left", 0.225), ("right", 0.225)))) for _ in range(count)
    ]
    first = [facings[index] for index in rng.permutation(2)] + facings[2:]
    order = np.concatenate([rng.permutation(cameras) for _ in range(count // cameras + 1)])
    views = []
    for index in range(count):
        hidden = rng.random() < 0.14
        occluder = _one(rng, ("pole", "bush", "person")) if hidden else None
        views.append(
            View(int(order[index]), first[index], bool(rng.random() < 0.75), occluder, int(rng.integers(2)) * 2 - 1)
        )
    return views
