"""The media types of artifacts, and how a browser is to treat them."""

from pathlib import PurePath

BINARY = "application/octet-stream"

MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".png": "image/png",
    # An .npz is a zip file, but some browsers unpack application/zip.
    ".npz": BINARY,
}


def media_type_of(name: str) -> str:
    """Return the media type of an artifact, by the end of its name."""
    return MEDIA_TYPES.get(PurePath(name).suffix, BINARY)


def disposition_of(media_type: str) -> str:
    """Return whether a browser shows a file of this type, or saves it."""
    return "attachment" if media_type == BINARY else "inline"


def content_disposition(filename: str, media_type: str) -> str:
    """Return the header for a file of a plain name."""
    return f'{disposition_of(media_type)}; filename="{filename}"'
