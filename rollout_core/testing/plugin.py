"""The pytest plugin: the fixture `rollout_service`, a running service for the tests of a caller.

pytest loads this in every project of the environment, so it imports nothing but pytest.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rollout_core.testing.fake_service import RolloutService

KEY_VARIABLE = "ROLLOUT_API_KEY"
OTHER_KEY_VARIABLE = "ROLLOUT_OTHER_API_KEY"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the service; they are for the fixture alone."""
    group = parser.getgroup("rollout", "TimeSformer rollout service")
    text = "URL of a running service for `rollout_service`; default: a fake one is started"
    group.addoption("--rollout-url", metavar="URL", help=text)
    parser.addini("rollout_service_url", text)
    parser.addini(
        "rollout_service_keys",
        "whether the fake service needs API keys; it then has two owners",
        type="bool",
        default=False,
    )
    parser.addini(
        "rollout_service_settings",
        "settings of the fake service and its workers, one NAME=VALUE a line",
        type="linelist",
        default=[],
    )


@pytest.fixture(scope="session")
def rollout_service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[RolloutService]":
    """Yield a running service; by default a fake one that is stopped at the end of the session.

    With `--rollout-url` or the setting `rollout_service_url` it is the service at that address. The
    environment variable ROLLOUT_API_KEY has its key; ROLLOUT_OTHER_API_KEY that of another owner.
    """
    from rollout_core.testing.fake_service import RolloutService, running_fake

    url = request.config.getoption("rollout_url") or request.config.getini("rollout_service_url")
    if url:
        yield RolloutService(
            url.rstrip("/"),
            api_key=os.environ.get(KEY_VARIABLE),
            other_api_key=os.environ.get(OTHER_KEY_VARIABLE),
        )
        return
    settings = dict(map(_read_setting, request.config.getini("rollout_service_settings")))
    needs_keys = request.config.getini("rollout_service_keys")
    folder = tmp_path_factory.mktemp("rollout-service")
    with running_fake(folder, needs_keys=needs_keys, settings=settings) as service:
        yield service


def _read_setting(line: str) -> tuple[str, str]:
    """Return name and value of a line of `rollout_service_settings`."""
    name, equals, value = line.partition("=")
    if not equals:
        raise pytest.UsageError(f"rollout_service_settings: {line!r} is not NAME=VALUE")
    return name.strip(), value.strip()
