from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rollout_core import films

Film = Callable[..., Path]


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Return a function that encodes a small video; keyword arguments as for `films.encode`."""

    def make(name: str = "film.mp4", **options: Any) -> Path:
        folder = tmp_path / "films"
        folder.mkdir(exist_ok=True)
        return films.encode(folder / name, **options)

    return make


@pytest.fixture(scope="session")
def plain_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten grey frames of 64×48 at 25 Hz, h264 in mp4."""
    return films.encode(tmp_path_factory.mktemp("plain") / "film.mp4")
