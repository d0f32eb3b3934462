"""The page in a real browser: a real server, asked by typing, pressing and uploading."""

import json
import re

import pytest
from PIL import Image

from cffa_hf.page.page import EXAMPLES
from tests.browser import Window
from tests.page.conftest import running
from tests.page.test_pictures import png_header

pytestmark = pytest.mark.slow
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SENTENCE = "a man in a red coat and blue jeans"


@pytest.fixture(scope="module")
def site(home, tmp_path_factory, indexed):
    with running(tmp_path_factory.mktemp("site"), home / "gallery") as site:
        yield site


@pytest.fixture
def window(browser, site):
    """A new visit; nothing in it went to another host."""
    opened = []

    def open_window(link: str = "", **options) -> Window:
        opened.append(Window(browser, site.address, link, **{"viewport": DESKTOP, **options}))
        return opened[-1]

    yield open_window
    for one in opened:
        assert not one.foreign
        one.context.close()


def test_a_sentence_finds_the_images_that_the_gallery_finds(window, indexed):
    shown = window()
    names = shown.search(SENTENCE)
    found = indexed.search(SENTENCE, 10)
    expected = [
        f"Result {place} of 10, score {one.score:.2f}, camera {one.metadata['camera']}"
        for place, one in enumerate(found, start=1)
    ]
    assert names == expected
    assert shown.why(0) == found[0].path
    assert shown.why(3) == found[3].path
    assert shown.page.locator("#why mark").count() > 0
    assert shown.page.locator("#why figure").count() == 2
    assert re.search(r"\d+ of 8 patches chosen", shown.page.locator("#why").inner_text())
    facts = shown.page.locator("#why dl").inner_text()
    assert found[3].metadata["camera"] in facts
    assert str(found[3].metadata["time"])[:10] in facts


def test_examples_undo_and_the_queries_of_a_visit(window, site):
    shown = window()
    assert shown.names() == []
    examples = shown.page.get_by_role("group", name="Example sentences").get_by_role("button")
    assert [one.inner_text() for one in examples.all()] == list(EXAMPLES)
    examples.nth(1).click()
    shown.page.locator("#status b", has_text=EXAMPLES[1]).wait_for()
    first = shown.names()
    assert shown.page.locator("#sentence textarea").input_value() == EXAMPLES[1]
    second = shown.search(SENTENCE)
    assert first != second
    shown.page.get_by_role("button", name="Undo").click()
    shown.page.locator("#status b", has_text=EXAMPLES[1]).wait_for()
    assert shown.names() == first
    assert shown.page.locator("#sentence textarea").input_value() == EXAMPLES[1]
    assert shown.page.get_by_role("button", name="Undo").count() == 0
    shown.unfold("Queries of this visit")
    shown.page.get_by_role("group", name="Queries of this visit").get_by_role("button", name=SENTENCE).click()
    shown.page.locator("#status b", has_text=SENTENCE).wait_for()
    assert shown.names() == second


def test_filters_limit_the_results_and_a_link_brings_them_back(window, site, indexed):
    shown = window()
    shown.search(SENTENCE)
    camera = indexed.search(SENTENCE, 10)[2].metadata["camera"]
    shown.unfold("Filters and number of results")
    shown.page.get_by_label("camera", exact=True).first.click()
    shown.page.get_by_role("option", name=camera).click()
    shown.page.locator("#status", has_text=f"camera {camera}").wait_for()
    found = indexed.search(SENTENCE, 10, where={"camera": camera})
    assert len(shown.names()) == len(found)
    assert all(f"camera {camera}" in name for name in shown.names())
    times = sorted(str(one.metadata["time"]) for one in found)
    shown.page.get_by_label("time from").fill(times[-1])
    shown.page.get_by_label("time from").press("Enter")
    shown.page.locator("#status", has_text="time from").wait_for()
    assert len(shown.names()) == 1
    link = shown.page.url.removeprefix(site.address)
    assert "is.camera=" in link
    assert "min.time=" in link
    again = window(link)
    again.page.locator("#results button").wait_for()
    assert again.names() == shown.names()
    assert again.page.locator("#sentence textarea").input_value() == SENTENCE
    again.unfold("Filters and number of results")
    assert again.page.get_by_label("time from").input_value() == times[-1]
    shown.page.get_by_label("time from").fill("2031-01-01")
    shown.page.get_by_label("time from").press("Enter")
    assert "No picture fits these filters: remove one of them." in shown.problem()
    shown.page.get_by_label("time from").fill("yesterday")
    shown.page.get_by_label("time from").press("Enter")
    shown.page.locator("#status", has_text="yesterday").wait_for()


def test_more_like_this_one(window, site, indexed):
    shown = window()
    shown.search(SENTENCE)
    path = shown.why(1)
    shown.page.get_by_role("button", name="More like this one").click()
    shown.page.locator("#status b", has_text=f"pictures like {path}").wait_for()
    (item,) = (one.id for one in indexed.search(SENTENCE, 10) if one.path == path)
    best = indexed.search_like(item, 10)[0]
    assert f"score {best.score:.2f}" in shown.names()[0]
    assert shown.why(0) == best.path != path
    assert "like=" in shown.page.url
    again = window(shown.page.url.removeprefix(site.address))
    again.page.locator("#status b", has_text=path).wait_for()
    assert again.names() == shown.names()


