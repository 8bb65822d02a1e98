"""Runs two jobs with the client that openapi-python-client generates, as a program of its own.

Usage: python_client_job.py URL VIDEO, with the generated package `rollout_api` on the path.
"""

import base64
import json
import sys
import time
from pathlib import Path

from rollout_api import AuthenticatedClient
from rollout_api.api.artifacts import get_artifact
from rollout_api.api.jobs import create_job, get_job
from rollout_api.api.uploads import create_upload
from rollout_api.models import (
    Job,
    JobForm,
    JobOptions,
    JobRequest,
    JobState,
    PatchQueryInput,
    Problem,
    Upload,
)
from rollout_api.types import File


def main() -> None:
    url, video = sys.argv[1:]
    client = AuthenticatedClient(url, token="not-checked-by-a-service-without-keys")
    query = PatchQueryInput(frame=0, row=1, column=1)
    with Path(video).open("rb") as file:
        options = JobOptions(model="fake", query=["cls", query, "0:1:2"])
        form = JobForm(File(file, "video.mp4", "video/mp4"), options)
        job = follow(client, create_job.sync(client=client, body=form))
    with Path(video).open("rb") as file:
        upload = create_upload.sync(client=client, body=File(file), filename="video.mp4")
    assert isinstance(upload, Upload), upload
    request = JobRequest(upload=upload.id, model="fake", overlay=None)
    second = follow(client, create_job.sync(client=client, body=request))
    missing = get_job.sync("0" * 32, client=client)
    assert isinstance(missing, Problem), missing
    sheet = get_artifact.sync(job.id, "sheet.png", client=client)
    assert isinstance(sheet, File), sheet
    print(
        json.dumps(
            {
                "state": job.state,
                "second": second.state,
                "method": job.request.method,
                "code": missing.code,
                "sheet": base64.b64encode(sheet.payload.read()).decode(),
            }
        )
    )


def follow(client: AuthenticatedClient, job: Job | Problem | None) -> Job:
    """Return the job once it has ended."""
    while isinstance(job, Job) and job.state in (JobState.QUEUED, JobState.RUNNING):
        time.sleep(0.1)
        job = get_job.sync(job.id, client=client)
    assert isinstance(job, Job), job
    return job


if __name__ == "__main__":
    main()
