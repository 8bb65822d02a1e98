"""What schemathesis cannot read in the schema, told by hooks: how a video looks, what is possible.

The schema says of a video that it is bytes. And of a request it cannot say what depends on the
model or on two fields together: there, and there alone, a refusal of what the schema allows is no
failure. `can_be_had` decides that by the rules themselves, so a wrong refusal still is one.
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

schemathesis.openapi.media_type("video/mp4", st.just(VIDEO))


@schemathesis.hook
def filter_failure(
    _: schemathesis.HookContext,
    failure: Exception,
    case: schemathesis.Case,
    __: schemathesis.Response,
) -> bool:
    """Keep a failure, unless it is that an upload was refused which had to be."""
    is_refusal = isinstance(failure, RejectedPositiveData)
    return not (
        is_refusal and case.operation.label == "POST /v1/jobs" and not is_possible(case.body)
    )


def is_possible(form: dict[str, Any]) -> bool:
    """Whether a form that the schema allows has our video, and asks for what the model can do."""
    video = getattr(form["video"], "data", form["video"])
    return video == VIDEO and can_be_had(form.get("request", {}))


def can_be_had(request: dict[str, Any]) -> bool:
    """Whether the rules allow a request."""
    try:
        wanted = ExplainRequest.model_validate(request)
        check_request(wanted, SPECS[MODEL])
    except (ValidationError, InvalidRequest):
        return False
    return wanted.model in (None, MODEL)
