from hashlib import sha256

import pytest

from rollout_core.testing.contract.caller import Caller, Json, require_problem

TYPES = {
    "result.json": "application/json",
    "rollout.npz": "application/octet-stream",
    "sheet.png": "image/png",
    "overlay.mp4": "video/mp4",
    "preview.mp4": "video/mp4",
    "thumbnails.jpg": "image/jpeg",
}


@pytest.mark.parametrize("name", TYPES)
def test_an_artifact_is_what_the_job_says(caller: Caller, done: Json, name: str) -> None:
    (said,) = [item for item in done["result"]["artifacts"] if item["name"] == name]
    answer = caller.api.get(said["url"])
    assert answer.status == 200
    assert answer.headers.get_content_type() == TYPES[name]
    assert len(answer.body) == said["bytes"] == int(answer.headers["Content-Length"])
    assert sha256(answer.body).hexdigest() == said["sha256"]
    assert answer.headers["ETag"] == f'"{said["sha256"]}"'


def test_a_part_can_be_fetched(caller: Caller, done: Json) -> None:
    whole = caller.fetch(done, "sheet.png").body
    answer = caller.fetch(done, "sheet.png", Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, whole[10:20])
    assert answer.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    rest = caller.fetch(done, "sheet.png", Range="bytes=-5")
    assert (rest.status, rest.body) == (206, whole[-5:])


def test_a_part_beyond_the_end_is_refused(caller: Caller, done: Json) -> None:
    size = len(caller.fetch(done, "sheet.png").body)
    answer = caller.fetch(done, "sheet.png", Range=f"bytes={size}-")
    require_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_what_a_caller_has_is_not_sent_again(caller: Caller, done: Json) -> None:
    tag = caller.fetch(done, "sheet.png").headers["ETag"]
    answer = caller.fetch(done, "sheet.png", If_None_Match=tag)
    assert (answer.status, answer.body) == (304, b"")
    assert caller.fetch(done, "sheet.png", If_None_Match='"other"').status == 200


def test_head_has_the_headers_alone(caller: Caller, done: Json) -> None:
    path = f"/v1/jobs/{done['id']}/artifacts/sheet.png"
    head, whole = caller.api.call("HEAD", path), caller.api.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == whole.headers["ETag"]
    assert head.headers["Content-Length"] == str(len(whole.body))


@pytest.mark.parametrize("name", ["faithfulness.png", "job.json", "..%2Fjob.json"])
def test_a_file_that_is_none_of_the_job_is_not_found(caller: Caller, done: Json, name: str) -> None:
    require_problem(caller.fetch(done, name), 404, "artifact_not_found", "not_found")
