"""Paint what people carry: bags and umbrellas."""

import numpy as np

from cffa_hf.demo.attributes import COLORS, Attributes, View, side_in_image
from cffa_hf.demo.layers import Color, Layers, Point
from cffa_hf.demo.pose import Pose

_METAL: Color = (150, 150, 156)
_GOLD: Color = (222, 190, 90)


def _place(person: Attributes, view: View, pose: Pose) -> tuple[int, bool]:
    """Return the index of the arm on the bag's side, and whether the body is between it and the camera."""
    assert person.bag_side is not None
    if pose.turn:
        near = person.bag_side == view.facing
        return (1, False) if near else (0, True)
    return (0 if side_in_image(person.bag_side, view.facing) < 0 else 1), False


def paint_bag_behind(layers: Layers, person: Attributes, view: View, pose: Pose) -> None:
    """Paint the bags, or parts of them, that the body covers."""
    if person.bag is None:
        return
    color = COLORS[person.bag_color or "black"]
    if person.bag == "backpack":
        if pose.turn:
            _backpack_from_side(layers, color, pose)
        return
    index, hidden = _place(person, view, pose)
    if person.bag == "suitcase" and (hidden or not pose.turn):
        aside = (-1 if index == 0 else 1) * (0.1 * pose.width + 0.055)
        _suitcase(layers, color, -0.15 * pose.turn if pose.turn else aside, pose.hands[index])
    elif person.bag == "handbag" and hidden:
        _handbag(layers, color, pose.hands[index])


def paint_bag_in_front(layers: Layers, person: Attributes, view: View, pose: Pose) -> None:
    """Paint the bags, straps or parts that cover the body."""
    if person.bag is None:
        return
    color = COLORS[person.bag_color or "black"]
    if person.bag == "backpack":
        if pose.back:
            _backpack(layers, color, pose.width)
        else:
            _backpack_straps(layers, color, pose)
        return
    index, hidden = _place(person, view, pose)
    if hidden:
        return
    if person.bag == "suitcase" and pose.turn:
        _suitcase(layers, color, -0.15 * pose.turn, pose.hands[index])
    elif person.bag == "handbag":
        _handbag(layers, color, pose.hands[index])
    elif person.bag == "shoulder bag" and pose.turn:
        layers.line([(0.0, 0.18), (-0.012 * pose.turn, 0.42)], 0.014, color, 100)
        _pouch(layers, color, -0.012 * pose.turn, 0.47)
    elif person.bag == "shoulder bag":
        at = -1 if index == 0 else 1
        hip = at * 0.1 * pose.width
        layers.line([(-at * 0.062 * pose.width, 0.176), (hip * 0.8, 0.44)], 0.016, color, 100)
        _pouch(layers, color, hip, 0.485)


def _backpack(layers: Layers, color: Color, width: float) -> None:
    half = 0.088 * (0.5 + 0.5 * width)
    rows = [(0.176, 0.6), (0.198, 0.92), (0.26, 1.0), (0.43, 1.0), (0.455, 0.85)]
    layers.trunk([(y, -half * share, half * share) for y, share in rows], color)
    layers.fold([(-half * 0.9, 0.25), (0, 0.262), (half * 0.9, 0.25)], 0.008, 70)
    pocket = [(-half * 0.7, 0.34), (half * 0.7, 0.34), (half * 0.74, 0.435), (-half * 0.74, 0.435)]
    layers.relief(pocket, 112)
    layers.fold([*pocket, pocket[0]], 0.007, 74)
    layers.fold([(-half * 0.6, 0.352), (half * 0.6, 0.352)], 0.008, 150)


def _backpack_from_side(layers: Layers, color: Color, pose: Pose) -> None:
    behind = -pose.turn
    back = 0.05 * pose.width
    outline = [(0.0, 0.19), (0.08, 0.195), (0.1, 0.25), (0.1, 0.42), (0.08, 0.45), (0.0, 0.45)]
    layers.polygon([((back + out) * behind, y) for out, y in outline], color, 118)
    pocket = [(0.1, 0.34), (0.122, 0.36), (0.122, 0.42), (0.1, 0.44)]
    layers.polygon([((back + out) * behind, y) for out, y in pocket], color, 102)
    layers.fold([((back + 0.088) * behind, 0.33), (back * behind, 0.33)], 0.008, 84)
    layers.fold([((back + 0.06) * behind, 0.21), ((back + 0.06) * behind, 0.31)], 0.016, 146)


