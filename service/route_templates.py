"""The template of a request's route, such as `/v1/jobs/{job_id}`: a name of which there are few.

A path names jobs and files, and a client may send any; so measurements name templates instead.
"""

import re
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from service.auth import path_of
from service.docs import DOCUMENT_PATH, PAGE_PATH
from service.page.files import is_page_path

PAGE = "page"
"""Stands for the web page and its files, which are many."""

DOCS = "docs"
"""Stands for the page of the documentation, its files and the OpenAPI document."""

UNMATCHED = "unmatched"
"""Stands for all other paths."""


class RouteTemplates:
    """The templates of the API."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        """Know these routes; of those that are alike, the first counts."""
        self._templates: dict[str, re.Pattern[str]] = {}
        for route in routes:
            if isinstance(route, Route):
                self._templates.setdefault(route.path, route.path_regex)

    def of(self, scope: Scope) -> str:
        """Return the template of a request, whether or not its route takes the method."""
        path = path_of(scope)
        if is_page_path(scope):
            return PAGE
        if path == DOCUMENT_PATH or f"{path}/".startswith(f"{PAGE_PATH}/"):
            return DOCS
        matching = (name for name, regex in self._templates.items() if regex.match(path))
        return next(matching, UNMATCHED)
