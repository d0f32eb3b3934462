"""The three layers a person is painted on (colour, shading, coverage) and the strokes that paint them."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Color = tuple[int, int, int]
Paint = Color | Image.Image
Row = tuple[float, float, float]

NEUTRAL = 128  # A shading of 128 leaves the colour as it is.
_DARK, _LIT = 92, 146
# A rounded part: a dark outline, its middle shifted to the light, a lit streak. Share of the width, shift, shading.
_ROUNDING = ((0.66, 0.14, NEUTRAL), (0.24, 0.22, _LIT))


class Layers:
    """A figure in body coordinates: x from the body's axis, y from the top of the head (0) to the soles (1).

    Args:
        size: Width and height of the layers in pixels.
        axis: Pixel column of the body's axis.
        top: Pixel row of the top of the head.
        height: Height of the body in pixels.
        light: Horizontal direction of the light, -1 (from the left) to 1 (from the right).
        lean: How far the head is aside of the feet, in body heights.
        tilt: How much a camera that looks down enlarges the upper body against the legs; 0 for eye level.
    """

    def __init__(
        self,
        size: tuple[int, int],
        axis: float,
        top: float,
        height: float,
        light: float,
        lean: float = 0.0,
        tilt: float = 0.0,
    ):
        self.size, self.axis, self.top, self.height = size, axis, top, height
        self.light, self.lean, self.tilt = light, lean, tilt
        self.color = Image.new("RGB", size)
        self.shade = Image.new("L", size, NEUTRAL)
        self.mask = Image.new("L", size, 0)
        self._color, self._shade, self._mask = (ImageDraw.Draw(layer) for layer in (self.color, self.shade, self.mask))

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        pixels = []
        for x, y in points:
            down = y + self.tilt * y * (1 - y) if 0 < y < 1 else y
            aside = x * (1 + self.tilt * (0.5 - y)) + self.lean * (1 - y)
            pixels.append((self.axis + aside * self.height, self.top + down * self.height))
        return pixels

    def polygon(self, points: Sequence[Point], paint: Paint, shade: int = NEUTRAL) -> None:
        """Fill a polygon with a colour or, where `paint` is an image of the layers' size, with that texture."""
        pixels = self._pixels(points)
        if isinstance(paint, Image.Image):
            stencil = Image.new("L", self.size, 0)
            ImageDraw.Draw(stencil).polygon(pixels, fill=255)
            self.color.paste(paint, (0, 0), stencil)
        else:
            self._color.polygon(pixels, fill=paint)
        self._shade.polygon(pixels, fill=shade)
        self._mask.polygon(pixels, fill=255)

    def ellipse(self, center: Point, radius_x: float, radius_y: float, paint: Paint, shade: int = NEUTRAL) -> None:
        """Fill an ellipse."""
        self.polygon(ring(center, radius_x, radius_y), paint, shade)

    def line(self, points: Sequence[Point], width: float, color: Color, shade: int = NEUTRAL) -> None:
        """Draw a visible stroke such as a strap or a handle; `width` in body heights."""
        pixels, thick = self._pixels(points), max(1, round(width * self.height))
        self._color.line(pixels, fill=color, width=thick, joint="curve")
        self._shade.line(pixels, fill=shade, width=thick, joint="curve")
        self._mask.line(pixels, fill=255, width=thick, joint="curve")

    def fold(self, points: Sequence[Point], width: float, shade: int) -> None:
        """Draw a stroke of shadow or light on what is already painted."""
        self._shade.line(self._pixels(points), fill=shade, width=max(1, round(width * self.height)), joint="curve")

    def relief(self, points: Sequence[Point], shade: int = NEUTRAL) -> None:
        """Shade the inside of a polygon without painting it."""
        self._shade.polygon(self._pixels(points), fill=shade)

    def limb(self, joints: Sequence[Point], widths: Sequence[float], paint: Paint, dim: int = 0) -> None:
        """Paint a chain of tapering segments with rounded joints, lit from the side and darkened by `dim`."""
        for joint, width in zip(joints, widths, strict=True):
            self.ellipse(joint, width / 2, width / 2, paint, _DARK - dim)
        for outline in _segments(joints, widths, 1.0, 0.0):
            self.polygon(outline, paint, _DARK - dim)
        for share, shift, shade in _ROUNDING:
            for outline in _segments(joints, widths, share, self.light * shift):
                self.relief(outline, shade - dim)
            for (x, y), width in zip(joints[1:-1], widths[1:-1], strict=True):
                radius = width * share / 2
                self.relief(ring((x + self.light * shift * width, y), radius, radius), shade - dim)

    def trunk(self, profile: Sequence[Row], paint: Paint, dim: int = 0) -> None:
        """Paint a body part given by rows of (y, left x, right x), rounded by the light like a limb."""
        self.polygon(_outline(profile), paint, _DARK - dim)
        for share, shift, shade in _ROUNDING:
            rows = []
            for y, left, right in profile:
                center, half = (left + right) / 2, (right - left) / 2
                center += self.light * shift * half
                rows.append((y, center - half * (share + 0.08), center + half * (share + 0.08)))
            self.relief(_outline(rows), shade - dim)

    def composed(self, background: np.ndarray, ambient: np.ndarray, saturation: float, weave: int) -> np.ndarray:
        """Return the shaded figure over a background.

        Args:
            background: `(height, width, 3)` float32 pixels in [0, 255].
            ambient: Light that falls on each row, `(height,)`, about 1.
            saturation: Strength of the figure's colours, 1 for those painted.
            weave: Where to cut the unevenness of the cloth from its pattern, any integer.

        Returns:
            `(height, width, 3)` float32 pixels, not clipped.
        """
        shade = np.asarray(self.shade.filter(ImageFilter.GaussianBlur(1.7)), dtype=np.float32) / NEUTRAL
        height, width = shade.shape
        shade = (
            shade * ambient[:, None] * _unevenness()[weave % 97 : weave % 97 + height, weave % 53 : weave % 53 + width]
        )
        color = np.asarray(self.color, dtype=np.float32)
        gray = color.mean(axis=2, keepdims=True)
        # Black cloth still shows its folds: shading acts on a colour lifted a little from black.
        lit = (gray + (color - gray) * np.float32(saturation) + 8) * shade[..., None]
        cover = np.asarray(self.mask, dtype=np.float32)[..., None] / 255
        return background + (lit - background) * cover


