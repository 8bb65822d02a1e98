"""Clients of the simulation: each submits a job, follows it to its end, and fetches its result."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Literal

import httpx

POLL_SECONDS = 2.0
WAIT_SECONDS = 30
TIMEOUT_SECONDS = 60.0
REFUSED_SECONDS = 1.0
"""Pause of a client after a call that was not answered well."""

Follow = Literal["poll", "events", "wait"]


class Clients:
    """Clients in a thread of their own.

    Attributes:
        ended: jobs that clients have seen end.
        seconds: what each kind of call took.
        refused: answers other than the expected ones, by kind of call and status.
    """

    def __init__(self, url: str, upload: str, *, job_seconds: float, follow: Follow) -> None:
        self.ended = 0
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self._url = url
        self._wanted = {
            "upload": upload,
            "reuse": False,
            "overlay": None,
            "fake": {"seconds": job_seconds},
        }
        ways = {"poll": self._poll, "events": self._read_events, "wait": self._wait}
        self._follow = ways[follow]

    def forget(self) -> None:
        """Begin to count again."""
        self.ended = 0
        self.seconds.clear()
        self.refused.clear()

    @contextmanager
    def running(self, count: int, *, start_seconds: float) -> Iterator[None]:
        """Run so many clients until the context ends; they begin over `start_seconds`."""
        left = Event()
        thread = Thread(
            target=lambda: asyncio.run(self._run_until(left, count, start_seconds)), name="clients"
        )
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()

    async def _run_until(self, left: Event, count: int, start_seconds: float) -> None:
        running = asyncio.create_task(self._run(count, start_seconds))
        while not left.is_set():
            await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def _run(self, count: int, start_seconds: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_SECONDS, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(count):
                group.create_task(self._explain_for_ever(http))
                await asyncio.sleep(start_seconds / count)

    async def _explain_for_ever(self, http: httpx.AsyncClient) -> None:
        while True:
            try:
                await self._explain(http)
            except httpx.HTTPError as error:
                self.refused[type(error).__name__] += 1
                await asyncio.sleep(REFUSED_SECONDS)

    async def _explain(self, http: httpx.AsyncClient) -> None:
        job = await self._call(http, "submit", "POST", "/v1/jobs", json=self._wanted)
        await self._follow(http, f"/v1/jobs/{job['id']}")
        await self._call(http, "fetch", "GET", f"/v1/jobs/{job['id']}/artifacts/result.json")
        self.ended += 1

    async def _poll(self, http: httpx.AsyncClient, path: str) -> None:
        state = "queued"
        while state in ("queued", "running"):
            await asyncio.sleep(POLL_SECONDS)
            state = (await self._call(http, "poll", "GET", path))["state"]

    async def _wait(self, http: httpx.AsyncClient, path: str) -> None:
        state = "queued"
        while state in ("queued", "running"):
            answer = await http.get(path, params={"wait": WAIT_SECONDS})
            state = answer.raise_for_status().json()["state"]

    async def _read_events(self, http: httpx.AsyncClient, path: str) -> None:
        async with http.stream("GET", f"{path}/events") as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line == "event: end":
                    return

    async def _call(
        self, http: httpx.AsyncClient, kind: str, method: str, path: str, **options: Any
    ) -> dict[str, Any]:
        began = time.perf_counter()
        answer = await http.request(method, path, **options)
        self.seconds[kind].append(time.perf_counter() - began)
        if not answer.is_success:
            self.refused[f"{kind} {answer.status_code}"] += 1
            answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found
