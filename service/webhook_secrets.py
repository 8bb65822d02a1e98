"""Secrets that sign webhooks: those of each owner, or of a file if the service has no API keys.

A secret is `whsec_` and the base64 of 24 to 64 random bytes, as Standard Webhooks has it. During a
change there are several, and an event has a signature by each of them.
"""

import base64
import binascii
import logging
import secrets
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator

from rollout_core.errors import RolloutError

PREFIX = "whsec_"
SECRET_BYTES = 32

logger = logging.getLogger(__name__)


class SecretsFileError(RolloutError):
    """The file of webhook secrets cannot be read, or is not valid."""


def make_secret() -> str:
    """Return a new secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def check_secret(secret: str) -> str:
    """Return a secret unchanged.

    Raises:
        ValueError: it is not one. The message does not contain it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError(f"a webhook secret is {PREFIX} and the base64 of 24 to 64 bytes")
    return secret


WebhookSecret = Annotated[str, AfterValidator(check_secret)]


class _HasSecrets(Protocol):
    def webhook_secrets(self, owner: str) -> tuple[str, ...]: ...


class WebhookSecrets:
    """The secrets of each owner, as they are now."""

    def __init__(self, keys: _HasSecrets | None, path: Path | None) -> None:
        """Use the secrets of the API keys' owners; without keys, those of a file.

        Raises:
            SecretsFileError: the file cannot be read, or is not valid.
        """
        self._keys = keys
        self._path = path if keys is None else None
        self._latest = _read(self._path) if self._path else ()
        self._last_error = ""

    def of(self, owner: str | None) -> tuple[str, ...]:
        """Return the secrets of an owner, newest first. Reads the file, so call it in a thread."""
        if self._keys is not None:
            return self._keys.webhook_secrets(owner) if owner else ()
        if self._path:
            self._refresh(self._path)
        return self._latest

    def _refresh(self, path: Path) -> None:
        """Read the file again. While it is not valid, keep the present secrets."""
        try:
            self._latest = _read(path)
            self._last_error = ""
        except SecretsFileError as error:
            if str(error) != self._last_error:
                logger.error("Cannot read the webhook secrets, the present ones stay: %s", error)
            self._last_error = str(error)


def _read(path: Path) -> tuple[str, ...]:
    """Return the secrets of a file: one a line, # begins a comment."""
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        found = tuple(check_secret(line) for line in lines if line)
    except (OSError, ValueError) as error:
        raise SecretsFileError(f"{path} cannot be read: {error}") from error
    if not found:
        raise SecretsFileError(f"{path} contains no webhook secret")
    return found
