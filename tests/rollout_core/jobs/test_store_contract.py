"""What all stores promise; see `ArtifactStore`."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath
from threading import Barrier

import pytest

from rollout_core.contract import RESULT_NAME
from rollout_core.errors import AttemptLost, StoreUnavailable, UnknownFormat
from rollout_core.jobs.records import Origin, Submission
from rollout_core.jobs.store import ILL
from tests.rollout_core.jobs.store_cases import (
    CANCELED,
    FAILED,
    JOB,
    OTHER,
    BucketCase,
    FolderCase,
    StoreCase,
    result,
    ticket,
)

RACES = 20

ILLNESS = "Input/output error|error sending request|Error performing"


@pytest.fixture(params=["folder", "bucket"])
def case(request, tmp_path) -> StoreCase:
    """An empty store of each kind."""
    if request.param == "folder":
        return FolderCase(tmp_path)
    return BucketCase(request.getfixturevalue("bucket"), tmp_path)


@pytest.fixture
def store(case):
    return case.store


@pytest.fixture
def job(case) -> str:
    return case.accept()


def race(calls: list[Callable[[], object]]) -> list[bool]:
    """Make all calls at the same time; return for each whether it was not too late."""
    barrier = Barrier(len(calls))

    def make(call: Callable[[], object]) -> bool:
        barrier.wait()
        try:
            call()
        except AttemptLost:
            return False
        return True

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


class TestAccept:
    def test_job_has_its_ticket_its_submission_and_its_origin(self, case, store):
        origin = Origin(request_id="a/1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        submission = Submission(filename="a.mp4", priority="low")
        case.accept(submission=submission, origin=origin)
        for seen in (store, case.another()):
            assert seen.exists(JOB)
            assert seen.is_open(JOB)
            assert seen.ticket(JOB) == ticket()
            assert seen.submission(JOB) == submission
            assert seen.origin(JOB) == origin
            assert seen.has_files(JOB)
            assert not seen.has_expired(JOB)

    def test_job_without_more_has_empty_ones(self, job, store):
        assert store.submission(job) == Submission()
        assert store.origin(job) == Origin()

    def test_job_keeps_its_video_when_the_upload_is_removed(self, case, store):
        upload = case.upload(b"a video")
        store.accept(ticket(), upload)
        case.remove_upload(upload)
        folder = store.begin_attempt(JOB, 1)
        video = store.stage_upload(JOB, folder)
        assert video.read_bytes() == b"a video"
        assert [path.name for path in video.parent.iterdir()] == ["video"]

    def test_missing_upload_leaves_nothing(self, case, store):
        gone = case.upload(b"a video")
        case.remove_upload(gone)
        before = case.kept()
        with pytest.raises(FileNotFoundError):
            store.accept(ticket(), gone)
        assert case.kept() == before
        assert not store.exists(JOB)

    def test_id_is_accepted_once(self, case, store, job):
        before = case.kept()
        upload = case.upload(b"another")
        with pytest.raises(FileExistsError):
            store.accept(ticket(upload_bytes=9), upload)
        assert case.kept() == before
        assert store.ticket(job) == ticket()

    def test_one_of_several_concurrent_calls_accepts(self, case):
        uploads = [case.upload(bytes([number])) for number in range(6)]

        def accept(number: int) -> None:
            try:
                case.another().accept(ticket(upload_bytes=number), uploads[number])
            except FileExistsError as error:
                raise AttemptLost("") from error

        won = race([partial(accept, number) for number in range(6)])
        assert won.count(True) == 1
        winner = won.index(True)
        assert case.store.ticket(JOB) == ticket(upload_bytes=winner)
        video = case.store.stage_upload(JOB, case.store.begin_attempt(JOB, 1))
        assert video.read_bytes() == bytes([winner])

    def test_unknown_job_has_nothing(self, store):
        for look in ("ticket", "result", "ending", "changed", "survey"):
            assert getattr(store, look)(JOB) is None
        for look in ("exists", "is_open", "has_ended", "has_files", "has_expired", "delete"):
            assert not getattr(store, look)(JOB)
        assert store.artifact(JOB, RESULT_NAME) is None
        assert store.latest_attempt(JOB) == 0
        assert store.accepted_at(JOB) == math.inf
        store.expire(JOB)
        store.remove_video(JOB)
        store.end_attempt(JOB, 1)
        store.end_attempts(JOB)
        with pytest.raises(AttemptLost):
            store.begin_attempt(JOB, 1)
        with pytest.raises(AttemptLost):
            store.publish(JOB, 1, result(1))
        with pytest.raises(AttemptLost):
            store.end(JOB, FAILED)

    def test_receiving_leaves_nothing(self, case, store):
        with pytest.raises(ConnectionError), store.receiving() as upload:
            upload.write_bytes(b"half")
            raise ConnectionError
        assert case.kept() == []


class TestAnswers:
    def test_job_with_an_answer_succeeds_at_once_with_the_same_files(self, case, store, job):
        published = case.publish(sheet=b"png")
        case.accept(OTHER, answer=job, submission=Submission(reused_from=job))
        assert store.ending(OTHER) == published
        store.delete(job)
        file = case.another().artifact(OTHER, "sheet.png")
        assert file
        assert (file.name, file.size, file.read()) == ("sheet.png", 3, b"png")
        with pytest.raises(AttemptLost):
            store.end(OTHER, CANCELED)

    @pytest.mark.parametrize("missing", ["job", "end", "success", "file"])
    def test_answer_that_is_gone_leaves_nothing(self, case, store, missing):
        if missing != "job":
            case.accept()
        if missing == "success":
            store.end(JOB, FAILED)
        if missing == "file":
            case.publish(sheet=b"png")
            store.expire(JOB)
        before = case.kept()
        with pytest.raises(FileNotFoundError):
            case.accept(OTHER, answer=JOB)
        assert case.kept() == before
        assert not store.exists(OTHER)


class TestAttempts:
    def test_result_is_seen_only_when_it_is_published(self, case, store, job):
        folder = store.begin_attempt(job, 1, "a")
        (folder / "sheet.png").write_bytes(b"png")
        assert store.artifact(job, "sheet.png") is None
        assert store.is_open(job)
        store.publish(job, 1, result(1), "a")
        for seen in (store, case.another()):
            assert seen.ending(job) == seen.result(job) == result(1)
            assert seen.has_ended(job)
            assert not seen.is_open(job)
            assert seen.artifact(job, "sheet.png").read() == b"png"
            assert json.loads(seen.artifact(job, RESULT_NAME).read())["attempt"] == 1

    def test_older_attempt_cannot_publish(self, case, store, job):
        (store.begin_attempt(job, 1, "a") / "sheet.png").write_bytes(b"old")
        newer = case.another()
        (newer.begin_attempt(job, 2, "b") / "sheet.png").write_bytes(b"new")
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1), "a")
        newer.publish(job, 2, result(2), "b")
        assert store.result(job) == result(2)
        assert store.artifact(job, "sheet.png").read() == b"new"

    def test_attempt_that_begins_late_leaves_a_newer_one_alone(self, store, job):
        newer = store.begin_attempt(job, 2)
        store.begin_attempt(job, 1)
        assert newer.exists()
        store.publish(job, 2, result(2))
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1))
        assert store.result(job) == result(2)

    def test_attempts_with_one_number_have_a_folder_each(self, store, job):
        """A Redis that went back to an older snapshot has given the number twice."""
        first, second = (store.begin_attempt(job, 1, token) for token in "ab")
        (second / "sheet.png").write_bytes(b"png")
        assert first.exists()
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1))
        store.end_attempt(job, 1, "a")
        store.end_attempt(job, 1, "a")
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1), "a")
        store.publish(job, 1, result(1), "b")
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1), "b")
        assert store.artifact(job, "sheet.png").read() == b"png"

    def test_late_attempts_do_not_hurt_a_result(self, case, store, job):
        (store.begin_attempt(job, 1, "b") / "sheet.png").write_bytes(b"late")
        case.another().begin_attempt(job, 1, "a")
        published = case.publish(sheet=b"png")
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1), "b")
        store.end_attempt(job, 1, "a")
        store.end_attempt(job, 1, "b")
        store.end_attempts(job)
        store.begin_attempt(job, 2)
        with pytest.raises(AttemptLost):
            store.publish(job, 2, result(2))
        assert store.result(job) == published
        assert store.artifact(job, "sheet.png").read() == b"png"

    def test_attempt_that_begins_again_gets_an_empty_folder(self, store, job):
        (store.begin_attempt(job, 1, "a") / "overlay.mp4").touch()
        assert list(store.begin_attempt(job, 1, "a").iterdir()) == []

    def test_new_attempt_removes_the_files_of_older_ones_here(self, case, store, job):
        old = store.begin_attempt(job, 1, "a")
        (old / "overlay.mp4").write_bytes(b"half")
        store.stage_upload(job, old)
        store.begin_attempt(job, 2, "b")
        assert not old.exists()
        assert not any("overlay" in name for name in case.kept())

    def test_latest_attempt_is_the_highest_that_was_not_removed(self, case, store, job):
        for attempt in (9, 10):
            store.begin_attempt(job, attempt, "a")
        assert case.another().latest_attempt(job) == store.latest_attempt(job) == 10
        store.end_attempt(job, 10, "a")
        assert case.another().latest_attempt(job) < 10

    def test_attempt_that_ended_leaves_nothing_and_cannot_publish(self, case, store, job):
        before = case.kept()
        folder = store.begin_attempt(job, 1, "a")
        store.stage_upload(job, folder)
        (folder / "overlay.mp4").write_bytes(b"half")
        store.end_attempt(job, 1, "a")
        assert case.kept() == before
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1), "a")
        assert case.kept() == before

    def test_no_attempt_here_can_publish_after_end_attempts(self, store, job):
        folder = store.begin_attempt(job, 1)
        store.end_attempts(job)
        assert not folder.exists()
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1))
        store.begin_attempt(job, 2)

    def test_missing_video_is_told(self, store, job):
        folder = store.begin_attempt(job, 1)
        store.remove_video(job)
        with pytest.raises(FileNotFoundError):
            store.stage_upload(job, folder)

    @pytest.mark.parametrize("plant", ["link", "folder", "pipe"])
    def test_only_plain_files_are_published(self, store, job, tmp_path, plant):
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        folder = store.begin_attempt(job, 1)
        planted = folder / "overlay.mp4"
        {
            "link": lambda: planted.symlink_to(secret),
            "folder": planted.mkdir,
            "pipe": lambda: os.mkfifo(planted),
        }[plant]()
        (folder / "sheet.png").write_bytes(b"picture")
        store.publish(job, 1, result(1))
        assert store.artifact(job, "overlay.mp4") is None
        assert store.artifact(job, "sheet.png").read() == b"picture"

    def test_planted_link_in_place_of_the_result_is_not_followed(self, store, job, tmp_path):
        outside = tmp_path / "outside"
        outside.write_bytes(b"kept")
        (store.begin_attempt(job, 1) / RESULT_NAME).symlink_to(outside)
        store.publish(job, 1, result(1))
        assert outside.read_bytes() == b"kept"
        assert store.result(job) == result(1)

    @pytest.mark.parametrize(
        "name",
        ["../job.json", "..", "", ".", "../upload/video", "nothing", ".begun", "a//b", "é", "a\nb"],
    )
    def test_names_do_not_lead_out_of_the_result(self, case, store, job, name):
        case.publish(sheet=b"png")
        assert store.artifact(job, name) is None


class TestEnd:
    def test_job_can_end_without_a_result(self, case, store, job):
        store.end(job, FAILED)
        for seen in (store, case.another()):
            assert seen.ending(job) == FAILED
            assert seen.result(job) is None
            assert seen.has_ended(job)
            assert not seen.is_open(job)
            assert seen.artifact(job, RESULT_NAME) is None

    def test_job_ends_once(self, case, store, job):
        store.begin_attempt(job, 1)
        store.end(job, FAILED)
        with pytest.raises(AttemptLost):
            store.end(job, CANCELED)
        with pytest.raises(AttemptLost):
            case.another().end(job, CANCELED)
        with pytest.raises(AttemptLost):
            store.publish(job, 1, result(1))
        assert store.ending(job) == FAILED

    def test_one_of_several_concurrent_ends_wins(self, case, store):
        """Threads fail the job, cancel it, and publish a result."""
        for number in range(RACES):
            job = case.accept(f"{number:032x}")
            store.begin_attempt(job, 1)
            ways = [partial(case.another().end, job, end) for end in (FAILED, CANCELED) * 3]
            ways.insert(3, partial(store.publish, job, 1, result(1)))
            won = race(ways)
            assert won.count(True) == 1
            winner = ways[won.index(True)]
            assert store.ending(job) == case.another().ending(job) == winner.args[-1]

    def test_one_of_several_attempts_publishes(self, case):
        """They have one number, and each is on a machine of its own."""
        for number in range(RACES):
            job = case.accept(f"{number:032x}")
            stores = {token: case.another() for token in "ab"}
            for token, store in stores.items():
                (store.begin_attempt(job, 1, token) / "sheet.png").write_text(token)
            ways = [partial(stores[token].publish, job, 1, result(1), token) for token in "ab"]
            won = race(ways)
            assert won.count(True) == 1
            case.store.end_attempts(job)
            file = case.another().artifact(job, "sheet.png")
            assert file.read().decode() == "ab"[won.index(True)]


class TestDelete:
    def test_deleted_job_leaves_nothing(self, case, store, job):
        folder = store.begin_attempt(job, 1)
        store.stage_upload(job, folder)
        assert store.delete(job)
        assert case.kept() == []
        assert not store.exists(job)
        assert not store.delete(job)

    def test_deleted_job_with_a_result_leaves_nothing(self, case, store, job):
        case.publish(sheet=b"png")
        file = store.artifact(job, "sheet.png")
        assert store.delete(job)
        assert case.kept() == []
        assert store.ending(job) is None
        assert store.artifact(job, "sheet.png") is None
        with pytest.raises(FileNotFoundError):
            file.read()

    def test_attempt_of_a_deleted_job_is_lost_and_leaves_nothing(self, case, store, job):
        worker = case.another()
        (worker.begin_attempt(job, 1) / "sheet.png").write_bytes(b"png")
        store.delete(job)
        for step in (
            partial(worker.publish, job, 1, result(1)),
            partial(worker.end, job, FAILED),
            partial(worker.begin_attempt, job, 2),
        ):
            with pytest.raises(AttemptLost):
                step()
        worker.end_attempts(job)
        assert case.kept() == []

    def test_new_job_with_the_same_id_has_nothing_of_the_old_one(self, case, store, job):
        case.publish(sheet=b"png")
        store.delete(job)
        case.accept(content=b"another")
        assert store.is_open(job)
        assert store.ending(job) is None
        assert store.latest_attempt(job) == 0
        assert store.artifact(job, "sheet.png") is None
        folder = store.begin_attempt(job, 1)
        assert store.stage_upload(job, folder).read_bytes() == b"another"
        store.end(job, CANCELED)
        assert store.ending(job) == CANCELED

    def test_jobs_do_not_touch_each_other(self, case, store):
        short, long = JOB[:-1], JOB
        for job_id in (short, long):
            case.upload(b"")
            upload = case.upload(b"a video")
            store.accept(ticket().model_copy(update={"id": job_id}), upload)
        store.delete(short)
        assert store.is_open(long)
        assert store.stage_upload(long, store.begin_attempt(long, 1)).read_bytes() == b"a video"


class TestExpiry:
    def test_expired_job_keeps_its_ticket_and_its_result(self, case, store, job):
        published = case.publish(sheet=b"png")
        (store.begin_attempt(job, 2) / "overlay.mp4").write_bytes(b"left by a worker that died")
        store.end_attempts(job)
        store.expire(job)
        for seen in (store, case.another()):
            assert seen.has_expired(job)
            assert not seen.has_files(job)
            assert seen.ticket(job) == ticket()
            assert seen.result(job) == published
            assert seen.artifact(job, "sheet.png") is None
        kept = {PurePath(name).name for name in case.kept()}
        assert not kept & {"video", "sheet.png", "overlay.mp4"}

    def test_expired_job_keeps_why_it_failed(self, store, job):
        store.end(job, FAILED)
        store.expire(job)
        assert store.ending(job) == FAILED

    def test_expiry_that_was_interrupted_is_repeated(self, case, store, job, monkeypatch):
        """It is killed at each of its steps in turn."""
        case.publish(sheet=b"png")
        for step in range(4):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                _stop_at(case, patch, step)
                store.expire(job)
            assert store.has_files(job)
        store.expire(job)
        assert not store.has_files(job)
        store.expire(job)
        assert store.has_expired(job)

    def test_job_deleted_during_expiry_stays_deleted(self, case, store, job):
        store.end(job, FAILED)
        store.delete(job)
        store.expire(job)
        assert not store.exists(job)
        assert case.kept() == []

    def test_video_alone_can_be_removed(self, case, store, job):
        published = case.publish(sheet=b"png")
        before = store.changed(job), store.survey(job)
        _tick()
        store.remove_video(job)
        store.remove_video(job)
        after = store.changed(job), store.survey(job)
        assert after[0] != before[0]
        assert after[1].total_bytes == before[1].total_bytes - 7
        assert store.has_files(job)
        assert not store.has_expired(job)
        assert store.result(job) == published
        assert store.artifact(job, "sheet.png").read() == b"png"


def _tick() -> None:
    time.sleep(0.02)  # the kernel's clock for files is coarse


def _stop_at(case: StoreCase, patch: pytest.MonkeyPatch, step: int) -> None:
    """Let expiry end before its step of this number."""
    if isinstance(case, BucketCase):
        places = [(case.bucket, name) for name in ("put", "delete_folder", "delete", "put")]
    else:
        places = [
            (Path, "touch"),
            (case.store, "end_attempts"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        ]
    owner, name = places[step]
    skip = int(isinstance(case, BucketCase) and step == 3)  # its second put
    call = getattr(owner, name)

    def stop(*args: object, **options: object) -> object:
        nonlocal skip
        if skip:
            skip -= 1
            return call(*args, **options)
        raise KeyboardInterrupt

    patch.setattr(owner, name, stop)


class TestSurvey:
    def test_names_are_those_of_all_jobs(self, case, store, job):
        before = store.names_changed()
        _tick()
        case.accept(OTHER)
        assert sorted(store.names()) == sorted([job, OTHER])
        assert store.names_changed() > before
        store.delete(job)
        assert list(case.another().names()) == [OTHER]

    def test_job_that_ends_or_expires_has_changed(self, store, job):
        seen = [store.changed(job)]
        for step in (partial(store.end, job, FAILED), partial(store.expire, job)):
            _tick()
            step()
            seen.append(store.changed(job))
            assert store.survey(job).changed == seen[-1] == store.changed(job)
        assert len(set(seen)) == 3
        store.delete(job)
        assert store.changed(job) is store.survey(job) is None

    def test_survey_tells_sizes_and_the_end(self, case, store, job):
        opened = store.survey(job)
        assert (opened.has_ended, opened.ended) == (False, None)
        assert type(store.ticket(job)).from_json(opened.ticket) == ticket()
        assert opened.total_bytes > 7
        case.publish(sheet=b"x" * 1000)
        ended = store.survey(job)
        assert (ended.has_ended, ended.ended) == (True, None)
        assert ended.total_bytes > opened.total_bytes + 1000
        store.expire(job)
        assert store.survey(job).total_bytes < ended.total_bytes - 1000

    def test_survey_tells_why_a_job_failed(self, store, job):
        store.end(job, FAILED)
        survey = store.survey(job)
        assert survey.has_ended
        assert type(FAILED).from_json(survey.ended) == FAILED

    def test_job_is_as_old_as_its_acceptance(self, case, store, job):
        assert abs(store.accepted_at(job) - time.time()) < 60
        assert store.accepted_at(job) == store.accepted_at(job)
        store.delete(job)
        assert store.accepted_at(job) == math.inf


class TestFormats:
    def test_ticket_of_a_newer_version_is_unknown(self, case, store, job):
        case.write(job, "ticket", b'{"version": 99, "life": "abc"}')
        with pytest.raises(UnknownFormat):
            store.ticket(job)
        assert store.exists(job)
        survey = store.survey(job)
        assert survey.total_bytes > 0
        with pytest.raises(UnknownFormat):
            type(ticket()).from_json(survey.ticket)
        assert list(store.names()) == [job]

    def test_damaged_ticket_is_unknown_and_can_be_deleted(self, case, store, job):
        for text in (b"", b"{", b"[]", b"\xff", b'{"version": "x"}', b'{"version": 1}'):
            case.write(job, "ticket", text)
            with pytest.raises(UnknownFormat):
                store.ticket(job)
        assert store.delete(job)
        assert case.kept() == []

    def test_end_of_a_newer_version_is_unknown(self, case, store, job):
        store.end(job, FAILED)
        case.write(job, "end", b'{"version": 99, "more": 1}')
        with pytest.raises(UnknownFormat):
            store.ending(job)
        assert store.has_ended(job)
        survey = store.survey(job)
        assert survey.has_ended
        with pytest.raises(UnknownFormat):
            type(FAILED).from_json(survey.ended)


class TestMadeOnce:
    def test_all_processes_see_the_same_identity(self, case):
        stores = [case.another() for _ in range(6)]
        barrier = Barrier(6)

        def identity(store) -> str:
            barrier.wait()
            return store.identity()

        with ThreadPoolExecutor(6) as pool:
            found = set(pool.map(identity, stores))
        assert found == {case.another().identity()}

    def test_what_is_made_once_stays(self, case, store):
        made = store.made_once("session", "secret", lambda: "first")
        assert made == case.another().made_once("session", "secret", lambda: "second") == "first"

    def test_processes_agree_on_it(self, case, tmp_path):
        """Each makes its own, and gives it a second to be lost."""
        url, folder = getattr(case, "bucket", None), tmp_path / "data"
        program = (
            "import sys; from pathlib import Path; from rollout_core.jobs.stores import open_store;"
            "url, folder, name = sys.argv[1:];"
            "store = open_store(url or None, Path(folder));"
            "print(store.made_once('session', 'secret', lambda: name))"
        )
        arguments = [url.url if url else "", str(folder)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, *arguments, name], stdout=subprocess.PIPE, text=True
            )
            for name in "abc"
        ]
        answers = {process.communicate(timeout=60)[0].strip() for process in processes}
        assert len(answers) == 1
        assert answers <= set("abc")


class TestIllStore:
    def test_ill_store_says_so_and_calls_no_job_missing(self, case, store, job, monkeypatch):
        with monkeypatch.context() as patch:
            case.fall_ill(patch)
            for look in (store.exists, store.has_ended, store.is_open, store.ticket):
                with pytest.raises(OSError, match=ILLNESS) as caught:
                    look(job)
                assert caught.value.errno in ILL
            with pytest.raises(StoreUnavailable):
                store.check_writable()
            assert not store.blames_one_job(OSError(errno.EREMOTEIO, ""))
        assert store.is_open(job)

    @pytest.mark.parametrize("step", ["begin", "publish", "end", "accept"])
    def test_step_that_fails_in_an_ill_store_can_be_made_later(
        self, case, store, job, monkeypatch, step
    ):
        if step == "publish":
            store.begin_attempt(job, 1)
        upload = case.upload(b"another")
        make = {
            "begin": partial(store.begin_attempt, job, 1),
            "publish": partial(store.publish, job, 1, result(1)),
            "end": partial(store.end, job, FAILED),
            "accept": partial(store.accept, ticket(OTHER), upload),
        }[step]
        with monkeypatch.context() as patch:
            case.fall_ill(patch)
            with pytest.raises(OSError, match=ILLNESS):
                make()
        assert store.is_open(job)
        make()

    def test_store_that_can_be_written_says_so(self, case, store):
        store.check_writable()
        assert case.kept() == []


class TestLeftovers:
    def test_upload_that_grows_is_not_stale(self, case, store):
        with store.receiving() as growing, store.receiving() as stalled:
            for upload in (growing, stalled):
                upload.write_bytes(b"half")
            for size in (5, 6):
                store.remove_stale_uploads(60)
                case.seconds += 59
                growing.write_bytes(bytes(size))
            assert stalled.exists()
            store.remove_stale_uploads(60)
            assert (growing.exists(), stalled.parent.exists()) == (True, False)

    def test_nothing_of_a_living_job_is_removed(self, case, store):
        running = case.accept("1" * 32)
        folder = store.begin_attempt(running, 1)
        (folder / "sheet.png").write_bytes(b"png")
        ended, expired, reused = (case.accept(digit * 32) for digit in "234")
        case.publish(ended, sheet=b"png")
        case.publish(expired, sheet=b"png")
        store.expire(expired)
        store.delete(reused)
        case.accept(reused)
        before = case.kept()
        for _ in range(3):
            store.remove_stale_uploads(60)
            case.seconds += 100
        assert case.kept() == before
        store.publish(running, 1, result(1))
        assert store.artifact(running, "sheet.png").read() == b"png"
