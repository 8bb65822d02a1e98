"""What real workers have counted reaches the scrapes of two real API processes."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rollout_core.jobs.redis_records import LIVE_SECONDS
from tests.system.system import free_port, open_system
from tests.system.waiting import wait_until
from tests.worker.clips import make_video

SOON_SECONDS = 20.0


def scrape(address):
    """Return the samples of a process: name → labels, without that of the worker → value."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"http://{address}/metrics").text):
        for sample in family.samples:
            labels = {name: text for name, text in sample.labels.items() if name != "worker"}
            found.setdefault(sample.name, {})[tuple(sorted(labels.items()))] = sample.value
    return found


def key(**labels):
    return tuple(sorted(labels.items()))


def test_jobs_of_a_worker_are_told_by_both_processes_until_it_is_gone(tmp_path):
    video = make_video(tmp_path / "video.mp4").read_bytes()
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with open_system(forked=True) as system:
        for address in addresses:
            system.api("--metrics-address", address)
        worker = system.worker(model="fake", kept=False)
        system.await_models("fake")
        for asked in ({"clips": "tile"}, {"fake": {"fail": "out_of_memory"}}):
            system.wait(system.accepted(video, **asked))

        def are_counted():
            jobs = [scrape(address).get("rollout_worker_jobs_total", {}) for address in addresses]
            states = [key(model="fake", state=state) for state in ("succeeded", "failed")]
            return all(each.get(state) == 1 for each in jobs for state in states)

        wait_until(are_counted, SOON_SECONDS, "the jobs to be counted")
        found = [scrape(address) for address in addresses]
        for each in found:
            assert each["rollout_ready"][()] == 1
            assert each["rollout_worker_clips_total"][key(model="fake")] == 3
            assert each["rollout_worker_attempts_total"][key(model="fake")] == 2
            assert each["rollout_worker_engine_busy_seconds_total"][key(model="fake")] > 0
            stages = each["rollout_worker_stage_seconds_count"]
            assert stages[key(model="fake", stage="wait")] == 2
            assert stages[key(model="fake", stage="render")] == 1
        requests = [each["rollout_http_requests_total"] for each in found]
        posts = [
            each.get(key(method="POST", route="/v1/jobs", status="2xx"), 0) for each in requests
        ]
        assert sum(posts) == 2

        worker.stop()

        def is_gone():
            each = scrape(addresses[0])
            return "rollout_worker_jobs_total" not in each and (
                each["rollout_workers"][key(model="fake", state="ready")] == 0
            )

        wait_until(is_gone, LIVE_SECONDS + SOON_SECONDS, "the worker to disappear")
        ended = scrape(addresses[0])["rollout_jobs"]
        assert ended[key(model="fake", state="succeeded")] == 1
        assert ended[key(model="fake", state="failed")] == 1
