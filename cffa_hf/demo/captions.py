"""Captions of the demo: each tells a part of what is visible in an image, in one to four sentences."""

from dataclasses import dataclass

import numpy as np

from cffa_hf.demo.attributes import FIELDS, Attributes, View, visible

# How likely a visible attribute is told. Gender and the type and colour of the garments always are.
MENTION_RATES: dict[str, float] = {
    "gender": 1.0,
    "build": 0.12,
    "hair_style": 0.4,
    "hair_color": 0.35,
    "upper_type": 1.0,
    "upper_color": 1.0,
    "pattern": 0.85,
    "inner_color": 0.5,
    "lower_type": 1.0,
    "lower_color": 1.0,
    "shoes_color": 0.5,
    "shoes_type": 0.4,
    "bag": 0.8,
    "bag_color": 0.85,
    "bag_side": 0.3,
    "hat": 0.8,
    "hat_color": 0.8,
    "glasses": 0.6,
    "umbrella": 0.9,
}
_NEEDS = {"bag_color": "bag", "bag_side": "bag", "hat_color": "hat", "shoes_type": "shoes_color"}

_NOUNS = {
    "t-shirt": ("t-shirt", "t-shirt", "short sleeved t-shirt", "tee", "tee shirt"),
    "shirt": ("shirt", "shirt", "long sleeved shirt", "button-up shirt"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "jacket", "short jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "dress": ("dress", "dress", "knee length dress"),
    "trousers": ("trousers", "pants", "pants"),
    "jeans": ("jeans", "jeans", "denim jeans"),
    "shorts": ("shorts", "shorts", "short pants"),
    "skirt": ("skirt", "skirt", "short skirt"),
    "leggings": ("leggings", "tight leggings", "tights"),
    "sneakers": ("sneakers", "sneakers", "trainers", "sport shoes"),
    "boots": ("boots", "boots", "ankle boots"),
    "backpack": ("backpack", "backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "shoulder bag", "crossbody bag", "messenger bag"),
    "handbag": ("handbag", "handbag", "purse"),
    "suitcase": ("suitcase", "suitcase", "rolling suitcase", "trolley case"),
    "cap": ("cap", "cap", "baseball cap"),
    "beanie": ("beanie", "knit beanie", "woolen beanie"),
    "hat": ("hat", "sun hat", "wide brimmed hat"),
}
_PLURAL = ("trousers", "jeans", "shorts", "leggings", "sneakers", "boots")


@dataclass(frozen=True)
class Caption:
    """A caption and the names of the attributes that it tells."""

    text: str
    mentions: tuple[str, ...]


def write_captions(person: Attributes, view: View, rng: np.random.Generator, count: int = 2) -> list[Caption]:
    """Write different captions of one image, each telling a part of what is visible in it."""
    captions: list[Caption] = []
    while len(captions) < count:
        caption = write_caption(person, view, rng)
        if all(caption.text != other.text for other in captions):
            captions.append(caption)
    return captions


def write_caption(
    person: Attributes, view: View, rng: np.random.Generator, rates: dict[str, float] = MENTION_RATES
) -> Caption:
    """Write one caption; `rates` gives each visible attribute's chance to be told (those left out are not)."""
    seen = visible(person, view)
    told = {name for name, rate in rates.items() if name in seen and rng.random() < rate}
    if "pattern" in told:
        told.add("pattern_color")
    if person.build == "average":
        told.discard("build")
    if person.hair_style == "bald":
        told.discard("hair_color")
    # A colour, side or kind is told together with its thing, or not at all.
    told = {name for name in told if _NEEDS.get(name, name) in told}
    text = _Writer(person, view, told, rng).text()
    return Caption(text, tuple(name for name in FIELDS if name in told))


class _Writer:
    """Put the attributes that are to be told into words; the wording is drawn at random."""

    def __init__(self, person: Attributes, view: View, told: set[str], rng: np.random.Generator):
        self.person, self.view, self.told, self.rng = person, view, told, rng
        man = person.gender == "man"
        self.he, self.him, self.his = ("he", "him", "his") if man else ("she", "her", "her")

    def one(self, *choices: str) -> str:
        return choices[self.rng.integers(len(choices))]

    def noun(self, kind: str) -> str:
        return self.one(*_NOUNS[kind])

    def color(self, name: str) -> str:
        if name == "gray":
            return self.one("gray", "grey")
        if name == "blond":
            return self.one("blond", "blonde")
        return name

    def thing(self, kind: str, *adjectives: str) -> str:
        """Return "a red cap", "blue jeans" or "a pair of blue jeans"."""
        phrase = " ".join([*filter(None, adjectives), self.noun(kind)])
        if kind in _PLURAL:
            return f"a pair of {phrase}" if self.rng.random() < 0.2 else phrase
        return _article(phrase)

    def subject(self) -> str:
        man = self.person.gender == "man"
        noun = (
            self.one("man", "man", "man", "guy", "male")
            if man
            else self.one("woman", "woman", "woman", "lady", "female")
        )
        if noun in ("male", "female"):
            noun += self.one(" pedestrian", " person")
        build = ""
        if "build" in self.told:
            build = (
                self.one("slim", "thin", "slender")
                if self.person.build == "slim"
                else self.one("heavy", "stout", "large")
            )
        phrase = f"{build} {noun}".strip()
        return self.one(f"the {phrase}", f"this {phrase}", _article(phrase), _article(phrase))

    def hair(self) -> str:
        person, told = self.person, self.told
        if person.hair_style == "bald":
            return self.one("a bald head", "a shaved head", "no hair") if "hair_style" in told else ""
        color = self.color(person.hair_color or "") if "hair_color" in told else ""
        if "hair_style" not in told:
            return f"{color} hair" if color else ""
        if person.hair_style == "ponytail":
            return (
                _article(f"{color} ponytail".strip())
                if self.rng.random() < 0.5
                else f"{color} hair in a ponytail".strip()
            )
        return f"{person.hair_style} {color}".strip() + " hair"

    def upper(self) -> str:
        person = self.person
        color = self.color(person.upper_color)
        if "pattern" not in self.told:
            phrase = self.thing(person.upper_type, color)
        else:
            second = self.color(person.pattern_color or "")
            if person.pattern == "print":
                phrase = (
                    self.thing(person.upper_type, color)
                    + " with "
                    + _article(f"{second} {self.one('print', 'logo', 'picture')}")
                )
                phrase += self.one("", " on the front", " on the chest")
            else:
                word = self.one("striped", "striped") if person.pattern == "stripes" else self.one("checked", "plaid")
                phrase = self.one(
                    self.thing(person.upper_type, f"{color} and {second}", word),
                    self.thing(person.upper_type, color) + f" with {second} {person.pattern}",
                )
        if "inner_color" in self.told:
            phrase += f" over {_article(self.color(person.inner_color or '') + self.one(' shirt', ' top'))}"
        return phrase

    def lower(self) -> str:
        if self.person.lower_type is None:
            return ""
        return self.thing(self.person.lower_type, self.color(self.person.lower_color or ""))

    def shoes(self) -> str:
        if "shoes_color" not in self.told:
            return ""
        color = self.color(self.person.shoes_color)
        return self.thing(self.person.shoes_type, color) if "shoes_type" in self.told else f"{color} shoes"

    def bag(self) -> tuple[str, str]:
        """Return how the bag is carried: as "carrying a red bag ...", and as "has a red bag ..."."""
        person, his = self.person, self.his
        if "bag" not in self.told or person.bag is None:
            return "", ""
        thing = self.thing(person.bag, self.color(person.bag_color or "") if "bag_color" in self.told else "")
        side = f"{person.bag_side} " if "bag_side" in self.told else ""
        if person.bag == "backpack":
            where = self.one("", "", f" on {his} back")
            return f"{self.one('carrying', 'wearing')} {thing}{where}", f"has {thing}{where}"
        if person.bag == "shoulder bag":
            where = f" at {his} {side}side" if side else self.one("", " across the body", f" over {his} shoulder")
            return f"carrying {thing}{where}", f"has {thing}{where}"
        if person.bag == "handbag":
            where = f" in {his} {side}hand"
            return f"{self.one('carrying', 'holding')} {thing}{where}", f"has {thing}{where}"
        pulls = f"{self.one('pulling', 'dragging')} {thing}"
        if side:
            return f"{pulls} with {his} {side}hand", f"has {thing} on {his} {side}side"
        return pulls + self.one("", f" behind {self.him}"), f"has {thing} with {self.him}"

    def hat(self) -> str:
        if "hat" not in self.told or self.person.hat is None:
            return ""
        thing = self.thing(self.person.hat, self.color(self.person.hat_color or "") if "hat_color" in self.told else "")
        return thing + self.one("", "", f" on {self.his} head")

    def glasses(self) -> str:
        return (
            self.one("dark glasses", "sunglasses", "a pair of sunglasses", "shades") if "glasses" in self.told else ""
        )

    def umbrella(self) -> str:
        return _article(self.color(self.person.umbrella or "") + " umbrella") if "umbrella" in self.told else ""

    def going(self) -> str:
        if self.rng.random() < 0.25 and self.view.facing in ("front", "back"):
            towards = "towards" if self.view.facing == "front" else "away from"
            if self.view.walking:
                return f"walking {towards} the camera"
            return "facing the camera" if self.view.facing == "front" else "facing away from the camera"
        if self.view.walking:
            return self.one("walking", "walking", "walking along", "walking by", "strolling", "striding along")
        return self.one("standing", "standing still")

    def text(self) -> str:
        """Return the caption: a sentence with the garments, then what is left in one to three more."""
        extras = {"shoes": self.shoes(), "hair": self.hair()}
        carrying, has_bag = self.bag()
        clothes = [phrase for phrase in (self.upper(), self.lower()) if phrase]
        if self.rng.random() < 0.2:
            clothes.reverse()
        if extras["shoes"] and self.rng.random() < 0.65:
            clothes.append(extras.pop("shoes"))
        who = self.subject()
        if extras["hair"] and self.rng.random() < 0.6:
            who += f" with {extras.pop('hair')}"
        first, bag_told = self.opening(who, _and(clothes), carrying)
        rest = self.rest("" if bag_told else carrying, has_bag, extras)
        sentences = [first]
        while rest:
            take = 2 if len(rest) > 1 and self.rng.random() < 0.7 else 1
            sentences.append(f"{self.one(self.he, self.he, self.he, 'the ' + self.person.gender)} {_and(rest[:take])}")
            rest = rest[take:]
        return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)

    def opening(self, who: str, worn: str, carrying: str) -> tuple[str, bool]:
        """Return the first sentence, and whether the bag is in it."""
        kind = self.one("wears", "wears", "in", "dressed", "participle", "first", "there")
        with_bag = bool(carrying) and self.rng.random() < 0.5
        if kind == "wears":
            sentence = f"{who} {self.one('wears', 'is wearing', 'has on')} {worn}"
            return (f"{sentence}, while {carrying}", True) if with_bag else (sentence, False)
        if kind == "dressed":
            sentence = f"{who} is {self.one('dressed', 'dressed', 'clothed', 'clad')} in {worn}"
            return (f"{sentence} and is {carrying}", True) if with_bag else (sentence, False)
        if kind == "participle":
            sentence = f"{who} is {self.going()}, wearing {worn}"
            return (f"{sentence} and {carrying}", True) if with_bag else (sentence, False)
        doing = carrying if with_bag else self.going()
        if kind == "there":
            who = who.replace("the ", "a ", 1) if who.startswith("the ") else who.replace("this ", "a ", 1)
            return f"there is {who} {self.one('in', 'wearing', 'dressed in')} {worn}, {doing}", with_bag
        if kind == "first":
            return f"{self.one('wearing', 'dressed in')} {worn}, {who} is {doing}", with_bag
        return f"{who} {self.one('in', 'wearing')} {worn} is {doing}", with_bag

    def rest(self, carrying: str, has_bag: str, extras: dict[str, str]) -> list[str]:
        """Return the predicates that are not in the first sentence, in any order."""
        predicates = []
        umbrella = self.umbrella()
        if umbrella:
            under = f"is {'walking ' if self.view.walking else ''}under {umbrella}"
            predicates.append(self.one(f"is holding {umbrella}", under, f"holds {umbrella} over {self.his} head"))
        if carrying:
            predicates.append(self.one(f"is {carrying}", has_bag))
        on_head = [phrase for phrase in (self.hat(), self.glasses()) if phrase]
        if on_head:
            predicates.append(f"{self.one('wears', 'is wearing', 'has on')} {_and(on_head)}")
        hair, shoes = extras.get("hair"), extras.get("shoes")
        if hair:
            predicates.append(f"has {hair}")
        if shoes:
            predicates.append(self.one(f"is wearing {shoes}", f"has {shoes} on {self.his} feet", f"wears {shoes}"))
        return [predicates[index] for index in self.rng.permutation(len(predicates))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _and(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
