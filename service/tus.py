"""The tus protocol for uploads that go on where they stopped, as values and checks.

Version 1.0.0 (https://tus.io/protocols/resumable-upload) with the extensions of `EXTENSIONS`. The
calls are in `service.routes.tus`.
"""

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from hashlib import md5, sha1, sha256
from typing import TYPE_CHECKING, NamedTuple

from starlette.datastructures import Headers

from service.errors import (
    InvalidTusHeader,
    TusBodyUnsupported,
    TusVersionUnsupported,
    UploadEncoded,
    UploadTooLarge,
)
from service.filenames import clean

if TYPE_CHECKING:
    from hashlib import _Hash

VERSION = "1.0.0"
EXTENSIONS = ("creation", "creation-with-upload", "expiration", "termination", "checksum")
HASHES = {"sha256": sha256, "sha1": sha1, "md5": md5}
BODY_TYPE = "application/offset+octet-stream"

RESUMABLE = "Tus-Resumable"
METHOD_OVERRIDE = "X-HTTP-Method-Override"

MAX_NUMBER_DIGITS = 18


class Creation(NamedTuple):
    """What a client says of a new upload.

    Attributes:
        bytes: size of the whole file.
        filename: None if the client names none.
    """

    bytes: int
    filename: str | None


class Checksum(NamedTuple):
    """The digest that the body of a request must have."""

    algorithm: str
    digest: bytes

    def new_hash(self) -> "_Hash":
        """Return an empty hash of the algorithm."""
        return HASHES[self.algorithm](usedforsecurity=False)

    def fits(self, computed: "_Hash") -> bool:
        """Return whether a hash of the body has the digest."""
        return hmac.compare_digest(computed.digest(), self.digest)


def offers(max_bytes: int) -> dict[str, str]:
    """Return the headers that tell what the server can do."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(EXTENSIONS),
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(HASHES),
    }


def require_version(headers: Headers) -> None:
    """Check that the client speaks the same version.

    Raises:
        TusVersionUnsupported: it names another one, or none.
    """
    if headers.getlist(RESUMABLE) != [VERSION]:
        raise TusVersionUnsupported(f"send the header {RESUMABLE}: {VERSION}")


def read_creation(headers: Headers, max_bytes: int) -> Creation:
    """Read the headers of a creation.

    Raises:
        InvalidTusHeader: a header is missing or malformed.
        UploadTooLarge: the file has more than `max_bytes`.
    """
    if "upload-defer-length" in headers:
        raise InvalidTusHeader("send Upload-Length; its deferral is not supported")
    length = read_number(headers, "Upload-Length")
    if length > max_bytes:
        raise UploadTooLarge(f"the file has {length} bytes; at most {max_bytes} are accepted")
    if length == 0:
        raise InvalidTusHeader("Upload-Length is 0: the file is empty")
    metadata = read_metadata(headers.get("upload-metadata", ""))
    filename = metadata.get("filename") or metadata.get("name")
    return Creation(length, clean(filename) if filename else None)


def read_metadata(header: str) -> Mapping[str, str]:
    """Return the pairs of an `Upload-Metadata` header.

    Raises:
        InvalidTusHeader: it is not a list of unique names, each with a value in base64 or without.
    """
    pairs: dict[str, str] = {}
    for item in header.split(",") if header.strip() else ():
        name, _, value = item.strip().partition(" ")
        if not name or name in pairs:
            raise InvalidTusHeader("Upload-Metadata has an empty or a repeated name")
        try:
            pairs[name] = b64decode(value.strip(), validate=True).decode()
        except (Base64Error, UnicodeDecodeError, ValueError) as error:
            raise InvalidTusHeader("Upload-Metadata has a value that is not base64") from error
    return pairs


def read_checksum(headers: Headers) -> Checksum | None:
    """Return the checksum of the body, None if the client sends none.

    Raises:
        InvalidTusHeader: it is malformed, or its algorithm is not supported.
    """
    header = headers.get("upload-checksum")
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    if algorithm not in HASHES:
        raise InvalidTusHeader(f"Upload-Checksum must use one of {', '.join(HASHES)}")
    try:
        digest = b64decode(encoded.strip(), validate=True)
    except (Base64Error, ValueError) as error:
        raise InvalidTusHeader("the digest of Upload-Checksum is not base64") from error
    checksum = Checksum(algorithm, digest)
    if len(digest) != checksum.new_hash().digest_size:
        raise InvalidTusHeader(f"the digest of Upload-Checksum is not one of {algorithm}")
    return checksum


def read_number(headers: Headers, name: str) -> int:
    """Return a header that is a number of bytes.

    Raises:
        InvalidTusHeader: it is missing, repeated or no number.
    """
    values = headers.getlist(name)
    digits = values[0] if len(values) == 1 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_NUMBER_DIGITS):
        raise InvalidTusHeader(f"send {name} once, as a number of bytes")
    return int(digits)


def has_body(headers: Headers) -> bool:
    """Return whether a creation brings the first bytes of the file with it."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def require_body_type(headers: Headers) -> None:
    """Check that the body is a part of the file as it is.

    Raises:
        TusBodyUnsupported: it has another type.
        UploadEncoded: it is compressed.
    """
    if headers.get("content-type", "").strip().lower() != BODY_TYPE:
        raise TusBodyUnsupported(f"send the bytes as Content-Type: {BODY_TYPE}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UploadEncoded("send the bytes without Content-Encoding")


def http_date(time: datetime) -> str:
    """Return a time in UTC as `Upload-Expires` has it."""
    return format_datetime(time, usegmt=True)
