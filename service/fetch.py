"""Fetches the video of a job from a URL that the caller names.

Only from hosts that a setting allows, and only from addresses that were checked; see
`service.outbound`. What arrives is bounded as an upload is, in size and in pace.
"""

import asyncio
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2

from rollout_core.errors import UnsupportedContainer
from service.errors import (
    EmptyUpload,
    UploadTooLarge,
    UploadTooSlow,
    VideoUrlFailed,
    VideoUrlRefused,
)
from service.filenames import clean
from service.outbound import AddressRefused, Hosts, HostUnknown, Outbound, parse_url
from service.receiving import OnBytes, write_video
from service.upload_store import Received

FETCH_SECONDS = 600.0
"""A video must have arrived after this time: the caller waits for it."""


class VideoFetcher:
    """Fetches videos from the hosts that are allowed."""

    def __init__(
        self, hosts: Hosts, outbound: Outbound, *, max_bytes: int, idle_seconds: float
    ) -> None:
        """Allow `hosts`.

        Args:
            max_bytes: size of a video at most.
            idle_seconds: see `service.receiving.STEP_BYTES`.
        """
        self._hosts = hosts
        self._outbound = outbound
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds

    def check(self, url: str) -> None:
        """Check a URL, as far as that can be done without a look-up.

        Raises:
            VideoUrlRefused: it may not be fetched.
        """
        if not self._hosts:
            raise VideoUrlRefused("this service fetches no videos; upload the file")
        try:
            target = parse_url(url)
        except AddressRefused as error:
            raise VideoUrlRefused(str(error)) from error
        if not self._hosts.allow(target):
            raise VideoUrlRefused("this service does not fetch videos from this host and port")

    async def fetch(self, url: str, path: Path, on_bytes: OnBytes) -> Received:
        """Write the video at a URL to `path`.

        Raises:
            VideoUrlRefused: the URL, its host or an address of it is not allowed.
            VideoUrlFailed: the host does not send the file, or too slowly.
            UploadTooLarge: the file is too large.
            UnsupportedContainer: the file does not begin like a supported container.
            StoreUnavailable: `path` cannot be written.
        """
        self.check(url)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await self._fetch(url, path, on_bytes)
        except HostUnknown as error:
            raise VideoUrlFailed("the name of the host cannot be resolved") from error
        except AddressRefused as error:
            raise VideoUrlRefused(str(error)) from error
        except TimeoutError as error:
            raise VideoUrlFailed(f"the video did not arrive within {FETCH_SECONDS:g} s") from error
        except (UploadTooSlow, httpx2.TimeoutException) as error:
            raise VideoUrlFailed("the host answers or sends too slowly") from error
        except httpx2.HTTPError as error:
            raise VideoUrlFailed("the host cannot be reached, or broke the connection") from error
        except EmptyUpload as error:
            raise UnsupportedContainer("the file is empty") from error

    async def _fetch(self, url: str, path: Path, on_bytes: OnBytes) -> Received:
        idle_seconds = self._idle_seconds
        async with self._outbound.stream("GET", url, idle_seconds=idle_seconds) as response:
            self._check_response(response)
            return await write_video(
                response.aiter_raw(),
                path,
                max_bytes=self._max_bytes,
                idle_seconds=idle_seconds,
                on_bytes=on_bytes,
            )

    def _check_response(self, response: httpx2.Response) -> None:
        if 300 <= response.status_code < 400:
            raise VideoUrlFailed("the host redirects; give the address to which it redirects")
        if response.status_code != HTTPStatus.OK:
            raise VideoUrlFailed(f"the host answers {response.status_code}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise VideoUrlFailed("the host sends the file with a Content-Encoding")
        announced = response.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"the video has more than the {self._max_bytes} bytes accepted")


def filename_of(url: str) -> str | None:
    """Return the last part of a URL's path, None if it has none."""
    return clean(unquote(urlsplit(url).path).rpartition("/")[2])
