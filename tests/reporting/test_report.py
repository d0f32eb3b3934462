import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from cffa_hf.records.results import comparison_entry, confidence_entry, write_results
from cffa_hf.reporting.charts import cmc_figure
from cffa_hf.reporting.pictures import save_figure
from cffa_hf.reporting.report import ReportFigure, write_report
from tests.records.test_results import IMAGE as IMAGE_RANKS
from tests.records.test_results import TEXT, WORSE, checkpoint, entry

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    part = entry(dataset="people <b>& co</b>")
    part |= {
        "camera_aware": False,
        "confidence": confidence_entry(TEXT, IMAGE_RANKS),
        "comparison": comparison_entry(checkpoint(), (WORSE, IMAGE_RANKS), (TEXT, IMAGE_RANKS)),
        "slices": {"mentions a hat": {**entry()["text_to_image"], "queries": 12}},
        "stress": {"captions": {"typos": {"10% of words": entry()["text_to_image"]}}, "images": {}},
    }
    picture = save_figure(cmc_figure({"text-to-image": [40.0, 60.0, 70.0]}), folder / "cmc.png")
    figures = {"test": [ReportFigure("Cumulative match curve", "Share of queries.", picture)]}
    results = write_results(folder, checkpoint(), {"test": part})
    return write_report(folder / "report.html", results, {"test": part}, figures)


def test_everything_is_inside(report):
    page = report.read_text()
    (source,) = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert source.startswith("data:image/png;base64,")
    assert "href" not in page
    assert "url(" not in page
    assert "http" not in page
    assert "<b>" not in page
    for text in ("people &lt;b&gt;", "Rank-1", "66.67", "mentions a hat", "typos", "validation", "Compared with run"):
        assert text in page


def test_the_markup_is_balanced(report):
    class Checker(HTMLParser):
        open_tags: list[str]

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                self.open_tags.append(tag)
            if tag == "img":
                assert dict(attrs)["alt"]

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    checker = Checker()
    checker.open_tags = []
    checker.feed(report.read_text())
    assert checker.open_tags == []


def chromium(report, folder, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, report.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_shows_it_without_network(report, tmp_path):
    # A script in a copy writes into the page what the browser made of it.
    probe = (
        "<script>addEventListener('load', () => { const images = [...document.images];"
        "const wide = document.documentElement.scrollWidth <= innerWidth;"
        "document.body.dataset.seen = [images.length, images.every(i => i.complete && i.naturalWidth > 0), wide,"
        "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length].join(); })</script>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text(report.read_text().replace("</body>", probe + "</body>"))
    page = chromium(copy, tmp_path, "--dump-dom", "--window-size=1200,900").stdout
    assert 'data-seen="1,true,true,0"' in page
    chromium(report, tmp_path, "--window-size=1200,1600", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as image:
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_in_either_style(report, scheme, browser):
    brightness = "element => getComputedStyle(element)[{!r}].match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("Math.min(...[...document.images].map(image => image.width))") > 390  # scrolled, not shrunk
    body = page.locator("body")
    light, ink = (body.evaluate(brightness.format(name)) for name in ("backgroundColor", "color"))
    assert (light > ink) == (scheme == "light")
    assert abs(light - ink) > 400
    page.close()