@lru_cache(maxsize=1)
def _unevenness() -> np.ndarray:
    """Return soft random light and dark patches, `(640, 320)` float32 about 1."""
    noise = np.random.default_rng(0).normal(0, 1, (640, 320))
    image = Image.fromarray(np.clip(noise * 40 + 128, 0, 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)
    return 1 + 0.03 * (soft - soft.mean()) / soft.std()


def ring(center: Point, radius_x: float, radius_y: float) -> list[Point]:
    """Return the corners of an ellipse."""
    return [(center[0] + radius_x * x, center[1] + radius_y * y) for x, y in _CIRCLE]


_CIRCLE = [(float(np.cos(angle)), float(np.sin(angle))) for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)]


def _segments(joints: Sequence[Point], widths: Sequence[float], share: float, shift: float) -> list[list[Point]]:
    """Return the outline of each segment at a share of its width, moved aside by `shift` widths."""
    outlines = []
    ends = list(zip(joints, widths, strict=True))
    for (start, first), (end, second) in pairwise(ends):
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        nx, ny = -dy / length * share / 2, dx / length * share / 2
        ax, bx = start[0] + shift * first, end[0] + shift * second
        outlines.append(
            [
                (ax + nx * first, start[1] + ny * first),
                (bx + nx * second, end[1] + ny * second),
                (bx - nx * second, end[1] - ny * second),
                (ax - nx * first, start[1] - ny * first),
            ]
        )
    return outlines


def _outline(profile: Sequence[Row]) -> list[Point]:
    return [(left, y) for y, left, _ in profile] + [(right, y) for y, _, right in reversed(profile)]


def jittered(color: Color, rng: np.random.Generator, spread: int = 8) -> Color:
    """Return a colour a little off: no two cameras or dyes agree."""
    red, green, blue = (min(max(channel + int(rng.integers(-spread, spread + 1)), 0), 250) for channel in color)
    return red, green, blue
