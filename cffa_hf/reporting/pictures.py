"""Figures with images: ranked results of queries and searches, and what the model looked at."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from cffa_hf.errors import InputError, one_line
from cffa_hf.evaluation.ranked_queries import RankedImage, RankedQuery
from cffa_hf.files import new_file
from cffa_hf.inference.chosen_tokens import Selection
from cffa_hf.inference.views import chosen_view, spread_patches
from cffa_hf.inputs.images import ImageSource, read_image
from cffa_hf.search.results import SearchResult

RIGHT, WRONG, NEUTRAL, INK = "#1a9850", "#d73027", "#4d4d4d", "#222222"
DPI = 200
CELL_WIDTH, CELL_HEIGHT, LABEL_HEIGHT = 0.62, 1.45, 0.3  # inches
CAPTION_WIDTH, GAP, MARGIN = 2.5, 0.18, 0.12
WRAP, LINES = 40, 11


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix chooses the format (png, pdf, svg).

    Raises:
        InputError: If the file cannot be written or the suffix means no format.
    """
    path = Path(path)
    with new_file(path) as partial:
        try:
            figure.savefig(partial, format=path.suffix[1:] or "png", dpi=DPI, facecolor="white")
        except ValueError as error:
            raise InputError(f"{path}: the figure cannot be written ({one_line(error)}); name a .png file.") from error
    return path


def ranking_figure(queries: Sequence[RankedQuery], title: str) -> Figure:
    """Draw a line for each query: caption, the image it describes, the best images, and the true match if it is lower.

    Right images have a green frame and a check mark, wrong ones a red frame and a cross; below stand rank and score.
    """
    shown = max(len(query.found) for query in queries)
    low = any(query.match.rank > shown for query in queries)
    columns = 1 + shown + low
    width = 2 * MARGIN + CAPTION_WIDTH + columns * CELL_WIDTH + GAP * (1 + low)
    line = CELL_HEIGHT + LABEL_HEIGHT
    head = 0.62
    height = head + len(queries) * line + MARGIN
    figure = new_figure(width, height)
    left = MARGIN + CAPTION_WIDTH
    found_left = left + CELL_WIDTH + GAP
    match_left = found_left + shown * CELL_WIDTH + GAP
    figure.text(MARGIN / width, 1 - 0.2 / height, title, fontsize=10, fontweight="bold", va="center", color=INK)
    heads = [(MARGIN, "query", "left"), (left + CELL_WIDTH / 2, "described", "center")]
    heads += [(found_left + CELL_WIDTH * shown / 2, "ranked images", "center")]
    heads += [(match_left + CELL_WIDTH / 2, "first match", "center")] if low else []
    for x, text, side in heads:
        figure.text(x / width, 1 - 0.48 / height, text, fontsize=8, ha=side, va="center", color=NEUTRAL, style="italic")
    for place, query in enumerate(queries):
        top = height - head - place * line
        figure.text(
            MARGIN / width,
            (top - CELL_HEIGHT / 2) / height,
            wrap_caption(query.caption),
            fontsize=7.5,
            va="center",
            color=INK,
            linespacing=1.2,
            parse_math=False,
        )
        draw_image(figure, query.described, left, top, NEUTRAL, "")
        for column, image in enumerate(query.found):
            draw_ranked(figure, image, found_left + column * CELL_WIDTH, top)
        if query.match.rank > len(query.found):
            draw_ranked(figure, query.match, match_left, top)
    return figure