def _backpack_straps(layers: Layers, color: Color, pose: Pose) -> None:
    if pose.turn:
        strap = [(-0.03, 0.185), (0.035, 0.22), (0.03, 0.31), (-0.04, 0.38)]
        layers.line([(forward * pose.turn, y) for forward, y in strap], 0.017, color, 110)
        return
    for side in (-1, 1):
        strap = [(0.058, 0.174), (0.064, 0.3), (0.09, 0.37)]
        layers.line([(side * out * pose.width, y) for out, y in strap], 0.02, color, 116)


def _suitcase(layers: Layers, color: Color, x: float, hand: Point) -> None:
    top, bottom, half = 0.7, 0.965, 0.062
    for side in (-1, 1):
        layers.line([(x + side * 0.02, top), (hand[0] + side * 0.012, hand[1])], 0.009, _METAL)
    layers.line([(hand[0] - 0.02, hand[1]), (hand[0] + 0.02, hand[1])], 0.014, (40, 40, 44))
    layers.trunk(
        [(top, x - half * 0.9, x + half * 0.9), (top + 0.02, x - half, x + half), (bottom, x - half, x + half)], color
    )
    for share in (-0.45, 0.0, 0.45):
        layers.fold([(x + share * half, top + 0.02), (x + share * half, bottom - 0.015)], 0.007, 84)
    for share in (-0.7, 0.7):
        layers.ellipse((x + share * half, bottom + 0.01), 0.012, 0.012, (26, 26, 28))


def _handbag(layers: Layers, color: Color, hand: Point) -> None:
    x, y = hand
    handle = [(-0.028, 0.05), (-0.016, 0.004), (0.016, 0.004), (0.028, 0.05)]
    layers.line([(x + aside, y + down) for aside, down in handle], 0.011, color, 96)
    rows = [(0.045, 0.042), (0.13, 0.056), (0.14, 0.05)]
    layers.trunk([(y + down, x - half, x + half) for down, half in rows], color)
    layers.fold([(x - 0.04, y + 0.075), (x + 0.04, y + 0.075)], 0.007, 84)
    layers.ellipse((x, y + 0.078), 0.008, 0.008, _GOLD)


def _pouch(layers: Layers, color: Color, x: float, y: float) -> None:
    rows = [(-0.05, 0.056), (0.045, 0.06), (0.055, 0.05)]
    layers.trunk([(y + down, x - half, x + half) for down, half in rows], color)
    layers.relief([(x - 0.05, y - 0.045), (x + 0.05, y - 0.045), (x + 0.045, y + 0.004), (x - 0.045, y + 0.004)], 142)
    layers.fold([(x - 0.05, y + 0.006), (x + 0.05, y + 0.006)], 0.008, 76)


def paint_umbrella(layers: Layers, hand: Point, color: Color, *, behind: bool) -> None:
    """Paint the far half of an umbrella's canopy (`behind`), or the shaft and the near half."""
    x = hand[0] * 0.6
    rim, crown, half = -0.01, -0.15, 0.2
    if behind:
        layers.ellipse((x, rim), half, 0.026, color, 66)
        return
    layers.line([(hand[0], hand[1] + 0.03), (x, crown - 0.03)], 0.009, (70, 66, 64))
    angles = np.linspace(np.pi, 0, 17)
    dome = [(x + half * float(np.cos(a)), rim - (rim - crown) * float(np.sin(a)) ** 0.9) for a in angles]
    scallops = [(x + half * (1 - 2 * i / 12), rim - (0.014 if i % 3 else 0.0)) for i in range(1, 12)]
    layers.polygon(dome + scallops, color, 110)
    lit = layers.light * 0.4
    gleam = [(x + half * (lit - 0.25), rim - 0.02), (x + half * lit * 0.5, crown + 0.004)]
    layers.relief([*gleam, (x + half * (lit + 0.25), rim - 0.02)], 144)
    for share in (-0.5, 0.0, 0.5):
        rib = [(x + share * half, rim - 0.006), (x + share * half * 0.55, crown + 0.03), (x, crown)]
        layers.fold(rib, 0.006, 84)
    layers.line([(x, crown), (x, crown - 0.03)], 0.009, (70, 66, 64))
