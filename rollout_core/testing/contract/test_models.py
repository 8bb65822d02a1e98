import pytest

from rollout_core.testing.contract.caller import Json
from rollout_core.testing.http import Api


def test_a_served_model_tells_what_it_expects(served: Json) -> None:
    spec = served["spec"]
    assert spec["name"] == served["name"]
    assert min(spec[name] for name in ("frames", "height", "width", "depth", "classes")) > 0
    assert served["workers"] >= served["ready"] >= 1
    assert served["checkpoints_differ"] is False


@pytest.mark.usefixtures("is_fake")
def test_the_fake_service_has_all_its_models(api: Api) -> None:
    models = {item["name"] for item in api.get("/v1/models").json()["models"]}
    assert {"fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang"} <= models


def test_health_needs_no_key(api: Api, served: Json) -> None:
    without_key = Api(api.url)
    assert without_key.get("/livez").json()["status"] == "alive"
    ready = without_key.get("/readyz")
    assert ready.status == 200
    assert ready.json()["workers"][served["name"]] >= 1


def test_the_schema_is_openapi_with_every_call(api: Api) -> None:
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/models"} <= document["paths"].keys()
