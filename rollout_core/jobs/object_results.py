"""The files of an attempt on their way to a bucket, where they may become a result."""

import re
from pathlib import Path

from rollout_core.contract import RESULT_NAME
from rollout_core.errors import AttemptLost
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.disk import open_plain
from rollout_core.jobs.media_types import content_disposition, media_type_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_artifact_name(name: str) -> bool:
    """Return whether a file of a result may have this name. Other files are not part of it."""
    return _NAME.fullmatch(name) is not None


def put_result(bucket: Bucket, target: str, folder: Path, result: str, job_id: str) -> None:
    """Store the files of an attempt below the key `target`, and its result.json as the last.

    A video may have planted other things in the folder: only plain files are stored.

    Raises:
        AttemptLost: files of the attempt are gone from this machine.
    """
    try:
        for path in sorted(folder.iterdir()):
            if is_artifact_name(path.name) and path.name != RESULT_NAME:
                _put_file(bucket, f"{target}/{path.name}", path, job_id)
    except FileNotFoundError as error:
        raise AttemptLost(f"attempt {folder.name} no longer has the job") from error
    headers = _headers(job_id, RESULT_NAME)
    bucket.put(f"{target}/{RESULT_NAME}", result.encode(), attributes=headers)


def _put_file(bucket: Bucket, key: str, path: Path, job_id: str) -> None:
    file = open_plain(path)
    if file is not None:
        with file:
            bucket.put(key, file, attributes=_headers(job_id, path.name))


def _headers(job_id: str, name: str) -> dict[str, str]:
    """Return the headers of HTTP with which a link to an artifact is answered."""
    media_type = media_type_of(name)
    return {
        "Content-Type": media_type,
        "Content-Disposition": content_disposition(f"{job_id[:8]}-{name}", media_type),
        "Cache-Control": "private, no-cache",
    }
