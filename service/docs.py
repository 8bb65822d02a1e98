"""The OpenAPI document over HTTP, and the page `/docs` that shows it.

All files of the page come from this service, so it works without a network, and no script of
another site ever runs on it. They are those of swagger-ui-dist; `scripts/swagger-ui` renews them.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service import static_files

STATIC = Path(__file__).with_name("static")
DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"

FILES = {
    "": STATIC / "docs.html",
    "/start.js": STATIC / "start.js",
    "/swagger-ui-bundle.js": STATIC / "swagger-ui" / "swagger-ui-bundle.js",
    "/swagger-ui.css": STATIC / "swagger-ui" / "swagger-ui.css",
}
"""Each file by its path below `PAGE_PATH`. The page names the others relative to itself."""


def install(app: FastAPI) -> None:
    """Add the routes of the document and of the page to `app`."""

    async def document(request: Request) -> Response:
        root_path = request.scope.get("root_path", "")
        servers = [{**server, "url": root_path or "/"} for server in app.openapi()["servers"]]
        return JSONResponse({**app.openapi(), "servers": servers})

    app.add_route(DOCUMENT_PATH, document, include_in_schema=False)
    static_files.install(app, {PAGE_PATH + path: file for path, file in FILES.items()})
