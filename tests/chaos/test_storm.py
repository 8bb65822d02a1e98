"""One minute of random faults: every accepted job ends exactly once."""

from tests.chaos.storm import Storm
from tests.system.system import open_system


def test_every_accepted_job_ends_exactly_once():
    with open_system() as system:
        storm = Storm(system, seed=4)
        storm.run(seconds=60)
        report = f"{storm.job_log} {storm.faults} {storm.job_log.remarks} {storm.leftovers}"
    assert storm.passed, report
    assert len(storm.job_log.accepted) >= 30, report
    assert storm.faults.total() >= 20, report
    assert {"api", "supervisor", "valkey"} <= storm.faults.keys(), report
