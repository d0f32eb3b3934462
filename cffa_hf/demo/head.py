"""Paint head, hair, glasses and hats."""

from cffa_hf.demo.attributes import Attributes
from cffa_hf.demo.layers import Color, Layers, Row, ring
from cffa_hf.demo.pose import Pose


def paint_hair_behind(layers: Layers, person: Attributes, pose: Pose, hair: Color) -> None:
    """Paint the hair that hangs behind the shoulders in front and side views."""
    if person.hair_style == "long":
        shift = -0.022 * pose.turn
        rows = [(0.03, 0.05), (0.1, 0.066), (0.235, 0.07)]
        layers.trunk([(y, shift - half, shift + half) for y, half in rows], hair, 14)
    elif person.hair_style == "ponytail" and pose.turn:
        x = -0.052 * pose.turn
        layers.limb(((x, 0.055), (x * 1.6, 0.11), (x * 1.6, 0.21)), (0.046, 0.046, 0.022), hair)


def paint_head(layers: Layers, person: Attributes, pose: Pose, skin: Color, hair: Color) -> None:
    """Paint neck and head with what is on it, but no hat."""
    layers.limb(((0.005 * pose.turn, 0.125), (0.006 * pose.turn, 0.172)), (0.05, 0.052), skin, 20)
    if pose.back:
        _back_of_head(layers, person.hair_style, skin, hair)
        return
    turn = pose.turn
    x = 0.014 * turn
    layers.ellipse((x, 0.077), 0.047, 0.066, skin, 110)
    layers.relief(ring((x + 0.01 * layers.light + 0.006 * turn, 0.078), 0.034, 0.05), 132)
    if turn:
        layers.polygon([(x + 0.043 * turn, 0.068), (x + 0.06 * turn, 0.09), (x + 0.043 * turn, 0.096)], skin, 128)
        layers.ellipse((x - 0.006 * turn, 0.082), 0.009, 0.013, skin, 96)
        layers.ellipse((x + 0.034 * turn, 0.068), 0.005, 0.005, (40, 30, 26))
        layers.fold([(x + 0.03 * turn, 0.115), (x + 0.045 * turn, 0.113)], 0.007, 84)
    else:
        aside = 0.008 * pose.look
        for side in (-1, 1):
            layers.ellipse((aside + side * 0.019, 0.071), 0.0075, 0.005, (42, 32, 28))
            layers.fold([(aside + side * 0.012, 0.061), (aside + side * 0.028, 0.06)], 0.006, 92)
        layers.fold([(aside * 1.4 + 0.003, 0.075), (aside * 1.4 + 0.005, 0.095)], 0.007, 102)
        lips = (int(skin[0] * 0.75), int(skin[1] * 0.52), int(skin[2] * 0.52))
        layers.line([(aside - 0.013, 0.113), (aside + 0.013, 0.113)], 0.007, lips, 118)
    if person.hair_style != "bald":
        _hair_on_top(layers, person.hair_style, turn, x, hair)
    if person.glasses:
        _glasses(layers, turn, x if turn else 0.008 * pose.look)


def _back_of_head(layers: Layers, style: str, skin: Color, hair: Color) -> None:
    layers.ellipse((0, 0.075), 0.05, 0.068, skin, 106)
    if style == "bald":
        layers.relief(ring((0.012 * layers.light, 0.06), 0.03, 0.04), 132)
        layers.fold([(-0.03, 0.126), (0.03, 0.126)], 0.008, 90)
        return
    layers.ellipse((0, 0.064), 0.055, 0.066, hair, 108)
    layers.relief(ring((0.012 * layers.light, 0.05), 0.03, 0.034), 144)
    if style == "long":
        rows = [(0.06, 0.054), (0.15, 0.066), (0.25, 0.062), (0.268, 0.044)]
        layers.trunk([(y, -half, half) for y, half in rows], hair)
        for strand in (-0.03, 0.0, 0.028):
            layers.fold([(strand, 0.09), (strand * 1.3, 0.26)], 0.006, 92)
    if style == "ponytail":
        layers.fold([(-0.014, 0.062), (0.014, 0.062)], 0.014, 70)
        layers.limb(((0, 0.08), (0.002, 0.15), (0.008, 0.24)), (0.04, 0.046, 0.02), hair)