def search_figure(sentence: str, results: Sequence[SearchResult], columns: int = 10) -> Figure:
    """Draw the images that a sentence found, best first, with rank and score."""
    lines = -(-len(results) // columns)
    columns = min(columns, len(results))
    width = max(2 * MARGIN + columns * CELL_WIDTH, 4.0)
    text = "\n".join(textwrap.wrap(drawable(sentence), int(width * 13), max_lines=4, placeholder=" …"))
    head = 0.2 + 0.18 * (text.count("\n") + 1)
    height = head + lines * (CELL_HEIGHT + LABEL_HEIGHT) + MARGIN
    figure = new_figure(width, height)
    figure.text(
        MARGIN / width, 1 - 0.1 / height, text, fontsize=9, va="top", color=INK, linespacing=1.2, parse_math=False
    )
    for place, result in enumerate(results):
        line, column = divmod(place, columns)
        top = height - head - line * (CELL_HEIGHT + LABEL_HEIGHT)
        label = f"{place + 1}  ·  {result.score:.3f}"
        draw_image(figure, result.path, MARGIN + column * CELL_WIDTH, top, NEUTRAL, label)
    return figure


def selection_figure(selections: Sequence[Selection]) -> Figure:
    """Draw a line for each pair: the image, the patches that were chosen, the attention that chose them, and the words.

    Chosen words stand on a coloured ground, the darker the more attention they got; the others are gray.
    """
    cell, high, gap, text_width, head = 0.95, 2.0, 0.08, 3.6, 0.55
    width = 2 * MARGIN + 3 * (cell + gap) + 0.15 + text_width
    height = head + len(selections) * (high + 0.25) + MARGIN
    figure = new_figure(width, height)
    left = MARGIN + 3 * (cell + gap) + 0.15
    patches = f"{int(selections[0].chosen_patches.sum())} of {selections[0].chosen_patches.numel()} patches"
    heads = [
        (MARGIN + place * (cell + gap) + cell / 2, text) for place, text in enumerate(("image", patches, "attention"))
    ]
    for x, text in heads:
        figure.text(x / width, 1 - 0.38 / height, text, fontsize=8, ha="center", color=NEUTRAL, style="italic")
    figure.text(
        left / width,
        1 - 0.38 / height,
        "chosen words (darker: more attention)",
        fontsize=8,
        color=NEUTRAL,
        style="italic",
    )
    for place, selection in enumerate(selections):
        top = height - head - place * (high + 0.25)
        pictures = (selection.pixels.numpy(), chosen_view(selection), attention_view(selection))
        for column, picture in enumerate(pictures):
            wide, tall = fit(picture, cell, high)
            x = MARGIN + column * (cell + gap) + (cell - wide) / 2
            axes = figure.add_axes((x / width, (top - tall) / height, wide / width, tall / height))
            axes.imshow(picture, aspect="auto", interpolation="nearest" if column else "antialiased")
            axes.set_axis_off()
        draw_words(figure, selection, left, top - 0.15, text_width)
    return figure


def attention_view(selection: Selection) -> np.ndarray:
    """Lay the attention over the gray image as heat, `(height, width, 3)`, in [0, 1]."""
    heat = spread_patches(selection, selection.patches.numpy().astype(float))
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    gray = selection.pixels.numpy().mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
    return 0.35 * gray + 0.65 * colormaps["inferno"](heat**0.7)[..., :3]


def draw_words(figure: Figure, selection: Selection, left: float, top: float, available: float) -> None:
    """Write a caption word by word from an upper left corner in inches, the chosen words on a coloured ground."""
    width, height = figure.get_size_inches()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    most = max(selection.attention, default=1.0)
    x, y = 0.0, top
    for word, attention, chosen in zip(selection.words, selection.attention, selection.chosen_words, strict=True):
        strength = attention / most
        ground = colormaps["YlGnBu"](0.12 + 0.7 * strength)
        text = figure.text(
            (left + x) / width,
            y / height,
            drawable(word),
            fontsize=8,
            va="center",
            color="#999999" if not chosen else "white" if strength > 0.55 else INK,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.18", "facecolor": ground, "edgecolor": "none"} if chosen else None,
        )
        long = text.get_window_extent(renderer).width / figure.dpi
        if x and x + long > available:
            x, y = 0.0, y - 0.24
            text.set_position((left / width, y / height))
        x += long + 0.1
    note = f"{sum(selection.chosen_words)} of {len(selection.words)} words, score {selection.score:.3f}"
    figure.text(left / width, (y - 0.3) / height, note, fontsize=7, va="center", color=NEUTRAL)


def fit(image: np.ndarray, max_width: float, max_height: float) -> tuple[float, float]:
    """Return the largest width and height of an image within bounds that keep its aspect ratio."""
    scale = min(max_width / image.shape[1], max_height / image.shape[0])
    return image.shape[1] * scale, image.shape[0] * scale


def draw_ranked(figure: Figure, image: RankedImage, left: float, top: float) -> None:
    """Draw an image with the frame and label of its rank."""
    color = RIGHT if image.right else WRONG
    label = f"{'✓' if image.right else '✗'} {image.rank:,}\n{image.score:.3f}"
    draw_image(figure, image.image, left, top, color, label, color)


def draw_image(
    figure: Figure, source: ImageSource, left: float, top: float, color: str, label: str, ink: str = NEUTRAL
) -> Axes:
    """Draw a framed image, fitted into a cell, with a label below; places in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    pad = 0.045
    image = np.asarray(read_image(source))
    wide, high = fit(image, CELL_WIDTH - 2 * pad, CELL_HEIGHT - 2 * pad)
    x, y = left + (CELL_WIDTH - wide) / 2, top - pad - high
    axes = figure.add_axes((x / width, y / height, wide / width, high / height))
    axes.imshow(image, aspect="auto", interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=1.8)
    figure.text(
        (left + CELL_WIDTH / 2) / width,
        (top - CELL_HEIGHT - 0.015) / height,
        label,
        fontsize=6.5,
        ha="center",
        va="top",
        color=ink,
        linespacing=1.1,
    )
    return axes


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, apart from pyplot and its global state."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def wrap_caption(caption: str, width: int = WRAP, lines: int = LINES) -> str:
    """Break a caption into lines; what is too long ends in an ellipsis, and what the font lacks is left out."""
    return "\n".join(textwrap.wrap(drawable(caption), width, max_lines=lines, placeholder=" …"))


def drawable(text: str) -> str:
    """Leave out characters that the font of figures does not have, as emoji: they would be drawn as boxes.

    Args:
        text: Any.

    Returns:
        The text, or what says that its letters cannot be drawn, where most of them are missing.
    """
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    kept = "".join(letter for letter in text if letter.isspace() or ord(letter) in known)
    letters, left = sum(map(str.isalnum, text)), sum(map(str.isalnum, kept))
    return " ".join(kept.split()) if 2 * left >= letters else "(in letters that a figure cannot show)"
