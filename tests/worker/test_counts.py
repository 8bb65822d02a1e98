from rollout_core.jobs.counters import StageSum, WorkerCounters
from worker.counts import Counts


def test_nothing_is_counted_at_the_start():
    assert Counts().snapshot({"engine": 0}) == WorkerCounters()


def test_stages_are_summed_over_attempts():
    counts = Counts()
    counts.add_stages({"decode": 0.5, "render": 1.0})
    counts.add_stages({"decode": 0.25})

    stages = counts.snapshot({}).stages

    assert stages == {
        "decode": StageSum(attempts=2, seconds=0.75),
        "render": StageSum(attempts=1, seconds=1.0),
    }


def test_the_engine_is_busy_with_more_than_clips():
    counts = Counts()
    counts.add_explained(3, 1.5)
    counts.add_explained(1, 0.5)
    counts.add_engine_seconds(0.25)

    found = counts.snapshot({})

    assert (found.clips, found.explain_seconds, found.engine_seconds) == (4, 2.0, 2.25)


def test_restarts_of_all_children_are_in_one_table():
    counts = Counts()
    counts.restarts["media"] += 2

    assert counts.snapshot({"engine": 1, "template": 0}).restarts == {"engine": 1, "media": 2}


def test_a_snapshot_does_not_change_later():
    counts = Counts()
    counts.jobs["failed"] += 1
    before = counts.snapshot({})
    counts.jobs["failed"] += 1

    assert before.jobs == {"failed": 1}