def _hair_on_top(layers: Layers, style: str, turn: int, x: float, hair: Color) -> None:
    if turn:
        outline = [(0.046, 0.05), (0.036, 0.015), (0.0, -0.003), (-0.045, 0.014), (-0.06, 0.06), (-0.05, 0.118)]
        outline += [(-0.02, 0.11), (-0.014, 0.06), (0.02, 0.044)]
        layers.polygon([(x + forward * turn, y) for forward, y in outline], hair, 116)
        layers.fold([(x - 0.03 * turn, 0.025), (x + 0.02 * turn, 0.02)], 0.016, 148)
        if style == "long":
            rows: list[Row] = []
            for y, behind, before in ((0.05, 0.06, 0.012), (0.15, 0.075, 0.012), (0.245, 0.078, 0.022)):
                left, right = sorted((x - behind * turn, x - before * turn))
                rows.append((y, left, right))
            layers.trunk(rows, hair)
        return
    low = 0.08 if style == "short" else 0.1
    half = [(0.053, low), (0.057, 0.05), (0.04, 0.01), (0.0, -0.006)]
    fringe = [(0.043, 0.055), (0.02, 0.036), (-0.028, 0.038), (-0.043, 0.055)]
    layers.polygon([(-a, y) for a, y in half] + half[-2::-1] + fringe, hair, 118)
    layers.fold([(-0.025 + 0.02 * layers.light, 0.018), (0.02 + 0.02 * layers.light, 0.018)], 0.014, 148)
    if style == "long":
        for side in (-1, 1):
            lock = [(0.04, 0.04), (0.06, 0.07), (0.074, 0.22), (0.06, 0.245), (0.044, 0.23), (0.046, 0.12)]
            layers.polygon([(side * a, y) for a, y in lock], hair, 114)
            layers.fold([(side * 0.056, 0.09), (side * 0.06, 0.22)], 0.008, 140)


def _glasses(layers: Layers, turn: int, x: float) -> None:
    frame = (14, 14, 18)
    if turn:
        lens = [(0.048, 0.056), (0.016, 0.056), (0.02, 0.084), (0.044, 0.084)]
        layers.polygon([(x + forward * turn, y) for forward, y in lens], frame, 124)
        layers.line([(x + 0.018 * turn, 0.062), (x - 0.012 * turn, 0.066)], 0.009, frame)
        return
    for side in (-1, 1):
        layers.ellipse((x + side * 0.022, 0.07), 0.02, 0.016, frame)
        layers.fold([(x + side * 0.022 - 0.008, 0.064), (x + side * 0.022, 0.062)], 0.006, 230)
    layers.line([(-0.048, 0.064), (0.048, 0.064)], 0.009, frame)


def paint_hat(layers: Layers, person: Attributes, pose: Pose, color: Color) -> None:
    """Paint a cap, a beanie or a hat with a brim."""
    x, turn = 0.014 * pose.turn, pose.turn
    dark: Color = (int(color[0] * 0.7), int(color[1] * 0.7), int(color[2] * 0.7))
    half = [(0.06, 0.05), (0.056, 0.008), (0.03, -0.022)]
    if person.hat == "beanie":
        half = [(0.06, 0.05), (0.056, -0.01), (0.03, -0.04)]
    layers.polygon([(x - a, y) for a, y in half] + [(x + a, y) for a, y in reversed(half)], color, 116)
    layers.relief(ring((x + 0.02 * layers.light, 0.004), 0.026, 0.02), 146)
    if person.hat == "cap":
        if turn:
            brim = [(0.03, 0.034), (0.11, 0.05), (0.11, 0.062), (0.03, 0.058)]
            layers.polygon([(x + forward * turn, y) for forward, y in brim], dark, 122)
        elif pose.back:
            layers.ellipse((0, 0.046), 0.022, 0.012, (90, 70, 56), 110)
        else:
            layers.polygon([(-0.058, 0.042), (0.058, 0.042), (0.05, 0.064), (-0.05, 0.064)], dark, 122)
    elif person.hat == "beanie":
        layers.polygon([(x - 0.063, 0.02), (x + 0.063, 0.02), (x + 0.062, 0.055), (x - 0.062, 0.055)], color, 142)
        layers.fold([(x - 0.062, 0.02), (x + 0.062, 0.02)], 0.008, 82)
        layers.ellipse((x, -0.05), 0.024, 0.022, color, 136)
    else:
        layers.ellipse((x, 0.046), 0.115, 0.03 if pose.back else 0.024, color, 134)
        layers.line([(x - 0.058, 0.026), (x + 0.058, 0.026)], 0.016, dark, 110)
