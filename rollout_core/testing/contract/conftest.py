from collections.abc import Iterator
from importlib.resources import files

import pytest

from rollout_core.testing.contract.caller import Caller, Json, wait_until
from rollout_core.testing.fake_service import RolloutService
from rollout_core.testing.http import Api

PREFERRED_MODEL = "fake"


@pytest.fixture(scope="session")
def api(rollout_service: RolloutService) -> Api:
    """Calls with the key of the service."""
    return rollout_service.api


@pytest.fixture(scope="session")
def other_api(rollout_service: RolloutService) -> Api:
    """Calls with the key of another owner."""
    if rollout_service.other_api_key is None:
        pytest.skip("needs a key of another owner: ROLLOUT_OTHER_API_KEY, or rollout_service_keys")
    return Api(rollout_service.url, rollout_service.other_api_key)


@pytest.fixture(scope="session")
def served(api: Api) -> Json:
    """A model that is ready, as /v1/models describes it."""

    def ready() -> Json | None:
        found = [item for item in api.get("/v1/models").json()["models"] if item["ready"]]
        found.sort(key=lambda item: item["name"] != PREFERRED_MODEL)
        return next(iter(found), None)

    return wait_until(ready)


@pytest.fixture(scope="session")
def video() -> bytes:
    """A video of two seconds, MP4 with H.264."""
    return (files("rollout_core") / "demo" / "sample.mp4").read_bytes()


@pytest.fixture(scope="session")
def caller(api: Api, served: Json, video: bytes) -> Iterator[Caller]:
    """Calls for one model; its jobs are deleted at the end."""
    caller = Caller(api, served["name"], video)
    yield caller
    caller.clean()


@pytest.fixture(scope="session")
def done(caller: Caller) -> Json:
    """A job that has succeeded, with every kind of artifact but the plot of faithfulness."""
    job = caller.finish(overlay={}, preview=True, per_layer=True)
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture
def is_fake(served: Json) -> None:
    """Skip a test that scripts the fake engine if the engine is real."""
    if served["engines"] != ["fake"]:
        pytest.skip("scripts the fake engine")
