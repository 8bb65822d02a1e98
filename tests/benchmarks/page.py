"""Measures the page at `/` in Chromium: bytes, times, and what an exploration costs the service.

    python -m tests.benchmarks.page [--rounds 5] [--screenshots FOLDER]

It starts the service with the built-in model and opens the page as a visitor with an empty cache
does, on loopback. What it measures:

- the first view: requests, bytes in transfer, and the time until its buttons can be used;
- from the click on "Try the sample" until the video plays with its heat: with a new upload each
  time, and when the service has the result already;
- the time to draw the heat of one frame;
- seconds of worker time of one exploration, beside a job for each of its questions.

With `--screenshots` it also writes the pictures that the documents show.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize

from rollout_core.demo.sample import SAMPLE_PATH
from tests.system.browser import open_browser
from tests.system.system import System, open_system

SIZE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}
WAIT_MILLISECONDS = 60_000
EXPLORATION = {"preview": True, "per_layer": True, "full_rollout": True}
QUESTIONS = 12
"""Patches that a visitor asks about."""

IS_DRAWN = "() => window.__rollout?.drawMilliseconds() > 0 && __rollout.player.seconds > 0"


def main() -> None:
    """Measure everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--screenshots", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    print("| what | figure |\n|---|---|", flush=True)
    with open_system() as system, open_browser() as browser:
        system.api()
        system.worker()
        system.await_models("moving-things")
        measure_first_view(browser, system, options.rounds)
        measure_sample(browser, system, options.rounds)
        measure_cost(system)
        if options.screenshots:
            take_screenshots(browser, options.screenshots)
    print(f"\n{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}. Medians.")


def row(what: str, figure: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {figure} |", flush=True)


@contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[Page]:
    """Yield a page of a visitor with an empty cache."""
    context = browser.new_context(**{"viewport": SIZE} | options)
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT_MILLISECONDS)
        yield page
    finally:
        context.close()


def measure_first_view(browser: Browser, system: System, rounds: int) -> None:
    """Print requests, bytes and time of the first view."""
    seconds, figures = [], set[tuple[int, int]]()
    for _ in range(rounds):
        with visit(browser) as page:
            sizes = transfers(page)
            began = time.perf_counter()
            page.goto(str(system.client.base_url))
            page.get_by_role("button", name="Try the sample").wait_for()
            seconds.append(time.perf_counter() - began)
            page.wait_for_load_state("networkidle")
            figures.add((len(sizes), sum(sizes)))
    (count, total), *_ = sorted(figures)
    row("first view: requests; bytes in transfer", f"{count}; {total / 1000:.0f} kB")
    row("first view: until its buttons can be used", f"{median(seconds):.2f} s")


def transfers(page: Page) -> list[int]:
    """Return a list to which the bytes of each answer are added, headers included."""
    sizes: list[int] = []
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda end: sizes.append(int(end["encodedDataLength"])))
    return sizes


def measure_sample(browser: Browser, system: System, rounds: int) -> None:
    """Print the time from a click on the sample to its heat, and that of one drawing."""
    new, again, drawing = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        forget_jobs(system)
        for seconds in (new, again):
            with visit(browser) as page:
                seconds.append(try_sample(page, system))
                page.wait_for_timeout(1500)
                drawing.append(page.evaluate("__rollout.drawMilliseconds()"))
    row("sample: from the click to its heat, computed", f"{median(new):.2f} s")
    row("sample: the same, known to the service", f"{median(again):.2f} s")
    row("drawing the heat of one frame", f"{median(drawing):.2f} ms")


def try_sample(page: Page, system: System) -> float:
    """Click on the sample; return the seconds until the video plays with its heat."""
    page.goto(str(system.client.base_url))
    button = page.get_by_role("button", name="Try the sample")
    button.wait_for()
    began = time.perf_counter()
    button.click()
    page.wait_for_function(IS_DRAWN)
    return time.perf_counter() - began


def forget_jobs(system: System) -> None:
    """Delete all jobs, so that no result is known."""
    for job in system.client.get("/v1/jobs?limit=200").json()["jobs"]:
        system.client.delete(f"/v1/jobs/{job['id']}")


