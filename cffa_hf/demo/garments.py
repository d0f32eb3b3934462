"""Paint what is worn on the upper body."""

import numpy as np
from PIL import Image, ImageDraw

from cffa_hf.demo.attributes import COLORS, Attributes
from cffa_hf.demo.layers import Color, Layers, Paint, Row, jittered
from cffa_hf.demo.pose import Pose

_LOOSE = {"hoodie": 1.1, "coat": 1.12, "jacket": 1.1, "dress": 0.96, "shirt": 1.03, "t-shirt": 1.0}
_HEM = {"t-shirt": 0.515, "shirt": 0.53, "hoodie": 0.525, "jacket": 0.495, "coat": 0.69, "dress": 0.66}


def cloth(layers: Layers, person: Attributes, rng: np.random.Generator) -> Paint:
    """Return the upper garment's colour, or its texture where it has stripes or checks."""
    base = jittered(COLORS[person.upper_color], rng)
    if person.pattern not in ("stripes", "checks"):
        return base
    second = jittered(COLORS[person.pattern_color or "white"], rng)
    texture = Image.new("RGB", layers.size, base)
    draw = ImageDraw.Draw(texture)
    step = layers.height * 0.052
    width, height = layers.size
    phase = rng.uniform(0, step)
    rows = [phase + row * step for row in range(int(height / step) + 1)]
    if person.pattern == "stripes":
        for y in rows:
            draw.rectangle((0, y, width, y + step * 0.45), fill=second)
        return texture
    columns = [phase + column * step for column in range(int(width / step) + 1)]
    middle = tuple((a + b) // 2 for a, b in zip(base, second, strict=True))
    for x in columns:
        draw.rectangle((x, 0, x + step * 0.42, height), fill=middle)
    for y in rows:
        draw.rectangle((0, y, width, y + step * 0.42), fill=middle)
        for x in columns:
            draw.rectangle((x, y, x + step * 0.42, y + step * 0.42), fill=second)
    return texture


def paint_arm(layers: Layers, person: Attributes, pose: Pose, index: int, sleeve: Paint, skin: Color) -> None:
    """Paint an arm with its sleeve: short ones for t-shirts and dresses."""
    shoulder, elbow, hand = pose.shoulders[index], pose.elbows[index], pose.hands[index]
    thick = (0.062 if person.upper_type in ("coat", "jacket", "hoodie") else 0.052) * (0.6 + 0.4 * pose.width)
    dim = 18 if pose.turn and index == 0 else 0
    layers.ellipse(hand, 0.019, 0.024, skin, 118 - dim)
    if person.upper_type in ("t-shirt", "dress"):
        layers.limb((shoulder, elbow, hand), (0.042, 0.036, 0.027), skin, dim)
        end = (shoulder[0] * 0.35 + elbow[0] * 0.65, shoulder[1] * 0.35 + elbow[1] * 0.65)
        layers.limb((shoulder, end), (thick * 1.05, thick * 1.12), sleeve, dim)
        return
    wrist = (elbow[0] * 0.14 + hand[0] * 0.86, elbow[1] * 0.14 + hand[1] * 0.86)
    layers.limb((shoulder, elbow, wrist), (thick * 1.05, thick * 0.94, thick * 0.76), sleeve, dim)
    layers.fold(
        [(elbow[0] - thick * 0.3, elbow[1] + 0.004), (elbow[0] + thick * 0.2, elbow[1] - 0.01)], 0.006, 100 - dim
    )


def paint_upper(layers: Layers, person: Attributes, pose: Pose, paint: Paint, rng: np.random.Generator) -> None:
    """Paint the upper garment without its sleeves."""
    kind, loose = person.upper_type, _LOOSE[person.upper_type]
    shoulder, chest = 0.104 * pose.width * (0.6 + 0.4 * loose), 0.1 * pose.width * loose
    waist = (0.08 if person.gender == "woman" else 0.09) * pose.width * loose
    hem = 0.098 * pose.width * loose
    if person.build == "heavy":
        waist *= 1.1
    if pose.turn:
        shoulder, chest, waist, hem = shoulder * 0.62, chest * 0.78, waist * 0.84, hem * 0.82
    end, lean = _HEM[kind], 0.012 * pose.turn
    rows: list[Row] = [
        (0.164, -0.034 + lean, 0.034 + lean),
        (0.178, -shoulder * 0.72 + lean, shoulder * 0.72 + lean),
        (0.188, -shoulder * 0.93 + lean, shoulder * 0.93 + lean),
        (0.212, -shoulder + lean, shoulder + lean),
        (0.29, -chest + lean * 1.4, chest + lean * 1.4),
        (0.42, -waist, waist),
    ]
    if end > 0.6:
        flare, sway = (1.42 if kind == "dress" else 1.2) * hem, -0.014 * pose.turn
        rows += [(0.52, -hem, hem), (end, -flare + sway, flare + sway)]
    else:
        rows += [(end, -hem, hem)]
    layers.trunk(rows, paint)
    for _ in range(4):
        x, y = rng.uniform(-0.6, 0.6) * waist, rng.uniform(0.32, 0.44)
        to = (x + rng.uniform(-0.03, 0.03), y + rng.uniform(0.02, 0.06))
        layers.fold([(x, y), to], 0.007, int(rng.integers(96, 114)))
    if end > 0.6:
        for x in (-0.55, 0.0, 0.5):
            layers.fold([(x * hem, 0.53), (x * rows[-1][2], end - 0.01)], 0.008, 94)
        layers.fold([(-waist * 0.95, 0.43), (waist * 0.95, 0.43)], 0.011, 84)
    if kind in ("hoodie", "jacket"):
        layers.fold([(-hem * 0.95, end - 0.018), (hem * 0.95, end - 0.018)], 0.008, 80)
    if kind == "shirt" and pose.back:
        layers.fold([(-shoulder * 0.8, 0.235), (shoulder * 0.8, 0.235)], 0.006, 100)
    if kind == "hoodie":
        _hood(layers, pose, paint)
    if not pose.turn and not pose.back:
        _front(layers, person, waist, chest, end, paint, rng)


def _front(
    layers: Layers, person: Attributes, waist: float, chest: float, end: float, paint: Paint, rng: np.random.Generator
) -> None:
    """Paint what only the front shows: collar, buttons, pocket, print, and the shirt under an open jacket or coat."""
    if person.inner_color:
        inner = jittered(COLORS[person.inner_color], rng)
        half, low = waist * 0.4, min(end, 0.5)
        left = [(-0.036, 0.166), (-half, 0.3), (-half * 0.9, low)]
        right = [(-x, y) for x, y in left]
        layers.polygon(left + right[::-1], inner, 122)
        for edge in (left, right):
            layers.fold(edge, 0.01, 76)
        for side in (-1, 1):
            layers.fold([(side * 0.05, 0.172), (side * (half + 0.016), 0.3)], 0.012, 150)
        if end > 0.52:
            layers.fold([(0, low), (0, end - 0.01)], 0.01, 76)
    if person.upper_type == "t-shirt":
        layers.fold([(-0.03, 0.172), (0.0, 0.188), (0.03, 0.172)], 0.008, 92)
    if person.upper_type == "shirt":
        layers.fold([(0.0, 0.18), (0.0, end)], 0.007, 80)
        layers.fold([(0.008, 0.18), (0.008, end)], 0.005, 150)
        for side in (-1, 1):
            collar = [(0.0, 0.19), (side * 0.044, 0.16), (side * 0.042, 0.198)]
            layers.polygon(collar, paint, 150)
            layers.fold([*collar[1:], collar[0]], 0.005, 82)
    if person.upper_type == "hoodie":
        pocket = [(-waist * 0.5, 0.41), (waist * 0.5, 0.41), (waist * 0.72, 0.485), (-waist * 0.72, 0.485)]
        layers.relief(pocket, 110)
        layers.fold([*pocket, pocket[0]], 0.006, 82)
        for side in (-1, 1):
            layers.line([(side * 0.016, 0.19), (side * 0.018, 0.255)], 0.007, (225, 222, 215), 120)
    if person.pattern == "print":
        mark = jittered(COLORS[person.pattern_color or "white"], rng)
        top, low = chest * 0.5, chest * 0.44
        layers.polygon([(-top, 0.24), (top, 0.24), (low, 0.345), (-low, 0.345)], mark, 124)
        layers.ellipse((0, 0.29), chest * 0.2, 0.022, COLORS[person.upper_color], 124)


def _hood(layers: Layers, pose: Pose, paint: Paint) -> None:
    if pose.back:
        layers.polygon(
            [(-0.06, 0.16), (0.06, 0.16), (0.068, 0.205), (0.03, 0.25), (-0.03, 0.25), (-0.068, 0.205)], paint, 138
        )
        layers.fold([(-0.068, 0.205), (-0.03, 0.252), (0.03, 0.252), (0.068, 0.205)], 0.011, 76)
        layers.fold([(-0.036, 0.176), (0.036, 0.176)], 0.014, 86)
    elif pose.turn:
        layers.ellipse((-0.05 * pose.turn, 0.178), 0.042, 0.03, paint, 108)
        layers.fold([(-0.07 * pose.turn, 0.19), (-0.02 * pose.turn, 0.2)], 0.008, 80)
    else:
        layers.polygon([(-0.064, 0.184), (-0.047, 0.15), (0.047, 0.15), (0.064, 0.184), (0.0, 0.207)], paint, 106)
        layers.fold([(-0.064, 0.186), (0.0, 0.209), (0.064, 0.186)], 0.008, 76)
