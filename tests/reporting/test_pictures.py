import warnings

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.evaluation.ranked_queries import RankedImage, RankedQuery
from cffa_hf.inference.chosen_tokens import Selection
from cffa_hf.reporting.charts import amounts, cmc_figure, stress_figure
from cffa_hf.reporting.pictures import (
    RIGHT,
    WRONG,
    chosen_view,
    drawable,
    ranking_figure,
    save_figure,
    search_figure,
    selection_figure,
)
from cffa_hf.search.results import SearchResult

TALL, WIDE = Image.new("RGB", (20, 60), "teal"), Image.new("RGB", (90, 30), "navy")


def query(rights, match_rank, caption="a person who costs $5 and $6, or x_1^2"):
    found = [
        RankedImage(TALL if place % 2 else WIDE, f"{place}.png", place, 1 - place / 10, right)
        for place, right in enumerate(rights, start=1)
    ]
    return RankedQuery(caption, 7, TALL, found, RankedImage(TALL, "match.png", match_rank, 0.1, True))


def frames(figure):
    return [to_hex(axes.spines["top"].get_edgecolor()) for axes in figure.axes]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_right_is_green_wrong_is_red_with_rank_and_score(tmp_path):
    figure = ranking_figure([query([False, True, False], 2)], "title")
    assert frames(figure)[1:] == [WRONG, RIGHT, WRONG]
    assert "✓ 2\n0.800" in texts(figure)
    assert "first match" not in texts(figure)
    path = save_figure(figure, tmp_path / "new" / "ranking.png")
    with Image.open(path) as image:
        assert image.width > 500


def test_a_match_outside_the_top_is_drawn_with_its_rank():
    figure = ranking_figure([query([False, False], 1234), query([True, False], 1)], "title")
    assert frames(figure) == [frames(figure)[0], WRONG, WRONG, RIGHT, frames(figure)[0], RIGHT, WRONG]
    assert "✓ 1,234\n0.100" in texts(figure)
    assert "first match" in texts(figure)


def test_images_and_texts_stay_inside_and_apart(tmp_path):
    long = "a person with a very long description " * 30
    figure = ranking_figure([query([False] * 10, 99, long), query([True] * 10, 1, "x" * 300)], "title")
    save_figure(figure, tmp_path / "ranking.png")
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    renderer = figure.canvas.get_renderer()
    captions = [text.get_window_extent(renderer) for text in figure.texts if len(text.get_text()) > 100]
    assert len(captions) == 2
    assert not captions[0].overlaps(captions[1])
    left = min(box.x0 for box in boxes) * figure.bbox.width
    assert all(box.x1 <= left and box.x0 >= 0 for box in captions)
    assert any(text.endswith("…") for text in texts(figure))


def test_search_results_fill_lines(tmp_path):
    path = tmp_path / "a.png"
    TALL.save(path)
    figure = search_figure("a person in teal", [SearchResult(str(path), 0.5)] * 13)
    assert len(figure.axes) == 13
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 and box.y1 <= 1 for box in boxes)
    save_figure(search_figure("word " * 200, [SearchResult(str(path), -0.5)]), tmp_path / "s.png")


def test_what_cannot_be_written_is_said(tmp_path):
    figure = cmc_figure({"a": [50.0]})
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "figure.nonsense")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "file" / "a.png")


@pytest.mark.parametrize("length", [1, 5, 50])
def test_match_curves(length, tmp_path):
    values = np.linspace(20, 90, length).tolist()
    figure = cmc_figure({"text-to-image": values, "image-to-text": values[::-1]})
    axes = figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [values, values[::-1]]
    assert axes.get_ylim()[0] <= 20
    save_figure(figure, tmp_path / "cmc.png")


def test_stress_curves_start_at_the_sound_result(tmp_path):
    strengths = {f"{share}% of words": {"rank1": 50.0 - share} for share in (10, 20, 40)}
    figure = stress_figure({"captions": {"typos": strengths}, "images": {"dark": strengths}}, {"rank1": 60.0})
    for axes in figure.axes:
        assert list(axes.lines[1].get_ydata()) == [60, 40, 30, 10]
        assert axes.get_legend().get_texts()[0].get_text().endswith("(10, 20, 40% of words)")
    save_figure(figure, tmp_path / "stress.png")


def test_no_stress_curve_leaves_the_picture():
    weak = {f"{share}% of words": {"rank1": 50.0 - share} for share in (10, 20, 40)}
    better = {f"{share}%": {"rank1": 60.0 + share} for share in (10, 20, 40)}
    for kinds in (
        {"captions": {"typos": weak}, "images": {"dark": better}},
        {"captions": {"typos": better}, "images": {"dark": weak}},
    ):
        figure = stress_figure(kinds, {"rank1": 50.0})
        for axes in figure.axes:
            low, high = axes.get_ylim()
            assert low == 0
            assert all(low <= value <= high for line in axes.lines for value in line.get_ydata())


def test_strengths_are_joined_where_only_a_number_differs():
    assert amounts(["1/2 of it", "1/4 of it"]) == "1/2, 1/4 of it"
    assert amounts(["one", "two words"]) == "one, two words"


def selection(stride=16):
    rows, columns = (64 - 16) // stride + 1, (32 - 16) // stride + 1
    patches = torch.arange(rows * columns).float().reshape(rows, columns) / 100
    words = list("abcdefgh") + ["a much longer word", "costs", "$", "in", "the", "sun"] + ["person"] * 3
    attention = [place / 100 for place in range(len(words))]
    pixels = torch.full((64, 32, 3), 100, dtype=torch.uint8)
    return Selection(
        pixels, patches, patches == 0, 16, stride, words, attention, [place < 14 for place in range(len(words))], 0.4
    )


@pytest.mark.parametrize("stride", [16, 8])
def test_only_chosen_patches_are_seen(stride, tmp_path):
    view = chosen_view(selection(stride))
    assert (view[:16, :16] == 100).all()
    assert (view[16:] > 200).all()
    save_figure(selection_figure([selection(stride)] * 2), tmp_path / "selection.png")


def test_words_are_all_there_and_inside():
    figure = selection_figure([selection()])
    renderer = figure.canvas.get_renderer()
    assert set(selection().words) <= set(texts(figure))
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.width for text in figure.texts)
    grounds = {text.get_text(): text.get_bbox_patch() is not None for text in figure.texts}
    assert grounds["sun"]
    assert not grounds["person"]


def test_what_the_font_lacks_is_left_out_without_a_warning(tmp_path):
    for sentence, shown in (
        ("a red hat 🎩 and boots", "a red hat and boots"),
        ("红色的帽子", "(in letters that a figure"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = ranking_figure([query([True], 1, caption=sentence)], "title")
            save_figure(figure, tmp_path / "figure.png")
        assert any(text.startswith(shown) for text in texts(figure))
        assert drawable(sentence).startswith(shown)
    assert drawable("Ein Mann mit grüner Mütze, “x”") == "Ein Mann mit grüner Mütze, “x”"
