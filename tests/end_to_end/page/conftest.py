"""The page at `/` in a real browser, of a running service with scripted workers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.page.visit import Visit
from tests.service.owners import write_keys
from tests.system.browser import open_browser
from tests.system.system import System, open_system

KEYED = 1
"""Place of the API that needs keys among those of the system."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Yield a system with two APIs; the second one needs keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    write_keys(keys)
    with open_system(forked=True) as system:
        system.api()
        system.api("--api-keys-file", str(keys))
        system.worker(model="fake")
        system.await_models("fake")
        yield system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(system: System, browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open the page as a new visitor; at the end, no script must have failed."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def open_one(address: str = "", *, api: int = 0, **options: Any) -> Visit:
            sized = {"viewport": {"width": 1280, "height": 800}} | options
            context = stack.enter_context(browser.new_context(**sized))
            visits.append(Visit(context, str(system.clients[api].base_url)))
            visits[-1].go(address)
            return visits[-1]

        yield open_one
        complaints = [line for visit in visits for line in visit.complaints]
    assert complaints == []
