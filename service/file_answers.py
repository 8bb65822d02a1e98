"""Answers with a file on the disk: the whole file, ranges of it, or 304."""

from starlette.responses import FileResponse, MalformedRangeHeader, Response
from starlette.responses import RangeNotSatisfiable as StarletteRangeNotSatisfiable

from service.errors import RangeNotSatisfiable

KEPT_HEADERS = ("etag", "cache-control", "x-content-type-options")
"""Headers that a 304 repeats."""


class FileAnswer(FileResponse):
    """The answer with a file. Give it an `ETag` of the content, and a `Cache-Control`."""

    def unless_current(self, if_none_match: str | None) -> Response:
        """Return this answer, or 304 if the client has the file already."""
        return unless_current(self, if_none_match)

    @classmethod
    def ranges(cls, header: str, size: int) -> list[tuple[int, int]]:
        """Return the parts of a file that a `Range` asks for: first byte, and end.

        An empty list stands for the whole file: the header is malformed.

        Raises:
            RangeNotSatisfiable: one of them begins behind the end.
        """
        return cls._parse_range_header(header, size)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """Ignore a malformed range, as RFC 9110 says; raise our own error for one outside."""
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except StarletteRangeNotSatisfiable as error:
            raise RangeNotSatisfiable(error.max_size) from error


def unless_current(answer: Response, if_none_match: str | None) -> Response:
    """Return an answer, or 304 if the client has the file already."""
    if not not_modified(if_none_match, answer.headers["etag"]):
        return answer
    kept = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    return Response(status_code=304, headers=kept)


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Return whether the client's copy is current (RFC 9110, 13.1.2: weak comparison)."""
    named = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in named or named == ["*"]
