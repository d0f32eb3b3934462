"""From attributes and a view to the bytes of one JPEG file."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cffa_hf.demo.attributes import Attributes, View
from cffa_hf.demo.figure import paint_person
from cffa_hf.demo.layers import Layers
from cffa_hf.demo.scene import CAMERAS, background, encode, expose, occlude


def render(person: Attributes, view: View, seed: int, image_id: int) -> bytes:
    """Render one image of a person, about 64x192 pixels, as JPEG bytes.

    The same arguments give the same bytes, in any process and in any order.
    """
    rng = np.random.default_rng([seed, 2, image_id])
    width, height = _size(person, rng)
    doubled = (2 * width, 2 * height)
    scale = rng.uniform(0.78, 0.82) if person.umbrella else rng.uniform(0.88, 0.94)
    body = scale * doubled[1]
    space = doubled[1] - body
    top = space * (rng.uniform(0.8, 0.86) if person.umbrella else rng.uniform(0.5, 0.8))
    axis = doubled[0] * rng.uniform(0.46, 0.54) + body * _off_center(person, view)
    camera = CAMERAS[view.camera]
    layers = Layers(doubled, axis, top, body, camera.light, lean=rng.uniform(-0.02, 0.02), tilt=camera.tilt)
    paint_person(layers, person, view, rng)
    ground = background(view, doubled, seed, rng)
    _cast_shadow(ground, axis, top + body, body, camera.light)
    ambient = np.linspace(1.1, 0.88, doubled[1], dtype=np.float32)
    saturation = rng.uniform(0.82, 1.0)
    picture = layers.composed(np.asarray(ground, dtype=np.float32), ambient, saturation, image_id)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    occlude(image, view, rng)
    small = image.resize((width, height), Image.Resampling.BOX)
    return encode(expose(np.asarray(small, dtype=np.float32), view, rng), view, rng)


def _size(person: Attributes, rng: np.random.Generator) -> tuple[int, int]:
    height = int(rng.integers(172, 209))
    ratio = rng.uniform(0.38, 0.42) if person.umbrella or person.bag == "suitcase" else rng.uniform(0.33, 0.38)
    return round(height * ratio), height


def _off_center(person: Attributes, view: View) -> float:
    """Return how far the body moves aside to leave space for a suitcase or a backpack, in body heights."""
    if view.facing not in ("left", "right"):
        return 0.0
    forward = 1 if view.facing == "right" else -1
    return forward * {"suitcase": 0.05, "backpack": 0.03}.get(person.bag or "", 0.0)


def _cast_shadow(ground: Image.Image, axis: float, soles: float, body: float, light: float) -> None:
    shadow = Image.new("L", ground.size, 0)
    center = axis - light * 0.05 * body
    ImageDraw.Draw(shadow).ellipse(
        (center - 0.16 * body, soles - 0.028 * body, center + 0.16 * body, soles + 0.012 * body), fill=120
    )
    ground.paste((30, 30, 34), (0, 0), shadow.filter(ImageFilter.GaussianBlur(5)))
