import asyncio

import pytest
from redis.exceptions import AuthenticationError

from rollout_core.jobs.redis_credentials import Credentials, read_password


def test_a_password_has_a_user_or_none():
    assert Credentials("me", "secret").get_credentials() == ("me", "secret")
    assert Credentials(None, "secret").get_credentials() == ("secret",)
    assert asyncio.run(Credentials("me", "secret").get_credentials_async()) == ("me", "secret")


def test_no_representation_shows_it():
    assert "secret" not in repr(Credentials("me", "secret"))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_is_read_without_the_end_of_its_line(tmp_path, end):
    file = tmp_path / "password"
    file.write_bytes(f" a\nb {end}".encode())
    assert read_password(file) == " a\nb "


def test_a_file_is_read_each_time(tmp_path):
    file = tmp_path / "password"
    credentials = Credentials(None, file)
    for password in ("first", "second"):
        file.write_text(password)
        assert credentials.get_credentials() == (password,)


def test_a_file_that_is_gone_is_an_error_of_the_connection(tmp_path):
    with pytest.raises(AuthenticationError, match="No such file"):
        Credentials(None, tmp_path / "gone").get_credentials()
