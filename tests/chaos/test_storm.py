"""Half a minute of random faults: every accepted job ends exactly once.

`scripts/chaos --minutes 30`, or `python -m tests.chaos.storm`, is the long one.
"""

from tests.chaos.storm import Storm
from tests.system.system import open_system


def test_every_accepted_job_ends_exactly_once():
    with open_system(forked=True) as system:
        storm = Storm(system, seed=2)
        storm.run(seconds=30)
        report = f"{storm.job_log} {storm.blows} {storm.job_log.remarks} {storm.leftovers}"
    assert storm.passed, report
    assert len(storm.job_log.accepted) >= 15, report
    assert storm.blows.total() >= 10, report
    assert {"kill", "term", "halt", "astray"} <= {name.split("_")[0] for name in +storm.blows}, (
        report
    )
