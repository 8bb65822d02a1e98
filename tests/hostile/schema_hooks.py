"""Hooks that tell schemathesis what the schema cannot say: a valid video, and the model's limits.

The schema describes a video as bytes only. It cannot express rules that depend on the model or on
two fields together. For these rules alone, the service may refuse what the schema allows:
`is_valid_request` applies the same rules, so a wrong refusal is still reported.

The environment names two files: ROLLOUT_TEST_VIDEO, a valid video, and ROLLOUT_TEST_ACCEPTED, to
which the id of each accepted job is appended.
"""

import os
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from pydantic import ValidationError
from schemathesis.openapi.checks import (
    JsonSchemaError,
    RejectedPositiveData,
    UnsupportedMethodResponse,
)

from rollout_core.contract import JobOptions, JobRequest
from rollout_core.errors import InvalidRequest
from rollout_core.resolve import check_request
from worker.fake_engine import SPECS

MODEL = "fake"
VIDEO = Path(os.environ["ROLLOUT_TEST_VIDEO"]).read_bytes()
ACCEPTED = Path(os.environ["ROLLOUT_TEST_ACCEPTED"])

for media_type in ("video/mp4", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, st.just(VIDEO))


@schemathesis.hook
def filter_failure(
    _: schemathesis.HookContext,
    failure: Exception,
    case: schemathesis.Case,
    response: schemathesis.Response,
) -> bool:
    """Return whether a failure counts: the refusal of an invalid upload does not.

    Nor does the answer of a call of the tus protocol. The schema does not describe these.
    """
    if isinstance(failure, UnsupportedMethodResponse) and "tus-resumable" in response.headers:
        return False
    if isinstance(failure, JsonSchemaError) and case.operation.label.endswith("/events"):
        return False  # the schema is that of the whole stream: OpenAPI 3.1 knows no events
    if b'"idempotency_key_reused"' in response.content:
        return False
    is_valid = {"POST /v1/jobs": is_valid_job, "POST /v1/uploads": is_valid_video}
    check = is_valid.get(case.operation.label)
    return not (isinstance(failure, RejectedPositiveData) and check and not check(case.body))


@schemathesis.hook
def after_call(
    _: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response
) -> None:
    """Record the id of an accepted job."""
    if case.operation.label == "POST /v1/jobs" and response.status_code == 202:
        with ACCEPTED.open("a") as file:
            file.write(f"{response.json()['id']}\n")


def is_valid_job(body: Any) -> bool:
    """Whether a body that the schema allows has a valid video and a valid request."""
    if not isinstance(body, dict):
        return False
    if "video" in body:
        return is_valid_video(body["video"]) and is_valid_request(JobOptions, body.get("request"))
    return is_valid_request(JobRequest, body)


def is_valid_video(body: Any) -> bool:
    """Whether a body that the schema allows is a valid video."""
    return bool(getattr(body, "data", body) == VIDEO)


def is_valid_request(model: type[JobOptions], request: dict[str, Any] | None) -> bool:
    """Whether the model can do what a request asks for."""
    try:
        wanted = model.model_validate(request or {})
        check_request(wanted, SPECS[MODEL])
    except (ValidationError, InvalidRequest):
        return False
    return wanted.model in (None, MODEL) and getattr(wanted, "video_url", None) is None
