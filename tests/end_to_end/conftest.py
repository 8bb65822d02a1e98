"""A running service: a Valkey server, the API and workers, each a separate process."""

from collections.abc import Iterator

import pytest

from tests.system.system import System, open_system
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
def system() -> Iterator[System]:
    with open_system(forked=True) as system:
        system.api()
        for model in MODELS:
            system.worker("--engine-timeout-seconds", "1", model=model)
        system.await_models(*MODELS)
        yield system
