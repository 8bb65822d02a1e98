"""Serves the web page: its files, and the sample video that a visitor can try.

The page names its files relative to itself, so it works behind a root path. None of them needs a
key: they show no jobs.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from rollout_core import demo
from service import docs, static_files
from service.auth import path_of
from service.file_answers import FileAnswer

STATIC = Path(__file__).with_name("static")
INDEX_PATH = "/"
FILES_PATH = "/page"
SAMPLE_PATH = f"{FILES_PATH}/sample.mp4"
ICON_PATH = "/favicon.ico"
"""Browsers ask for it when they show a file of the service by itself."""

SAMPLE = Path(demo.__file__).with_name("sample.mp4")


def find_files() -> dict[str, Path]:
    """Return each file of the page by its path in a URL."""
    found = {INDEX_PATH: STATIC / "index.html", ICON_PATH: STATIC / "icon.svg"}
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            found[f"{FILES_PATH}/{file.relative_to(STATIC).as_posix()}"] = file
    return found


def is_page_path(scope: Scope) -> bool:
    """Return whether a request is for the page or one of its files."""
    path = path_of(scope)
    return path in ("", INDEX_PATH, ICON_PATH) or path.startswith(f"{FILES_PATH}/")


def install(app: FastAPI) -> None:
    """Add the routes of the page to `app`."""
    static_files.install(app, find_files())
    app.add_route(SAMPLE_PATH, _answer_sample, include_in_schema=False)
    app.router.routes.append(_AddSlash(INDEX_PATH, _redirect, include_in_schema=False))


def install_without_page(app: FastAPI) -> None:
    """Answer `/` with the places of the documentation."""
    app.add_route(INDEX_PATH, _name_documentation, include_in_schema=False)


class _AddSlash(Route):
    """Matches the root path without the slash at its end; links would lead beside the service."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or path_of(scope):
            return Match.NONE, {}
        return super().matches({**scope, "path": scope["path"] + INDEX_PATH})


async def _redirect(request: Request) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(request.scope["root_path"] + INDEX_PATH + query)


async def _answer_sample(request: Request) -> Response:
    headers = {"ETag": f'"{_sample_digest()}"', "Cache-Control": static_files.CACHE_CONTROL}
    answer = FileAnswer(SAMPLE, media_type="video/mp4", headers=headers)
    return answer.unless_current(request.headers.get("if-none-match"))


@cache
def _sample_digest() -> str:
    return sha256(SAMPLE.read_bytes()).hexdigest()


async def _name_documentation(request: Request) -> Response:
    root = request.scope["root_path"]
    return JSONResponse(
        {"documentation": root + docs.PAGE_PATH, "openapi": root + docs.DOCUMENT_PATH}
    )
