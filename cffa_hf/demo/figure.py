"""Paint one person from the attributes, from the far parts to the near ones."""

import numpy as np

from cffa_hf.demo.attributes import COLORS, Attributes, View
from cffa_hf.demo.garments import cloth, paint_arm, paint_upper
from cffa_hf.demo.head import paint_hair_behind, paint_hat, paint_head
from cffa_hf.demo.layers import Color, Layers, jittered
from cffa_hf.demo.pose import Pose, make_pose, umbrella_hand
from cffa_hf.demo.things import paint_bag_behind, paint_bag_in_front, paint_umbrella

_SKIN: tuple[Color, ...] = ((240, 202, 174), (222, 174, 138), (176, 122, 84), (112, 74, 50))
# Widths of thigh, knee and ankle with the garment on.
_LEGS = {
    "trousers": (0.094, 0.078, 0.064),
    "jeans": (0.088, 0.066, 0.05),
    "leggings": (0.08, 0.055, 0.038),
}
_BARE_LEGS = (0.08, 0.056, 0.038)


def paint_person(layers: Layers, person: Attributes, view: View, rng: np.random.Generator) -> None:
    """Paint a person in one view on the layers."""
    pose = make_pose(person, view, rng)
    skin = jittered(_SKIN[person.skin], rng, 6)
    hair = jittered(COLORS[person.hair_color or "black"], rng, 6)
    upper = cloth(layers, person, rng)
    umbrella = jittered(COLORS[person.umbrella], rng) if person.umbrella else None
    if umbrella:
        paint_umbrella(layers, umbrella_hand(pose), umbrella, behind=True)
    paint_bag_behind(layers, person, view, pose)
    if not pose.back:
        paint_hair_behind(layers, person, pose, hair)
    if pose.turn:
        paint_arm(layers, person, pose, 0, upper, skin)
    _paint_legs(layers, person, pose, skin, rng)
    paint_upper(layers, person, pose, upper, rng)
    if not pose.turn:
        paint_arm(layers, person, pose, 0, upper, skin)
        paint_arm(layers, person, pose, 1, upper, skin)
    paint_head(layers, person, pose, skin, hair)
    if person.hat:
        paint_hat(layers, person, pose, jittered(COLORS[person.hat_color or "black"], rng))
    paint_bag_in_front(layers, person, view, pose)
    if pose.turn:
        paint_arm(layers, person, pose, 1, upper, skin)
    if umbrella:
        paint_umbrella(layers, umbrella_hand(pose), umbrella, behind=False)


def _paint_legs(layers: Layers, person: Attributes, pose: Pose, skin: Color, rng: np.random.Generator) -> None:
    """Paint legs, shoes and the lower garment."""
    kind, width = person.lower_type, 0.55 + 0.45 * pose.width
    color = jittered(COLORS[person.lower_color or "black"], rng)
    shoe = jittered(COLORS[person.shoes_color], rng)
    thigh, knee, ankle = (share * width for share in _LEGS.get(kind or "", _BARE_LEGS))
    # The farther leg first: in front and back views that is the one with the lifted foot.
    order = (1, 0) if not pose.turn and pose.ankles[0][1] > pose.ankles[1][1] else (0, 1)
    for index in order:
        dim = 16 if pose.turn and index == 0 else 0
        hip, bend, foot = pose.hips[index], pose.knees[index], pose.ankles[index]
        _paint_shoe(layers, person, pose, index, shoe, dim)
        hem = (foot[0], foot[1] - 0.022)
        layers.limb((hip, bend, hem), (thigh, knee, ankle), color if kind in _LEGS else skin, dim)
        if person.shoes_type == "boots":
            top = (foot[0] * 0.64 + bend[0] * 0.36, foot[1] * 0.64 + bend[1] * 0.36)
            layers.limb((top, foot), (max(ankle * 1.1, 0.056 * width), 0.05), shoe, dim)
            layers.fold([(top[0] - 0.03, top[1] - 0.02), (top[0] + 0.03, top[1] - 0.02)], 0.008, 78)
        if kind == "jeans":
            layers.fold([(hip[0], hip[1] + 0.06), (bend[0], bend[1] - 0.02)], 0.016, 152 - dim)
            layers.fold([(bend[0] - 0.02, bend[1] + 0.01), (bend[0] + 0.02, bend[1] - 0.004)], 0.008, 92)
        if kind == "trousers":
            layers.fold([(bend[0], bend[1] - 0.05), (foot[0], foot[1] - 0.03)], 0.006, 100)
        if kind == "shorts":
            end = (hip[0] * 0.24 + bend[0] * 0.76, hip[1] * 0.24 + bend[1] * 0.76)
            layers.limb((hip, end), (0.1 * width, 0.102 * width), color, dim)
            layers.fold([(end[0] - 0.045, end[1] + 0.03), (end[0] + 0.045, end[1] + 0.03)], 0.007, 84)
    _paint_hips(layers, person, pose, color if kind else skin)


def _paint_hips(layers: Layers, person: Attributes, pose: Pose, color: Color) -> None:
    waist, hips = 0.078 * pose.width, 0.092 * pose.width * (1.06 if person.gender == "woman" else 1.0)
    if pose.turn:
        waist, hips = waist * 0.86, hips * 0.8
    if person.lower_type != "skirt":
        layers.trunk([(0.44, -waist, waist), (0.5, -hips, hips), (0.54, -hips * 0.95, hips * 0.95)], color)
        return
    sway, flare = 0.012 * pose.turn, hips * 1.32
    layers.trunk([(0.44, -waist, waist), (0.52, -hips, hips), (0.665, -flare - sway, flare - sway)], color)
    for x in (-0.5, 0.1, 0.6):
        layers.fold([(x * hips * 0.8, 0.54), (x * flare, 0.66)], 0.009, 94)


def _paint_shoe(layers: Layers, person: Attributes, pose: Pose, index: int, color: Color, dim: int) -> None:
    x, y = pose.ankles[index]
    light_sole = person.shoes_type == "sneakers" and person.shoes_color != "white"
    sole = COLORS["white"] if light_sole else (60, 56, 54)
    if pose.turn:
        outline = [(-0.03, 0.032), (-0.03, -0.018), (0.03, -0.01), (0.058, 0.008), (0.07, 0.022), (0.07, 0.034)]
        layers.polygon([(x + forward * pose.turn, y + down) for forward, down in outline], color, 116 - dim)
        layers.line([(x - 0.03 * pose.turn, y + 0.035), (x + 0.07 * pose.turn, y + 0.035)], 0.01, sole, 120 - dim)
        return
    long = 0.026 if pose.back else 0.036
    layers.ellipse((x, y + 0.01), 0.035, long, color, 116 - dim)
    layers.fold([(x - 0.015 + 0.012 * layers.light, y), (x + 0.01 * layers.light, y + 0.012)], 0.012, 142)
    layers.line([(x - 0.027, y + 0.012 + long * 0.8), (x + 0.027, y + 0.012 + long * 0.8)], 0.009, sole, 116 - dim)
