"""The cameras: backgrounds, light, occluders and what the lens and the file format do to the picture."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cffa_hf.demo.attributes import COLORS, View
from cffa_hf.demo.layers import Color


@dataclass(frozen=True)
class Camera:
    """A fixed place and its picture.

    Attributes:
        place: Kind of the background.
        cast: Factor of each colour channel.
        exposure: Brightness factor.
        contrast: Contrast factor.
        noise: Deviation of the sensor noise, in gray levels.
        softness: Radius of the lens blur in pixels.
        quality: JPEG quality.
        light: Direction of the light, -1 (from the left) to 1.
        horizon: Height of the horizon in the scene, share from the top.
        tilt: How much the camera looks down.
    """

    place: str
    cast: tuple[float, float, float]
    exposure: float
    contrast: float
    noise: float
    softness: float
    quality: int
    light: float
    horizon: float
    tilt: float


CAMERAS: tuple[Camera, ...] = (
    Camera("pavement", (1.02, 1.0, 0.97), 1.0, 1.0, 3.0, 0.0, 88, 0.8, 0.34, 0.03),
    Camera("corridor", (1.05, 1.0, 0.9), 0.94, 0.96, 4.5, 0.3, 80, -0.3, 0.42, 0.08),
    Camera("shop front", (0.97, 1.0, 1.05), 1.03, 1.04, 3.0, 0.0, 85, -0.8, 0.5, 0.0),
    Camera("grass", (1.0, 1.03, 0.95), 1.06, 1.02, 2.5, 0.2, 90, 0.6, 0.3, 0.05),
    Camera("crosswalk", (0.98, 1.0, 1.03), 1.0, 0.94, 3.5, 0.0, 76, -0.6, 0.24, 0.12),
    Camera("pavement", (0.95, 0.99, 1.07), 0.86, 0.92, 6.0, 0.35, 72, -0.5, 0.44, 0.1),
    Camera("corridor", (0.98, 1.02, 1.02), 1.08, 0.9, 4.0, 0.2, 82, 0.3, 0.5, 0.0),
    Camera("grass", (1.06, 1.0, 0.9), 0.95, 1.05, 3.5, 0.0, 78, 0.9, 0.4, 0.06),
)

_SCENE_SIZE = (960, 420)


@lru_cache(maxsize=16)
def scene(camera: int, seed: int) -> Image.Image:
    """Return a camera's empty scene, wide enough to cut many backgrounds from."""
    rng = np.random.default_rng([seed, 1, camera])
    place, horizon = CAMERAS[camera].place, int(CAMERAS[camera].horizon * _SCENE_SIZE[1])
    picture = Image.new("RGB", _SCENE_SIZE)
    draw = ImageDraw.Draw(picture)
    {"pavement": _pavement, "corridor": _corridor, "shop front": _shop, "grass": _grass, "crosswalk": _crosswalk}[
        place
    ](draw, horizon, rng)
    picture = picture.filter(ImageFilter.GaussianBlur(2.2))
    grain = rng.normal(0, 5, (_SCENE_SIZE[1] // 2, _SCENE_SIZE[0] // 2, 1)).astype(np.float32).repeat(2, 0).repeat(2, 1)
    pixels = np.clip(np.asarray(picture, dtype=np.float32) + grain, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _gray(rng: np.random.Generator, low: int, high: int, tint: tuple[int, int, int] = (0, 0, 0)) -> Color:
    value = int(rng.integers(low, high))
    return value + tint[0], value + tint[1], value + tint[2]


def _ground(draw: ImageDraw.ImageDraw, horizon: int, near: Color, far: Color) -> None:
    width, height = _SCENE_SIZE
    for y in range(horizon, height):
        share = (y - horizon) / (height - horizon)
        draw.line((0, y, width, y), fill=tuple(int(f + (n - f) * share) for n, f in zip(near, far, strict=True)))


def _tiles(draw: ImageDraw.ImageDraw, horizon: int, color: Color, every: int) -> None:
    width, height = _SCENE_SIZE
    row = 1.0
    while horizon + row * row < height:
        draw.line((0, horizon + row * row, width, horizon + row * row), fill=color, width=2)
        row += 2.2
    for x in range(-width, 2 * width, every):
        middle = width / 2 + (x - width / 2) * 0.55
        draw.line((middle, horizon, x, height), fill=color, width=2)


def _pavement(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    width, _ = _SCENE_SIZE
    x = 0
    while x < width:
        wide = int(rng.integers(110, 240))
        wall = _gray(rng, 105, 185, (8, 2, -8))
        draw.rectangle((x, 0, x + wide, horizon), fill=wall)
        for wx in range(x + 14, x + wide - 20, 46):
            for wy in range(8, horizon - 24, 52):
                draw.rectangle((wx, wy, wx + 26, wy + 34), fill=_gray(rng, 50, 110, (-4, 0, 8)))
        x += wide
    _ground(draw, horizon, (150, 147, 142), (126, 124, 122))
    _tiles(draw, horizon, (116, 114, 110), 64)
    draw.rectangle((0, horizon, width, horizon + 9), fill=(96, 94, 92))
    for _ in range(4):
        at = int(rng.integers(0, width))
        draw.rectangle((at, 0, at + 9, horizon + 22), fill=(64, 66, 68))


def _corridor(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    width, height = _SCENE_SIZE
    draw.rectangle((0, 0, width, horizon), fill=(196, 190, 178))
    draw.rectangle((0, 0, width, 26), fill=(222, 220, 212))
    draw.rectangle((0, horizon - 16, width, horizon), fill=(128, 120, 108))
    x = int(rng.integers(0, 80))
    while x < width:
        if rng.random() < 0.55:
            draw.rectangle((x, 46, x + 74, horizon), fill=(142, 112, 84))
            draw.rectangle((x + 6, 54, x + 68, horizon), fill=(156, 126, 96))
            draw.ellipse((x + 58, 110, x + 66, 118), fill=(210, 200, 160))
        else:
            draw.rectangle((x, 60, x + 60, 116), fill=_gray(rng, 90, 200, (0, 6, 12)))
        x += int(rng.integers(110, 200))
    _ground(draw, horizon, (176, 170, 160), (150, 146, 140))
    _tiles(draw, horizon, (150, 145, 138), 90)
    for x in range(40, width, 170):
        draw.polygon([(x, horizon), (x + 30, horizon), (x + 52, height), (x - 22, height)], fill=(198, 194, 186))


def _shop(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    width, _ = _SCENE_SIZE
    draw.rectangle((0, 0, width, horizon), fill=(92, 86, 82))
    x = 0
    while x < width:
        wide = int(rng.integers(120, 200))
        sign = [(132, 70, 66), (70, 92, 128), (84, 118, 88), (150, 132, 84)][int(rng.integers(4))]
        draw.rectangle((x + 4, 6, x + wide - 4, 40), fill=sign)
        for letter in range(x + 20, x + wide - 30, 16):
            draw.rectangle((letter, 14, letter + 9, 32), fill=(214, 208, 196))
        draw.rectangle((x + 6, 46, x + wide - 6, horizon - 22), fill=_gray(rng, 120, 175, (0, 6, 10)))
        for _ in range(5):
            at, top = int(rng.integers(x + 10, x + wide - 40)), int(rng.integers(60, max(61, horizon - 80)))
            draw.rectangle((at, top, at + 22, horizon - 24), fill=_gray(rng, 70, 190, (10, 0, -6)))
        x += wide
    _ground(draw, horizon, (158, 156, 156), (132, 130, 132))
    _tiles(draw, horizon, (134, 132, 134), 48)


def _grass(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    width, height = _SCENE_SIZE
    draw.rectangle((0, 0, width, horizon), fill=(176, 192, 204))
    for _ in range(70):
        x, y, r = int(rng.integers(0, width)), int(rng.integers(0, horizon)), int(rng.integers(24, 60))
        green = int(rng.integers(70, 112))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(int(green * 0.72), green, int(green * 0.58)))
    for _ in range(7):
        x = int(rng.integers(0, width))
        draw.rectangle((x, 30, x + 16, horizon + 10), fill=(86, 70, 54))
    _ground(draw, horizon, (112, 138, 78), (92, 116, 68))
    for _ in range(500):
        x, y = int(rng.integers(0, width)), int(rng.integers(horizon, height))
        draw.line(
            (x, y, x + int(rng.integers(-4, 5)), y - 8),
            fill=(int(rng.integers(84, 128)), int(rng.integers(112, 156)), 74),
            width=2,
        )
    draw.polygon([(0, height - 60), (width, height - 130), (width, height - 60), (0, height)], fill=(172, 162, 142))


def _crosswalk(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    width, height = _SCENE_SIZE
    draw.rectangle((0, 0, width, horizon), fill=(148, 152, 156))
    for x in range(0, width, 150):
        draw.rectangle((x, 0, x + 130, horizon - 20), fill=_gray(rng, 100, 160, (4, 0, -4)))
    for _ in range(5):
        x = int(rng.integers(0, width))
        car = [(150, 40, 40), (60, 72, 100), (190, 190, 188), (50, 52, 54)][int(rng.integers(4))]
        draw.rounded_rectangle((x, horizon - 34, x + 130, horizon + 14), 14, fill=car)
        draw.rounded_rectangle((x + 24, horizon - 58, x + 104, horizon - 22), 14, fill=(70, 82, 94))
        for wheel in (x + 22, x + 92):
            draw.ellipse((wheel, horizon, wheel + 24, horizon + 24), fill=(24, 24, 26))
    _ground(draw, horizon + 12, (98, 98, 102), (82, 82, 86))
    for x in range(-width, 2 * width, 96):
        middle = width / 2 + (x - width / 2) * 0.7
        draw.polygon(
            [(middle, horizon + 60), (middle + 34, horizon + 60), (x + 50, height), (x, height)], fill=(206, 206, 202)
        )


def background(view: View, size: tuple[int, int], seed: int, rng: np.random.Generator) -> Image.Image:
    """Cut a background of the given size from the camera's scene."""
    wide = scene(view.camera, seed)
    zoom = rng.uniform(0.85, 1.1)
    width, height = size[0] * zoom, min(size[1] * zoom, _SCENE_SIZE[1] - 1)
    left = rng.uniform(0, _SCENE_SIZE[0] - width - 1)
    top = rng.uniform(0, _SCENE_SIZE[1] - height - 1)
    return wide.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


def occlude(picture: Image.Image, view: View, rng: np.random.Generator) -> None:
    """Draw the view's occluder, if any, over a picture at twice the final size."""
    if view.occluder is None:
        return
    width, height = picture.size
    draw, side = ImageDraw.Draw(picture), view.occluder_side
    if view.occluder == "pole":
        x = width * (0.5 + side * rng.uniform(0.26, 0.36))
        thick = width * rng.uniform(0.07, 0.11)
        for share, value in ((0.0, 70), (0.25, 120), (0.55, 92), (0.8, 58)):
            draw.rectangle((x + thick * (share - 0.5), 0, x + thick * 0.5, height), fill=(value, value + 2, value + 4))
    elif view.occluder == "bush":
        for _ in range(90):
            x, y = rng.uniform(-0.05, 1.05) * width, height * (1.02 - abs(rng.normal(0, 0.07)))
            radius = rng.uniform(5, 12)
            green = int(rng.integers(60, 120))
            draw.ellipse(
                (x - radius, y - radius * 0.7, x + radius, y + radius * 0.7),
                fill=(int(green * 0.6), green, int(green * 0.45)),
            )
        x = width * (0.5 + side * 0.5)
        for _ in range(50):
            at, y = x - side * abs(rng.normal(0, 0.12)) * width, height * rng.uniform(0.62, 1.0)
            green = int(rng.integers(60, 120))
            draw.ellipse((at - 9, y - 7, at + 9, y + 7), fill=(int(green * 0.6), green, int(green * 0.45)))
    else:
        names = ("black", "gray", "blue", "brown")
        edge = width * (0.5 + side * rng.uniform(0.36, 0.42))
        far = width * (0.5 + side * 0.7)
        top = height * rng.uniform(0.1, 0.2)
        draw.polygon(
            [
                (edge + side * 6, top),
                (far, top - 14),
                (far, height * 0.55),
                (edge, height * 0.55),
                (edge - side * 3, top + 40),
            ],
            fill=COLORS[names[int(rng.integers(4))]],
        )
        draw.polygon(
            [(edge + side * 2, height * 0.54), (far, height * 0.54), (far, height), (edge + side * 6, height)],
            fill=COLORS[names[int(rng.integers(4))]],
        )


def expose(picture: np.ndarray, view: View, rng: np.random.Generator) -> Image.Image:
    """Return what the camera records of the light, `(height, width, 3)` float32 in [0, 255] at the final size."""
    camera = CAMERAS[view.camera]
    height, width = picture.shape[:2]
    gain = camera.exposure * rng.uniform(0.9, 1.1)
    cast = np.array(camera.cast, dtype=np.float32) * rng.uniform(0.98, 1.02, 3).astype(np.float32)
    pixels = (picture - 118) * camera.contrast + 118
    fall = np.linspace(rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07), width, dtype=np.float32)
    pixels = pixels * cast * np.float32(gain) * (1 + fall)[None, :, None]
    pixels += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(camera.noise)
    pixels += rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(camera.noise * 0.5)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    blur = camera.softness + (rng.uniform(0.4, 0.9) if rng.random() < 0.15 else 0.0)
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def encode(image: Image.Image, view: View, rng: np.random.Generator) -> bytes:
    """Return the JPEG file of an image at the camera's quality."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=int(CAMERAS[view.camera].quality + rng.integers(-10, 7)))
    return stream.getvalue()
