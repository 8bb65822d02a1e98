"""The user and the password of Redis. No error and no `repr` shows a password."""

from pathlib import Path

from redis import CredentialProvider
from redis.exceptions import AuthenticationError


class Credentials(CredentialProvider):
    """The user and the password, which may be in a file; asked for at each new connection.

    A password that changes in its file is so used from the next connection on.
    """

    def __init__(self, user: str | None, password: str | Path) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, after the user if there is one.

        Raises:
            AuthenticationError: the file cannot be read.
        """
        try:
            password = read_password(self._password)
        except ValueError as error:
            raise AuthenticationError(str(error)) from None
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same; the file is small and local."""
        return self.get_credentials()


def read_password(password: str | Path) -> str:
    """Return a password, from its file if it is a path, without the end of the line.

    Raises:
        ValueError: the file cannot be read, or is empty.
    """
    if isinstance(password, str):
        return password
    try:
        text = password.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{password} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"cannot read {password}: {error.strerror}") from None
    if not text:
        raise ValueError(f"{password} is empty")
    return text
