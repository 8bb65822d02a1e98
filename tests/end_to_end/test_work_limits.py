"""Ten minutes of video with everything on: as many bytes as the operator allows, and no more."""

import pytest

from tests.rollout_core.films import encode
from tests.system.system import open_system

MOST = 50_000_000
ALL_QUERIES = [
    f"{frame}:{row}:{column}" for frame in range(8) for row in range(8) for column in (0,)
]
EVERYTHING = {"clips": "tile", "per_layer": True, "preview": True}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "long.mp4"
    return encode(path, frames=2400, rate=4, width=32, height=32).read_bytes()


@pytest.fixture(scope="module")
def small_system():
    with open_system(forked=True) as system:
        system.api()
        system.worker("--max-array-bytes", str(MOST), model="fake")
        system.await_models("fake")
        yield system


def test_a_job_with_too_large_arrays_fails_before_it_is_computed(small_system, film):
    job = small_system.wait(small_system.accepted(film, query=ALL_QUERIES, **EVERYTHING))

    assert (job["state"], job["attempt"], job["error"]["code"]) == ("failed", 1, "too_much_work")
    assert job["error"]["detail"].startswith(
        "the arrays of 600 clips, 64 queries, 0 targets and 4 layers take 84,"
    )
    files = (small_system.data_dir / "jobs" / job["id"]).rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < len(film) + 10_000


def test_a_job_within_the_limit_ends(small_system, film):
    job_id = small_system.accepted(film, end_seconds=60, query=ALL_QUERIES[:4], **EVERYTHING)

    assert small_system.wait(job_id, seconds=120)["state"] == "succeeded"
