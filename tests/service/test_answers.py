import pytest

from rollout_core.contract import JobOptions
from service.answers import answer_key
from service.submissions import Rules
from service.upload_store import Received
from service.usage import Owner

DIGEST = "a" * 64


@pytest.fixture
def ask(jobs, store, announce):
    """Submit a job for a video; return it."""
    announce(sha256=DIGEST)

    def one(video=b"video", *, owner=None, **request):
        with store.receiving() as path:
            path.write_bytes(video)
            name = owner.name if owner else None
            with jobs.submissions.adding_upload(path, Received.of(path), owner=name) as upload:
                return jobs.submit(JobOptions(**request), upload, owner=owner)

    return one


@pytest.fixture
def answered(ask, worker):
    """Return a job that has succeeded with the checkpoint that is served."""
    job = ask()
    worker.succeed(job.id, checkpoint_sha256=DIGEST)
    return job


def test_an_equal_job_succeeds_at_once(jobs, ask, answered, redis, store):
    again = ask()

    first = jobs.get(answered.id)
    assert (again.state, again.reused_from) == ("succeeded", answered.id)
    assert again.id != answered.id
    assert [file.sha256 for file in again.result.artifacts] == [
        file.sha256 for file in first.result.artifacts
    ]
    assert (again.started_at, again.attempt, again.queue_position) == (None, 0, None)
    assert again.ended_at == again.created_at
    assert not redis.exists(f"rq:job:{again.id}")
    for name in ("sheet.png", "result.json"):
        paths = [store.artifact_path(job_id, name) for job_id in (again.id, answered.id)]
        assert paths[0].samefile(paths[1])


def test_an_answered_job_is_listed(jobs, ask, answered):
    again = ask(tag="again")

    assert [job.id for job in jobs.page(state="succeeded", tag="again").jobs] == [again.id]
    assert [job.id for job in jobs.page().jobs] == [again.id, answered.id]


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "rollout"},
        {"model": "fake"},
        {"sampling": "strided"},
        {"tag": "other"},
        {"overlay": {}},
        {"preview": False},
    ],
)
def test_defaults_that_are_spelled_out_are_the_same(ask, answered, request_):
    assert ask(**request_).reused_from == answered.id


def test_the_last_layer_is_the_default_of_attention(ask, worker):
    first = ask(method="attention")
    worker.succeed(first.id, checkpoint_sha256=DIGEST)

    assert ask(method="attention", layer=11).reused_from == first.id
    assert ask(method="attention", layer=10).reused_from is None


@pytest.mark.parametrize(
    "request_",
    [
        {"reuse": False},
        {"head_fusion": "max"},
        {"video": b"another"},
        {"owner": Owner(name="ann")},
        {"overlay": None},
        {"preview": True},
    ],
)
def test_what_differs_is_computed(ask, answered, request_):
    job = ask(**request_)

    assert (job.state, job.reused_from) == ("queued", None)


def test_another_checkpoint_or_none_is_computed(ask, answered, announce):
    announce(sha256="b" * 64)
    assert ask().reused_from is None
    announce(sha256=None)
    assert ask().reused_from is None
    announce(sha256=DIGEST)
    assert ask().reused_from == answered.id


def test_a_model_without_a_checkpoint_is_never_reused(ask, worker, announce):
    announce(sha256=None)
    worker.succeed(ask().id)

    assert ask().reused_from is None


def test_a_job_that_has_not_succeeded_answers_nothing(jobs, ask):
    first = ask()
    assert ask().state == "queued"
    jobs.cancel(first.id)
    assert ask().state == "queued"


def test_a_job_answered_by_an_answered_one_names_the_original(jobs, ask, answered):
    second = ask()
    jobs.delete(answered.id)

    third = ask()

    assert (third.state, third.reused_from) == ("succeeded", answered.id)
    assert jobs.get(second.id).result.artifacts
    jobs.delete(second.id)
    assert jobs.get(third.id).result.artifacts


def test_an_expired_job_answers_nothing_and_its_answers_stay(jobs, store, ask, answered):
    second = ask()
    store.expire(answered.id)
    assert all(store.artifact_path(second.id, file.name) for file in second.result.artifacts)
    store.expire(second.id)

    assert ask().state == "queued"


def test_a_result_without_one_of_its_files_answers_nothing(store, ask, answered):
    store.artifact_path(answered.id, "sheet.png").unlink()

    assert ask().state == "queued"


def test_a_result_that_is_deleted_meanwhile_is_computed(store, ask, answered, monkeypatch, jobs):
    find = jobs.submissions._answers.find

    def find_late(*args, **kwargs):
        found = find(*args, **kwargs)
        store.delete(answered.id)
        return found

    monkeypatch.setattr(jobs.submissions._answers, "find", find_late)

    job = ask()

    assert (job.state, job.reused_from) == ("queued", None)
    assert jobs.uploads.jobs(job.upload) == [job.id]


def test_an_answer_needs_no_place_in_the_queue(jobs, ask, answered, monkeypatch):
    monkeypatch.setattr(jobs.submissions, "_rules", Rules(max_queued=0))

    assert ask().state == "succeeded"


def test_deleting_the_jobs_of_a_key_leaves_no_name(jobs, store, ask, answered):
    second = ask()
    for job_id in (answered.id, second.id):
        jobs.delete(job_id)

    assert not any(path.is_file() for path in (store.root / "answers").rglob("*"))


def test_the_key_says_whose_answer_it_is(announce):
    spec, request = announce().model, JobOptions().explain_request
    keys = {
        answer_key(request, spec, upload_sha256=DIGEST, owner=owner) for owner in (None, "a", "b")
    }

    assert len(keys) == 3
