"""The real thing: a Valkey server, the API and workers, each a process of its own."""

from collections.abc import Iterator

import pytest

from tests.house.house import House, open_house
from tests.worker.clips import make_video

MODELS = ("fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang")


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("video") / "wandering.mp4").read_bytes()


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a video of eight clips: four seconds of work for `fake-slow`."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    return make_video(path, seconds=8, width=64, height=64).read_bytes()


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    with open_house() as house:
        house.api()
        for model in MODELS:
            house.worker("--engine-timeout-seconds", "1", model=model)
        house.await_models(*MODELS)
        yield house
