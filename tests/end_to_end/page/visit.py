"""What a visitor does with the page, and sees."""

import json
import struct
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, FilePayload, Locator, Page, Route, expect

from tests.system.node import FOLDER, require_node_package

WAIT_MILLISECONDS = 60_000
"""Long enough for a busy machine."""

expect.set_options(timeout=WAIT_MILLISECONDS)

MEGABYTE = 10**6

_REFUSED_CALL = "Failed to load resource"
"""The browser's own line for every call that is refused or not answered."""

_AXE = """async () => (await axe.run()).violations.map(
    ({id, nodes}) => `${id}: ${nodes.map(node => node.html).join(' ')}`)"""


class Visit:
    """A page, with what its scripts complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self._network = context.new_cdp_session(self.page)
        self._network.send("Network.enable")
        self.complaints: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.page.on("console", lambda line: self._hear(line.type, line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda call: self.calls.append((call.method, call.url)))

    def go(self, address: str = "") -> None:
        """Open an address of the page."""
        self.page.goto(f"{self.url}/{address}")

    def button(self, name: str) -> Locator:
        """Return the button, or the link that looks like one, of this name."""
        return self.page.get_by_role("button", name=name).or_(
            self.page.get_by_role("link", name=name)
        )

    def see(self, text: str) -> Locator:
        """Wait until a text is shown, and return its element."""
        found = self.page.get_by_text(text).locator("visible=true").first
        expect(found).to_be_visible()
        return found

    def see_no_more(self, text: str) -> None:
        """Wait until a text is not shown."""
        expect(self.page.get_by_text(text)).to_have_count(0)

    def choose(self, video: bytes, name: str = "walk.mp4", kind: str = "video/mp4") -> None:
        """Choose a file, as in the dialog of the browser."""
        file: FilePayload = {"name": name, "mimeType": kind, "buffer": video}
        self._field.set_input_files(file)

    def choose_file(self, path: Path) -> None:
        """Choose a file of this machine: a large one would take long to hand over as bytes."""
        self._field.set_input_files(path)

    def await_job(self) -> str:
        """Wait until the page is at a job, and return the job's id."""
        self.page.wait_for_url("**/#/jobs/*")
        return self.page.url.rpartition("/")[2].partition("?")[0]

    def await_result(self) -> None:
        """Wait until the view of the result is there."""
        expect(self.page.locator(".explore")).to_be_visible()

    def script(self, **fake: Any) -> None:
        """Let what is asked next tell the fake engine how the job goes."""

        def amend(route: Route) -> None:
            asked = route.request.post_data_json if route.request.method == "POST" else None
            changed = asked and json.dumps({**asked, "reuse": False, "fake": fake})
            route.continue_(post_data=changed) if changed else route.continue_()

        self.page.route("**/v1/jobs", amend)

    def pace(self, bytes_per_second: float) -> None:
        """Limit the upload; -1 lifts the limit."""
        rates = {"downloadThroughput": -1, "uploadThroughput": bytes_per_second}
        self._network.send(
            "Network.emulateNetworkConditions", {"offline": False, "latency": 0} | rates
        )

    def check(self) -> None:
        """Assert that axe finds nothing, and that nothing lies beside the window."""
        require_node_package("axe-core")
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate((FOLDER / "node_modules/axe-core/axe.min.js").read_text())
        # Colours that are still on their way to others would be measured in between.
        self.page.evaluate("() => document.getAnimations().forEach(one => one.currentTime = 1e6)")
        assert self.page.evaluate(_AXE) == []
        beside = "() => document.documentElement.scrollWidth - innerWidth"
        assert self.page.evaluate(beside) <= 0

    @property
    def _field(self) -> Locator:
        return self.page.locator("input[type=file]")

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(_REFUSED_CALL):
            self.complaints.append(text)


def padded(video: bytes, megabytes: float) -> bytes:
    """Return an MP4 file of this size, with a box at its end that players skip."""
    rest = round(megabytes * MEGABYTE) - len(video)
    return video + struct.pack(">I4s", rest, b"free") + bytes(rest - 8)
