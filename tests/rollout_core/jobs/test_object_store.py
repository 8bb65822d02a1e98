"""Races and crashes that only a store in a bucket can have."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from rollout_core.errors import AttemptLost, UnknownFormat
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import ObjectStore
from tests.rollout_core.jobs.store_cases import (
    CANCELED,
    FAILED,
    JOB,
    OTHER,
    BucketCase,
    gone_bucket,
    result,
    ticket,
)

CALLS = (
    *("get", "head", "put", "create", "copy", "objects", "list_children", "delete"),
    *("stream", "put_chunks"),
)
MOST_CALLS = 60


@pytest.fixture
def case(bucket, tmp_path) -> BucketCase:
    return BucketCase(bucket, tmp_path / "one")


@pytest.fixture
def other(bucket_url, tmp_path) -> ObjectStore:
    """The same store on another machine, with a client of its own."""
    return ObjectStore(Bucket.at(bucket_url), tmp_path / "two", remember_seconds=0)


class Steps:
    """Counts the calls of a bucket, and does something before one of them."""

    def __init__(self, bucket: Bucket, patch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.act: Callable[[], object] | None = None
        self.is_dead = False
        for name in CALLS:
            patch.setattr(bucket, name, partial(self._call, getattr(bucket, name)))

    def before(self, number: int, act: Callable[[], object]) -> None:
        self.left, self.act = number, act

    def die_at(self, number: int) -> None:
        """Let the process be killed before this call: it makes no other one."""
        self.is_dead = False
        self.before(number, self._die)

    def done(self) -> bool:
        """Return whether the call was reached; count no more."""
        reached, self.act, self.is_dead = self.act is None, None, False
        return reached

    def _die(self) -> None:
        self.is_dead = True

    def _call(self, call: Callable[..., object], *args: object, **options: object) -> object:
        if self.act is not None:
            if self.left == 0:
                act, self.act = self.act, None
                act()
            self.left -= 1
        if self.is_dead:
            raise KeyboardInterrupt
        return call(*args, **options)


@pytest.fixture
def steps(other, monkeypatch) -> Steps:
    """The calls of `other`."""
    return Steps(other.bucket, monkeypatch)


def let_time_pass(store: ObjectStore, case: BucketCase) -> None:
    for _ in range(2):
        store.remove_stale_uploads(60)
        case.seconds += 100


def require_whole(store: ObjectStore, content: bytes = b"a video") -> None:
    """Check that the job can be run and ended."""
    attempt = store.latest_attempt(JOB) + 1
    folder = store.begin_attempt(JOB, attempt)
    assert store.stage_upload(JOB, folder).read_bytes() == content
    store.publish(JOB, attempt, result(attempt))
    assert store.result(JOB) == result(attempt)


class TestLostAnswers:
    @pytest.mark.parametrize("way", ["raises", "finds its own"])
    def test_what_was_created_is_known_by_its_content(self, case, monkeypatch, way):
        create = case.bucket.create

        def lose(key: str, content: bytes) -> bool:
            assert create(key, content)
            if way == "raises":
                raise TimeoutError("no answer")
            return create(key, content)

        monkeypatch.setattr(case.bucket, "create", lose)
        case.accept()
        case.accept(OTHER)
        case.store.end(JOB, FAILED)
        case.publish(OTHER)
        assert case.another().ending(JOB) == FAILED
        assert case.another().result(OTHER) == result(1)
        assert case.store.identity() == case.another().identity()

    def test_object_that_another_one_created_is_not_ours(self, case, monkeypatch):
        case.accept()
        other = case.another()
        create = case.bucket.create

        def be_late(key: str, content: bytes) -> bool:
            monkeypatch.setattr(case.bucket, "create", create)
            other.end(JOB, CANCELED)
            raise TimeoutError("no answer")

        monkeypatch.setattr(case.bucket, "create", be_late)
        with pytest.raises(TimeoutError):
            case.store.end(JOB, FAILED)
        with pytest.raises(AttemptLost):
            case.store.end(JOB, FAILED)
        assert case.store.ending(JOB) == CANCELED

    def test_conflict_without_an_object_is_tried_again(self, case, monkeypatch):
        """S3 answers 409 to a write beside a deletion; then there may be no object."""
        case.accept()
        create, answers = case.bucket.create, [False, False]

        def conflict(key: str, content: bytes) -> bool:
            return answers.pop() if answers else create(key, content)

        monkeypatch.setattr(case.bucket, "create", conflict)
        monkeypatch.setattr("rollout_core.jobs.bucket.CREATE_PAUSE_SECONDS", 0)
        case.store.end(JOB, FAILED)
        assert case.another().ending(JOB) == FAILED

    def test_endless_conflict_is_an_ill_store(self, case, monkeypatch):
        case.accept()
        monkeypatch.setattr(case.bucket, "create", lambda *_: False)
        monkeypatch.setattr("rollout_core.jobs.bucket.CREATE_PAUSE_SECONDS", 0)
        with pytest.raises(OSError, match="neither be created nor read") as caught:
            case.store.end(JOB, FAILED)
        assert not case.store.blames_one_job(caught.value)

    def test_job_whose_acceptance_is_unknown_is_whole_if_it_exists(self, case, other, monkeypatch):
        upload, create = case.upload(b"a video"), case.bucket.create

        def break_after(key: str, content: bytes) -> bool:
            create(key, content)
            gone = gone_bucket(monkeypatch)
            monkeypatch.setattr(case.bucket, "_store", gone._store)
            raise OSError(5, "no answer")

        monkeypatch.setattr(case.bucket, "create", break_after)
        with pytest.raises(OSError, match=r"Error performing|error sending"):
            case.store.accept(ticket(), upload)
        require_whole(other)


class TestDeletion:
    """A deletion between any two requests of what another process does, and the other way round."""

    def test_late_publication(self, case, other, steps):
        def begin() -> Callable[[], object]:
            (other.begin_attempt(JOB, 1) / "sheet.png").write_bytes(b"png")
            return partial(other.publish, JOB, 1, result(1))

        self.cross(case, other, steps, begin, partial(case.store.delete, JOB))

    def test_late_failure(self, case, other, steps):
        self.cross(
            case,
            other,
            steps,
            lambda: partial(other.end, JOB, FAILED),
            partial(case.store.delete, JOB),
        )

    def test_late_attempt(self, case, other, steps):
        self.cross(
            case,
            other,
            steps,
            lambda: partial(other.begin_attempt, JOB, 1),
            partial(case.store.delete, JOB),
        )

    def test_late_expiry(self, case, other, steps):
        self.cross(
            case, other, steps, lambda: partial(other.expire, JOB), partial(case.store.delete, JOB)
        )

    @pytest.mark.parametrize("act", ["publish", "end", "begin", "expire"])
    def test_act_during_a_deletion(self, case, other, steps, act):
        def make() -> None:
            with suppress(AttemptLost):
                {
                    "publish": lambda: case.publish(sheet=b"png"),
                    "end": lambda: case.store.end(JOB, FAILED),
                    "begin": lambda: case.store.begin_attempt(JOB, 1),
                    "expire": lambda: case.store.expire(JOB),
                }[act]()

        self.cross(case, other, steps, lambda: partial(other.delete, JOB), make)

    def cross(
        self,
        case: BucketCase,
        other: ObjectStore,
        steps: Steps,
        begin: Callable[[], Callable[[], object]],
        between: Callable[[], object],
    ) -> None:
        """Let `between` happen before each request of a call in turn; the job must be gone."""
        for number in range(MOST_CALLS):
            case.accept()
            call = begin()
            steps.before(number, between)
            with suppress(AttemptLost):
                call()
            reached = steps.done()
            case.seconds += 60
            if reached:
                assert not case.store.exists(JOB)
                other.end_attempts(JOB)
                case.store.end_attempts(JOB)
                assert case.kept() == [], number
            else:
                case.store.delete(JOB)
                break
        assert 2 <= number < MOST_CALLS - 1

    def test_new_job_of_the_same_id_is_whole_or_deleted(self, case, other, steps):
        for number in range(MOST_CALLS):
            case.accept()

            def accept_again() -> None:
                with suppress(FileExistsError):
                    case.accept(content=b"another")

            steps.before(number, accept_again)
            other.delete(JOB)
            reached = steps.done()
            case.seconds += 60
            if case.store.exists(JOB):
                require_whole(case.store, b"another")
                case.store.delete(JOB)
            let_time_pass(case.store, case)
            assert case.kept() == []
            if not reached:
                break
        assert 2 <= number < MOST_CALLS - 1


class TestKilled:
    """A process that is killed between any two of its requests; others remove what it left."""

    def kill(self, case, steps, prepare, call, check) -> None:
        for number in range(MOST_CALLS):
            prepare()
            steps.die_at(number)
            with suppress(KeyboardInterrupt):
                call()
            reached = steps.done()
            case.seconds += 60
            let_time_pass(case.store, case)
            check()
            case.store.delete(JOB)
            let_time_pass(case.store, case)
            assert [name for name in case.kept() if name.startswith(("jobs/", "one"))] == []
            if not reached:
                break
        assert 2 <= number < MOST_CALLS - 1

    def test_while_it_accepts(self, case, other, steps):
        upload = case.upload(b"a video")

        def check() -> None:
            if case.store.exists(JOB):
                require_whole(case.store)
            else:
                assert case.kept() == []

        self.kill(case, steps, lambda: None, lambda: other.accept(ticket(), upload), check)

    def test_while_it_accepts_with_an_answer(self, case, other, steps):
        case.accept(OTHER)
        published = case.publish(OTHER, sheet=b"png")
        upload = case.upload(b"a video")

        def check() -> None:
            if case.store.exists(JOB):
                assert case.store.result(JOB) == published
                assert case.store.artifact(JOB, "sheet.png").read() == b"png"

        def accept() -> None:
            other.accept(ticket(), upload, answer=OTHER)

        for number in range(MOST_CALLS):
            steps.die_at(number)
            with suppress(KeyboardInterrupt):
                accept()
            reached = steps.done()
            case.seconds += 60
            let_time_pass(case.store, case)
            check()
            case.store.delete(JOB)
            if not reached:
                break
        assert case.store.result(OTHER) == published

    def test_while_it_publishes(self, case, other, steps):
        def prepare() -> None:
            case.accept()
            (other.begin_attempt(JOB, 1) / "sheet.png").write_bytes(b"png")

        def check() -> None:
            if case.store.has_ended(JOB):
                assert case.store.result(JOB) == result(1)
                assert case.store.artifact(JOB, "sheet.png").read() == b"png"
            else:
                require_whole(case.store)

        self.kill(case, steps, prepare, lambda: other.publish(JOB, 1, result(1)), check)

    def test_while_it_deletes(self, case, other, steps):
        def prepare() -> None:
            case.accept()
            case.publish(sheet=b"png")

        def check() -> None:
            if case.store.exists(JOB):
                assert case.store.artifact(JOB, "sheet.png").read() == b"png"
            else:
                assert [name for name in case.kept() if name.startswith("jobs/")] == []

        self.kill(case, steps, prepare, lambda: other.delete(JOB), check)


class TestLeftovers:
    def test_they_stay_for_a_while(self, case, bucket):
        case.accept()
        for key in (f"jobs/{JOB}/dead/video", f"jobs/{OTHER}/dead/video"):
            bucket.put(key, b"x")
        case.store.remove_stale_uploads(60)
        case.seconds += 59
        case.store.remove_stale_uploads(60)
        assert bucket.head(f"jobs/{JOB}/dead/video")
        bucket.put(f"jobs/{OTHER}/dead/video", b"longer")
        case.seconds += 1
        case.store.remove_stale_uploads(60)
        assert not bucket.head(f"jobs/{JOB}/dead/video")
        assert bucket.head(f"jobs/{OTHER}/dead/video")
        require_whole(case.store)

    def test_stray_objects_and_newer_jobs_are_left_alone(self, case, bucket):
        case.accept()
        bucket.put("jobs/stray", b"x")
        case.write(JOB, "ticket", b'{"version": 99}')
        bucket.put(f"jobs/{JOB}/more/video", b"x")
        before = case.kept()
        let_time_pass(case.store, case)
        assert case.kept() == before


class TestDocuments:
    def test_fields_of_a_newer_release_do_not_make_a_job_another_one(self, case, bucket):
        """Its job.json is not the text that this release would write."""
        case.accept()
        key = f"jobs/{JOB}/job.json"
        newer = json.loads(bucket.get(key)) | {"more": 1}
        bucket.put(key, json.dumps(newer, indent=1).encode())
        require_whole(case.store)

    @pytest.mark.parametrize("life", ["", "../x", "a/b", 1, None])
    def test_life_that_is_not_a_name_is_damaged(self, case, bucket, life):
        case.accept()
        key = f"jobs/{JOB}/job.json"
        case.write(JOB, "ticket", json.dumps(json.loads(bucket.get(key)) | {"life": life}).encode())
        with pytest.raises(UnknownFormat):
            case.store.ticket(JOB)


class TestMemory:
    def test_what_never_changes_is_read_once_in_a_while(self, case, bucket, monkeypatch):
        case.accept()
        reads = []
        get = bucket.get
        monkeypatch.setattr(bucket, "get", lambda key: (reads.append(key), get(key))[1])
        for _ in range(3):
            assert case.store.exists(JOB)
            assert case.store.ticket(JOB)
        assert len(reads) == 1
        case.seconds += 1
        assert case.store.exists(JOB)
        assert len(reads) == 2

    def test_memory_is_bounded(self, case, monkeypatch):
        monkeypatch.setattr("rollout_core.jobs.object_cache.MAX_REMEMBERED", 2)
        for digit in "123":
            case.accept(digit * 32)
            assert case.store.exists(digit * 32)
        assert len(case.store._cache._known) <= 2


class TestMachine:
    def test_files_of_killed_workers_are_removed_by_the_next_attempt(self, case, other):
        worker = case.store
        for job_id in (JOB, OTHER):
            case.accept(job_id)
            worker.stage_upload(job_id, worker.begin_attempt(job_id, 1))
        other.end(JOB, FAILED)
        case.accept("1" * 32)
        worker.begin_attempt("1" * 32, 1)
        here = {path.name for path in (worker.root / "attempts").iterdir()}
        assert here == {OTHER, "1" * 32}

    def test_full_or_broken_disk_of_this_machine_is_told(self, case, monkeypatch):
        (case.store.root / "incoming").rmdir()
        with pytest.raises(Exception, match="cannot be written") as caught:
            case.store.check_writable()
        assert caught.value.code == "store_unavailable"

    def test_large_object_is_copied_through_this_machine(self, case, monkeypatch):
        monkeypatch.setattr("rollout_core.jobs.bucket.MAX_COPY_BYTES", 6)
        monkeypatch.setattr("obstore.copy", None)
        case.accept()
        require_whole(case.store)

    def test_planted_files_with_other_names_are_left_out(self, case):
        case.accept()
        folder = case.store.begin_attempt(JOB, 1)
        for name in (".begun", "a b", "ä.png", ".result.json.part"):
            (folder / name).write_bytes(b"x")
        (folder / "sheet.png").write_bytes(b"png")
        (Path(folder) / "result.json").write_bytes(b"forged")
        case.store.publish(JOB, 1, result(1))
        names = {name.rpartition("/")[2] for name in case.kept() if "/attempts/1/" in name}
        assert names == {".begun", "sheet.png", "result.json"}
        assert b"forged" not in case.store.artifact(JOB, "result.json").read()
