"""Pages of other origins that may call the service (CORS), named by a setting."""

import re

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.proxies import split_list

ANY = "*"

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")

UPLOAD_HEADERS = ("Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Defer-Length")

REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Content-Disposition",
    "Prefer",
    "Idempotency-Key",
    "X-Request-ID",
    "Last-Event-ID",
    "Tus-Resumable",
    "X-HTTP-Method-Override",
    "Upload-Checksum",
    *UPLOAD_HEADERS,
    "Range",
    "If-None-Match",
)
"""Headers that a page may send."""

ANSWER_HEADERS = (
    "Location",
    "Retry-After",
    "X-Request-ID",
    "ETag",
    "Preference-Applied",
    "Content-Range",
    "Content-Disposition",
    "WWW-Authenticate",
    "Upload-Expires",
    *UPLOAD_HEADERS,
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
)
"""Headers that a page may read."""

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


def check_origins(origins: str | None) -> None:
    """Check a comma-separated list of origins.

    Raises:
        ValueError: one of them is neither an origin as browsers send it, nor `*`.
    """
    for origin in split_list(origins):
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin, such as https://a.example:8443, and not *")


def install(app: FastAPI, origins: str) -> None:
    """Let pages of these origins call the app. A preflight is answered without a key."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=split_list(origins),
        allow_methods=METHODS,
        allow_headers=REQUEST_HEADERS,
        expose_headers=ANSWER_HEADERS,
    )