def test_a_picture_alone_and_beside_a_sentence(window, indexed, home, site):
    shown = window()
    path = indexed.search(SENTENCE, 10)[5].path
    shown.unfold("Search by a picture")
    shown.upload(home / "pictures" / path)
    shown.page.locator("#status b", has_text="a picture").wait_for()
    assert shown.why(0) == path
    assert "Search by a sentence" in shown.page.locator("#why").inner_text()
    box = shown.page.locator("#sentence textarea")
    box.fill(SENTENCE)
    box.press("Enter")
    shown.page.locator("#status b", has_text=f"{SENTENCE} + a picture").wait_for()
    with Image.open(home / "pictures" / path) as picture:
        both = indexed.search_image(picture.convert("RGB"), 10, text=SENTENCE, text_weight=0.5)
    assert [f"score {one.score:.2f}" in name for one, name in zip(both, shown.names(), strict=True)] == [True] * 10
    shown.page.get_by_role("button", name="Remove the picture").click()
    shown.page.locator(f"#status b:text-is('{SENTENCE}')").wait_for()
    assert [one.path for one in indexed.search(SENTENCE, 1)] == [shown.why(0)]
    assert not [file for file in site.temporary.rglob("*") if file.is_file() and file.suffix != ".css"]


def test_hostile_files_are_refused_and_the_page_goes_on(window, tmp_path, site):
    shown = window()
    before = shown.search(SENTENCE)
    shown.unfold("Search by a picture")
    for number, content in enumerate((b"a text", b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n", png_header(30_000, 30_000))):
        path = tmp_path / f"{number}.png"
        path.write_bytes(content)
        shown.upload(path)
        reason = "too many pixels" if number == 2 else "no format that is read"
        shown.page.locator("#status [role=alert]", has_text=reason).wait_for()
        assert shown.problem().endswith("choose a JPEG, PNG or WebP file.")
    (tmp_path / "large.png").write_bytes(bytes(11 * 2**20))
    shown.upload(tmp_path / "large.png")
    shown.page.get_by_text("exceed the maximum allowed size of 10").wait_for()
    assert shown.names() == before
    after = shown.search("a woman in a white dress")
    assert len(after) == 10
    assert after != before


def test_the_keyboard_alone_is_enough(window, indexed):
    shown = window()
    shown.page.locator("#sentence textarea").focus()
    shown.page.keyboard.type(SENTENCE)
    shown.page.keyboard.press("Enter")
    shown.page.locator("#results button").first.wait_for()
    for _ in range(25):
        shown.page.keyboard.press("Tab")
        if shown.page.evaluate("document.activeElement.matches('#results button')"):
            break
    assert shown.page.evaluate("document.activeElement.querySelector('img').alt").startswith("Result 1 of 10")
    assert shown.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.page.keyboard.press("Enter")
    shown.page.locator("#why h2").wait_for()
    shown.page.wait_for_function("document.activeElement.matches('#why h2')")
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.textContent") == "More like this one"
    shown.page.keyboard.press("Enter")
    shown.page.locator("#status b", has_text=f"pictures like {indexed.search(SENTENCE, 1)[0].path}").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(window, scheme):
    shown = window(viewport=PHONE, color_scheme=scheme)
    shown.search(SENTENCE)
    shown.why(0)
    for name in ("Filters and number of results", "Search by a picture", "Queries of this visit"):
        shown.unfold(name)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert shown.page.locator("#results li").nth(1).bounding_box()["x"] > 60  # more than one in a line
    ground = re.findall(r"\d+", shown.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (sum(map(int, ground[:3])) < 200) == (scheme == "dark")


def test_what_the_page_is_for_is_said(window):
    shown = window()
    said = shown.page.locator("#purpose").inner_text()
    assert "authorised use" in said
    assert "without a legal basis" in said
    assert "proves nothing" in said


def test_a_lost_or_broken_picture_is_named_and_the_others_stay(window, home, indexed):
    shown = window()
    lost, broken = (home / "pictures" / one.path for one in indexed.search(SENTENCE, 2))
    contents = lost.read_bytes(), broken.read_bytes()
    try:
        lost.unlink()
        broken.write_bytes(b"no picture any more")
        names = shown.search(SENTENCE)
        assert [name.endswith("the picture is missing or broken") for name in names] == [True, True] + [False] * 8
        assert "2 of them cannot be shown: put their files back" in shown.page.locator("#status").inner_text()
        shown.why(0)
        assert "put it back" in shown.page.locator("#why").inner_text()
    finally:
        lost.write_bytes(contents[0])
        broken.write_bytes(contents[1])


def test_mistakes_in_a_link_and_an_empty_sentence_are_one_sentence(window):
    assert "asks for '7' results" in window("?q=a+man&count=7").problem()
    assert "nobody" in window("?q=a+man&is.nobody=x").problem()
    assert "gone.jpg" in window("?like=gone.jpg").problem()
    shown = window()
    shown.page.locator("#search").click()
    assert shown.problem() == "Type a sentence that describes a person, or choose a picture."
    harmless = window("?q=" + "%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D1%3E%20%7B%7Bvalue%7D%7D%20%24%7B1%2B1%7D")
    harmless.page.locator("#status b").wait_for()
    assert "<img src=x onerror=document.title=1> {{value}} ${1+1}" in harmless.page.locator("#status").inner_text()
    assert harmless.page.title() == "Find a person by a description"


def test_only_the_page_is_served(site, home):
    for path in (
        "/config",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/openapi.json",
        "/docs",
        "/monitoring",
        f"/gradio_api/file={home}/pictures/metadata.jsonl",
        f"/file={home}/model/config.json",
        "/gradio_api/file=/etc/passwd",
        "/assets/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/proxy=https://example.org/",
    ):
        status, content = site.get(path)
        assert status in (403, 404), path
        assert b"root:" not in content
    status, content = site.get("/")
    assert status == 200
    assert str(home).encode() not in content  # no path of this machine
    assert json.dumps(str(home)).encode() not in content
