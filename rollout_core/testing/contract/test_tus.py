"""Resumable uploads by tus 1.0."""

from base64 import b64encode
from hashlib import sha1, sha256

from rollout_core.testing.contract.caller import Caller
from rollout_core.testing.http import Answer

TUS = {"Tus-Resumable": "1.0.0"}
EXTENSIONS = {"creation", "creation-with-upload", "expiration", "termination", "checksum"}
CHECKSUM_MISMATCH = 460


def begin(caller: Caller) -> str:
    """Create an upload without bytes; return its path."""
    name = b64encode(b"clip.mp4").decode()
    headers = TUS | {"Upload-Length": str(len(caller.video)), "Upload-Metadata": f"filename {name}"}
    answer = caller.api.call("POST", "/v1/uploads", b"", headers)
    assert answer.status == 201, answer
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    upload_id = answer.headers["Location"].rpartition("/")[2]
    return f"/v1/uploads/{upload_id}"


def send(caller: Caller, path: str, offset: int, content: bytes, **more: str) -> Answer:
    headers = TUS | {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": str(offset),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return caller.api.call("PATCH", path, content, headers)


def offset_of(caller: Caller, path: str) -> int:
    answer = caller.api.call("HEAD", path, None, TUS)
    assert answer.status in (200, 204), answer
    assert answer.headers["Upload-Length"] == str(len(caller.video))
    assert "no-store" in answer.headers["Cache-Control"]
    return int(answer.headers["Upload-Offset"])


def test_the_service_says_what_it_can(caller: Caller) -> None:
    answer = caller.api.call("OPTIONS", "/v1/uploads")
    assert answer.status in (200, 204)
    assert "1.0.0" in answer.headers["Tus-Version"].split(",")
    assert set(answer.headers["Tus-Extension"].split(",")) >= EXTENSIONS


def test_an_upload_goes_on_where_it_stopped(caller: Caller) -> None:
    path = begin(caller)
    assert offset_of(caller, path) == 0
    middle = len(caller.video) // 2
    assert send(caller, path, 0, caller.video[:middle]).status == 204
    assert offset_of(caller, path) == middle
    answer = send(caller, path, middle, caller.video[middle:])
    assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(len(caller.video)))
    upload = caller.api.get(path).json()
    assert (upload["state"], upload["filename"]) == ("complete", "clip.mp4")
    assert upload["sha256"] == sha256(caller.video).hexdigest()
    job = caller.submit_json(upload["id"]).json()
    assert caller.wait(job["id"])["state"] == "succeeded"


def test_a_wrong_offset_writes_nothing(caller: Caller) -> None:
    path = begin(caller)
    assert send(caller, path, 10, caller.video[10:]).status == 409
    assert offset_of(caller, path) == 0


def test_a_wrong_checksum_writes_nothing(caller: Caller) -> None:
    path, piece = begin(caller), caller.video[:1000]
    wrong = f"sha1 {b64encode(sha1(b'other').digest()).decode()}"
    answer = send(caller, path, 0, piece, Upload_Checksum=wrong)
    assert answer.status == CHECKSUM_MISMATCH
    assert offset_of(caller, path) == 0
    right = f"sha1 {b64encode(sha1(piece).digest()).decode()}"
    assert send(caller, path, 0, piece, Upload_Checksum=right).status == 204


def test_an_upload_that_is_not_complete_has_no_job(caller: Caller) -> None:
    path = begin(caller)
    answer = caller.submit_json(path.rpartition("/")[2])
    assert (answer.status, answer.json()["code"]) == (409, "upload_incomplete")


def test_an_upload_can_be_given_up(caller: Caller) -> None:
    path = begin(caller)
    assert caller.api.call("DELETE", path, None, TUS).status == 204
    assert caller.api.call("HEAD", path, None, TUS).status in (404, 410)


def test_another_version_of_tus_is_refused(caller: Caller) -> None:
    headers = {"Tus-Resumable": "0.2.2", "Upload-Length": "10"}
    assert caller.api.call("POST", "/v1/uploads", b"", headers).status == 412
