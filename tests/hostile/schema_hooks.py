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

schemathesis.openapi.media_type("video/mp4", st.just(VIDEO))


@schemathesis.hook
def filter_failure(
    _: schemathesis.HookContext,
    failure: Exception,
    case: schemathesis.Case,
    __: schemathesis.Response,
) -> bool:
    """Return whether a failure counts: the refusal of an invalid upload does not."""
    is_refusal = isinstance(failure, RejectedPositiveData)
    return not (
        is_refusal and case.operation.label == "POST /v1/jobs" and not is_valid_form(case.body)
    )


@schemathesis.hook
def after_call(
    _: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response
) -> None:
    """Record the id of an accepted job."""
    if case.operation.label == "POST /v1/jobs" and response.status_code == 202:
        with ACCEPTED.open("a") as file:
            file.write(f"{response.json()['id']}\n")


def is_valid_form(form: dict[str, Any]) -> bool:
    """Whether a form that the schema allows has a valid video and a valid request."""
    video = getattr(form["video"], "data", form["video"])
    return video == VIDEO and is_valid_request(form.get("request", {}))


def is_valid_request(request: dict[str, Any]) -> bool:
    """Whether the model can do what a request asks for."""
    try:
        wanted = ExplainRequest.model_validate(request)
        check_request(wanted, SPECS[MODEL])
    except (ValidationError, InvalidRequest):
        return False
    return wanted.model in (None, MODEL)
