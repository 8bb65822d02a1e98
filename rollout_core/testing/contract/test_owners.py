"""With API keys, a job belongs to its owner: for others it does not exist."""

import pytest

from rollout_core.testing.contract.caller import Json, require_problem
from rollout_core.testing.http import Api


def test_another_owner_does_not_see_the_job(other_api: Api, done: Json) -> None:
    path = f"/v1/jobs/{done['id']}"
    require_problem(other_api.get(path), 404, "job_not_found")
    require_problem(other_api.get(f"{path}/artifacts/sheet.png"), 404, "job_not_found")
    require_problem(other_api.post(f"{path}/cancel"), 404, "job_not_found")
    require_problem(other_api.delete(path), 404, "job_not_found")
    ids = {job["id"] for job in other_api.get("/v1/jobs?limit=200").json()["jobs"]}
    assert done["id"] not in ids


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_key_that_is_known_nothing_is_answered(other_api: Api, key: str | None) -> None:
    stranger = Api(other_api.url, key)
    for path in ("/v1/jobs", "/v1/models"):
        answer = stranger.get(path)
        require_problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
