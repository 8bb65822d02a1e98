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
from schemathesis.openapi.checks import RejectedPositiveData

from rollout_core.contract import ExplainRequest
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
    __: schemathesis.Response,
) -> bool:
    """Return whether a failure counts: the refusal of an invalid upload does not."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    if case.operation.label == "POST /v1/jobs":
        return is_valid_form(case.body)
    return case.operation.label != "POST /v1/uploads" or is_valid_upload(case.body)


@schemathesis.hook
def after_call(
    _: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response
) -> None:
    """Record the id of an accepted job."""
    if case.operation.label == "POST /v1/jobs" and response.status_code == 202:
        with ACCEPTED.open("a") as file:
            file.write(f"{response.json()['id']}\n")


def is_valid_form(form: dict[str, Any]) -> bool:
    """Whether a form that the schema allows has a valid video and a valid request.

    A body without a video is JSON; the upload that it names does not exist.
    """
    return is_valid_upload(form.get("video")) and is_valid_request(form.get("request", {}))


def is_valid_upload(body: Any) -> bool:
    """Whether a body is a valid video, or a form with one."""
    video = body.get("video") if isinstance(body, dict) else body
    return bool(getattr(video, "data", video) == VIDEO)


def is_valid_request(request: dict[str, Any]) -> bool:
    """Whether the model can do what a request asks for."""
    try:
        wanted = ExplainRequest.model_validate(request)
        check_request(wanted, SPECS[MODEL])
    except (ValidationError, InvalidRequest):
        return False
    return wanted.model in (None, MODEL)
