"""A minute of storm, from which every accepted job must come home."""

from tests.chaos.storm import Storm
from tests.system.system import open_system


def test_every_accepted_job_ends_exactly_once():
    with open_system() as system:
        storm = Storm(system, seed=4)
        storm.rage(seconds=60)
        report = f"{storm.job_log} {storm.disasters} {storm.job_log.remarks} {storm.litter}"
    assert storm.survived, report
    assert len(storm.job_log.accepted) >= 30, report
    assert storm.disasters.total() >= 20, report
    assert {"api", "supervisor", "valkey"} <= storm.disasters.keys(), report
