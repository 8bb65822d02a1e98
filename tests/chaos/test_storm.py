"""A minute of storm, from which every accepted job must come home."""

from tests.chaos.storm import Storm
from tests.house.house import open_house


def test_every_accepted_job_ends_exactly_once():
    with open_house() as house:
        storm = Storm(house, seed=4)
        storm.rage(seconds=60)
        report = f"{storm.ledger} {storm.disasters} {storm.ledger.remarks} {storm.litter}"
    assert storm.survived, report
    assert len(storm.ledger.accepted) >= 30, report
    assert storm.disasters.total() >= 20, report
    assert {"api", "supervisor", "valkey"} <= storm.disasters.keys(), report