def measure_cost(system: System) -> None:
    """Print the worker's seconds for one exploration, and for a job per question."""
    upload = send_sample(system)
    one = worker_seconds(system, upload, **EXPLORATION)
    patches = [{"frame": n % 8, "row": n % 5, "column": n % 7} for n in range(QUESTIONS)]
    each = sum(worker_seconds(system, upload, query=patch) for patch in patches)
    row("one exploration: jobs; worker", f"1; {one:.2f} s")
    row(
        f"a job per question, {QUESTIONS} patches: jobs; worker",
        f"{QUESTIONS}; {each:.2f} s, {each / one:.1f} times as long",
    )


def send_sample(system: System) -> str:
    """Upload the sample; return the id of the upload."""
    headers = {"Content-Type": "video/mp4"}
    answer = system.client.post("/v1/uploads", content=SAMPLE_PATH.read_bytes(), headers=headers)
    return str(answer.json()["id"])


def worker_seconds(system: System, upload: str, **request: Any) -> float:
    """Return the seconds that the worker spent on a job."""
    asked = {"upload": upload, "reuse": False, "overlay": None, **request}
    answer = system.client.post("/v1/jobs", json=asked)
    assert answer.is_success, answer.text
    job = system.wait(answer.json()["id"])
    assert job["state"] == "succeeded", job
    return float(sum(job["result"]["timings_seconds"].values()))


# The pictures.

Shoot = Callable[[str], None]


def take_screenshots(browser: Browser, folder: Path) -> None:
    """Write a picture of each view into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for system in (running_system("moving-things"), running_system("fake")):
        with system as (name, address, jobs):
            for scheme in ("dark", "light"):
                with visit(browser, color_scheme=scheme, reduced_motion="reduce") as page:
                    VIEWS[name](page, address, jobs, partial(shoot, page, folder, scheme))


def shoot(page: Page, folder: Path, scheme: str, name: str) -> None:
    """Write a picture of what the page shows."""
    page.wait_for_timeout(1000)
    with Image.open(BytesIO(page.screenshot())) as picture:
        picture.save(folder / f"{name}-{scheme}.webp", quality=88, method=6)


@contextmanager
def running_system(model: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the model, the address of the page, and jobs by their fate (of the fake model)."""
    fates = {"failed": {"fail": "video_too_long"}, "running": {"seconds": 300}}
    with open_system() as system:
        system.api()
        system.worker(model="fake" if model == "fake" else None)
        system.await_models(model)
        jobs = {}
        if model == "fake":
            upload = send_sample(system)
            for fate, script in fates.items():
                asked = {"upload": upload, "fake": script}
                jobs[fate] = system.client.post("/v1/jobs", json=asked).json()["id"]
            system.wait(jobs["failed"])
        yield model, str(system.client.base_url).rstrip("/"), jobs


def shoot_results(page: Page, address: str, _: dict[str, str], shoot: Shoot) -> None:
    """Take the pictures of a result."""
    page.goto(address)
    page.get_by_role("button", name="Try the sample").click()
    page.wait_for_url("**/#/jobs/*")
    job = page.url.partition("?")[0]
    for name, query in RESULTS.items():
        page.goto("about:blank")
        page.goto(f"{job}?{query}")
        page.wait_for_function("() => window.__rollout?.drawMilliseconds() > 0")
        shoot(name)
    page.keyboard.press("c")
    page.wait_for_timeout(5000)
    shoot("compare")
    page.goto(address)
    page.get_by_role("button", name="Try the sample").wait_for()
    shoot("start")
    page.goto(f"{job}?{RESULTS['explore']}")
    page.set_viewport_size(NARROW)
    shoot("narrow")


def shoot_jobs(page: Page, address: str, jobs: dict[str, str], shoot: Shoot) -> None:
    """Take the pictures of jobs without a result."""
    for fate, job in jobs.items():
        page.goto("about:blank")
        page.goto(f"{address}/#/jobs/{job}")
        page.get_by_role("main").wait_for()
        shoot(fate)


RESULTS = {"patch": "seconds=4.4&patch=3:3:4&shown=yes", "explore": "seconds=4.4"}
"""Views of the sample, by the query of their address."""

VIEWS = {"moving-things": shoot_results, "fake": shoot_jobs}


if __name__ == "__main__":
    main()
