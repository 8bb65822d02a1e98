"""What a caller can ask about deliveries. Sending needs a host that the service allows."""

import pytest

from rollout_core.testing.contract.caller import Caller, Json, require_problem


def test_a_job_without_a_webhook_has_no_deliveries(caller: Caller, done: Json) -> None:
    answer = caller.api.get(f"/v1/jobs/{done['id']}/deliveries")
    assert (answer.status, answer.json()) == (200, {"deliveries": []})


def test_deliveries_of_a_job_that_does_not_exist_are_not_found(caller: Caller) -> None:
    answer = caller.api.get(f"/v1/jobs/{'0' * 32}/deliveries")
    require_problem(answer, 404, "job_not_found")


@pytest.mark.parametrize("webhook", [{"url": "ftp://host/"}, {"url": "https://a", "events": []}])
def test_a_webhook_that_cannot_be_sent_is_refused(caller: Caller, webhook: Json) -> None:
    require_problem(caller.submit(webhook=webhook), 422, "invalid_request")
