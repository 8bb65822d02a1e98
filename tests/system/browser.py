"""A real browser without a network, for tests of pages; see `scripts/tools`."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.tools import require_tool

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""The last one takes the network away: no name can be resolved."""

TIMEOUT_MILLISECONDS = 30_000


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a new browser."""
    program = require_tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page() -> Iterator[Page]:
    """Yield an empty page of a new browser."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        yield page
