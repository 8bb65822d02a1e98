"""The names that clients give to their videos. They are shown, and never used as a path."""

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header

MAX_CHARACTERS = 255

_ESCAPED = {"%22": '"', "%0D": "", "%0A": ""}
"""What browsers escape in the file name of a form."""


_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(
    rb";\s*filename\*\s*=\s*(?:utf-8|iso-8859-1)'[^';]*'([^;\s]*)", re.IGNORECASE
)
"""RFC 8187's form of a parameter, which the parser of forms leaves out."""


def parse_disposition(header: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a Content-Disposition; `filename*` overrides `filename`."""
    _, options = parse_options_header(header)
    extended = _EXTENDED.search(_QUOTED.sub(b'""', header))
    if extended:
        options[b"filename"] = unquote_to_bytes(extended[1])
    return options


def filename_of(options: Mapping[bytes, bytes]) -> str | None:
    """Return the cleaned file name of a Content-Disposition, None if it has none."""
    raw = options.get(b"filename")
    if raw is None:
        return None
    name = _decode(raw)
    for escape, character in _ESCAPED.items():
        name = name.replace(escape, character)
    return clean(name)


def clean(name: str) -> str | None:
    """Return the base name without control characters and spaces around it; None if it is empty."""
    base = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(character for character in base if character.isprintable()).strip()
    kept = kept[:MAX_CHARACTERS].rstrip()
    return None if kept in ("", ".", "..") else kept


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
