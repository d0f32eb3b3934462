"""What was chosen of an image, as pixels: for figures and for the search page."""

import numpy as np

from cffa_hf.inference.chosen_tokens import Selection


def chosen_view(selection: Selection) -> np.ndarray:
    """Fade all that no chosen patch covers, `(height, width, 3)`, uint8."""
    covered = spread_patches(selection, selection.chosen_patches.numpy().astype(float)) > 0
    pixels = selection.pixels.numpy()
    return np.where(covered[..., None], pixels, (0.15 * pixels + 0.85 * 255)).astype(np.uint8)


def spread_patches(selection: Selection, values: np.ndarray) -> np.ndarray:
    """Give every pixel the greatest value of the patches that cover it, `(height, width)`."""
    height, width = selection.pixels.shape[:2]
    spread = np.full((height, width), values.min())
    for row, column in np.ndindex(values.shape):
        top, left = row * selection.stride, column * selection.stride
        part = spread[top : top + selection.patch_size, left : left + selection.patch_size]
        np.maximum(part, values[row, column], out=part)
    return spread
