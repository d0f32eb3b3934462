"""A real browser for tests of the page: Debian's Chromium, or whichever one is there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SECONDS = 20_000  # in Playwright's milliseconds


def find_browser() -> str | None:
    """Path of a browser; None: the one that Playwright brought."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start the browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        except api.Error as error:
            pytest.skip(f"no Chromium can be started here: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """A window on a page, with the words of these tests.

    Args:
        browser: Of `open_browser`.
        address: Of the server.
        link: Parameters of the link that is opened.
        **options: Of the browser's context: viewport, color_scheme ...
    """

    def __init__(self, browser: Any, address: str, link: str = "", **options: Any):
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(SECONDS)
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.context.on("request", lambda request: self.note(request.url, address))
        self.page.goto(address + link)
        self.page.locator("#sentence textarea").wait_for()

    def note(self, url: str, address: str) -> None:
        """Keep the address of a request that went to another host."""
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(address).netloc:
            self.foreign.append(url)

    def search(self, sentence: str) -> list[str]:
        """Type a sentence and press Enter; the names of the results."""
        box = self.page.locator("#sentence textarea")
        box.fill(sentence)
        box.press("Enter")
        self.page.locator("#status b", has_text=sentence).wait_for()
        self.page.locator("#results button").first.wait_for()
        return self.names()

    def names(self) -> list[str]:
        """What a screen reader says of the results."""
        images = self.page.locator("#results img, #results [role=img]")
        return images.evaluate_all("all => all.map(one => one.getAttribute('alt') || one.getAttribute('aria-label'))")

    def why(self, place: int) -> str:
        """Press a result and return the file that is explained."""
        self.page.locator("#results button").nth(place).click()
        self.page.locator("#why h2", has_text=f"result {place + 1}?").wait_for()
        return self.page.locator("#why dt:text-is('file') + dd").inner_text()

    def problem(self) -> str:
        """The sentence that says what is wrong."""
        shown = self.page.locator("#status [role=alert]")
        shown.wait_for()
        return shown.inner_text()

    def unfold(self, name: str) -> None:
        """Open a part of the page that is folded."""
        self.page.get_by_role("button", name=name).click()

    def upload(self, path: Any) -> None:
        """Choose a file as the picture to search by."""
        self.page.locator("#upload, button:has(+ #upload), input[type=file]").first.wait_for(state="attached")
        self.page.locator("input[type=file]").first.set_input_files(str(path))
