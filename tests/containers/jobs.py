"""Jobs through the containers: upload, files, and what becomes of them when a container ends.

Each check returns what it found, for the report, and fails by AssertionError or CommandError.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rollout_core.client import RolloutApiError
from rollout_core.jobs.schemas import Job
from tests.containers.hardening import media_has_a_filter_of_its_own
from tests.containers.site import PROJECT, CommandError, Site, wait_until

FILES = {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}
JOB_SECONDS = 120
BACK_SECONDS = 60

MAIN_PROCESS = """
for folder in /proc/[0-9]*; do
    pid=${folder#/proc/}
    [ "$pid" != 1 ] && tr '\\0' ' ' < $folder/cmdline | grep -qE 'bin/rollout-(worker|service)' &&
        echo $pid
done | sort -n | head -1
"""
"""Prints the id of the command below the init process of a container of ours."""


def sample(site: Site) -> Path:
    """Return the sample clip."""
    return site.folder / "rollout_core" / "demo" / "sample.mp4"


def submit(site: Site, api_key: str | None = None, **request: Any) -> Job:
    """Upload the sample for a new job, which does not take the result of an earlier one."""
    with site.client(api_key) as client:
        return client.submit(sample(site), reuse=False, **request)


def wait(site: Site, job: Job, api_key: str | None = None) -> Job:
    """Wait for the end of a job, also while the API is away; check that it succeeded."""
    with site.client(api_key) as client:
        job = client.wait(job, timeout_seconds=JOB_SECONDS)
    assert job.state == "succeeded", job.error
    return job


def fetch(site: Site, job: Job, api_key: str | None = None) -> int:
    """Fetch every file of a job and check its digest; return the bytes of all."""
    with tempfile.TemporaryDirectory() as folder, site.client(api_key) as client:
        paths = client.download(job, folder)
        assert {path.name for path in paths} >= FILES, paths
        assert np.load(Path(folder) / "rollout.npz")["relevance"].size
        return sum(path.stat().st_size for path in paths)


def sample_succeeds(site: Site, **request: Any) -> str:
    """Upload the sample, wait, and fetch all files."""
    job = wait(site, submit(site, **request))
    assert job.result is not None
    size = fetch(site, job)
    best = job.result.predictions[0]
    return f"{best.label}, {best.probability:.2%}; {len(FILES)} files, {size:,} bytes"


def sample_shows_its_class(site: Site) -> str:
    """The real model finds what the sample clip shows."""
    expected = sample(site).with_suffix(".label").read_text().strip()
    found = sample_succeeds(site)
    assert found.startswith(f"{expected}, "), found
    return found


def killed_worker_comes_back(site: Site, service: str) -> str:
    """SIGKILL while a job runs: the container starts again, and the job ends."""
    job = _running(site, clips="tile")
    filters = media_has_a_filter_of_its_own(site, service)
    _kill(site, service)
    job = wait(site, job)
    assert job.attempt == 2, job.attempt
    fetch(site, job)
    return f"attempt 2 succeeded; before, the media process had {filters}"


def killed_api_comes_back(site: Site) -> str:
    """SIGKILL of the API while a job runs: it starts again, and tells how the job ended."""
    job = _running(site, clips="tile")
    _kill(site, "api")
    wait_until(lambda: is_ready(site), BACK_SECONDS, "the API is ready")
    job = wait(site, job)
    assert job.attempt == 1, job.attempt
    return "the job succeeded in its first attempt"


def stopped_worker_ends_its_job(site: Site, service: str) -> str:
    """SIGTERM while a job runs: the job ends first, and the worker with status 0."""
    job = _running(site, clips="tile")
    site.compose("stop", service)
    assert site.inspect(service, "{{.State.ExitCode}}") == "0"
    job = wait(site, job)
    assert job.attempt == 1, job.attempt
    site.compose("start", service)
    return "exit status 0, the job succeeded in its first attempt"


def redis_comes_back(site: Site) -> str:
    """Redis saves when it is stopped, and starts again on what it left."""
    site.compose("stop", "redis")
    assert site.inspect("redis", "{{.State.ExitCode}}") == "0"
    assert "ready to exit" in site.log("redis").splitlines()[-1]
    site.compose("start", "redis")
    wait_until(lambda: is_ready(site), BACK_SECONDS, "the API is ready")
    return "it said that it saved, and the API was ready again"


def nothing_is_lost_by_stop_and_start(site: Site, service: str, profile: str) -> str:
    """All containers stopped and started: the same jobs and files, and what waited ends."""

    def restart() -> None:
        site.compose("--profile", profile, "stop")
        site.compose("--profile", profile, "start")

    return _nothing_is_lost(site, service, restart)


def nothing_is_lost_by_down_and_up(site: Site, service: str, profile: str) -> str:
    """All containers removed and made again: the same jobs and files, and what waited ends."""

    def remake() -> None:
        site.down()
        site.up(profile)

    return _nothing_is_lost(site, service, remake)


def keys_count(site: Site, profile: str, keys: Path) -> str:
    """With a file of keys: 401 without one; a key sees its own jobs; a later one counts, too."""
    alice = _add_key(site, "alice", keys)
    site = site.with_variables(ROLLOUT_API_KEYS=str(keys))
    site.up(profile)
    wait_until(lambda: is_ready(site), BACK_SECONDS, "the API is ready")
    assert _status(site, None) == _status(site, "wrong" * 10) == 401
    job = wait(site, submit(site, alice), alice)
    fetch(site, job, alice)
    bob = _add_key(site, "bob", keys)
    wait_until(lambda: _status(site, bob) == 200, BACK_SECONDS, "the second key counts")
    with site.client(bob) as client:
        assert job.id not in {other.id for other in client.list()}
    return (
        "401 without and with a wrong one; a second key, added meanwhile, sees no job of the first"
    )


def is_ready(site: Site) -> bool:
    """Return whether the API answers that it is ready, so that no caller sees a refusal."""
    script = (
        "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"
    )
    return _succeeds(site, "api", "python", "-c", script)


def _nothing_is_lost(site: Site, service: str, restart: Callable[[], None]) -> str:
    job = wait(site, submit(site))
    site.compose("stop", service)
    waiting = submit(site, clips="tile", model=job.model)
    before = _jobs(site)
    restart()
    wait_until(lambda: is_ready(site), BACK_SECONDS, "the API is ready")
    after = _jobs(site)
    wait(site, waiting)
    assert {**after, waiting.id: None} == {**before, waiting.id: None}
    fetch(site, job)
    return f"{len(before)} jobs as before; the one that waited succeeded"


def _jobs(site: Site) -> dict[str, Any]:
    with site.client() as client:
        return {job.id: job.model_dump() for job in client.list()}


def _running(site: Site, **request: Any) -> Job:
    job = submit(site, **request)

    def is_running() -> bool:
        with site.client() as client:
            return client.get(job).progress is not None

    wait_until(is_running, JOB_SECONDS, "the job runs")
    return job


def _kill(site: Site, service: str) -> None:
    count = int(site.inspect(service, "{{.RestartCount}}"))
    pid = site.shell(service, MAIN_PROCESS)
    assert pid, "the main process was not found"
    site.shell(service, f"kill -9 {pid}")
    template = "{{.RestartCount}} {{.State.Running}}"
    wait_until(
        lambda: site.inspect(service, template) == f"{count + 1} true",
        BACK_SECONDS,
        "the container starts again",
    )


def _add_key(site: Site, name: str, keys: Path) -> str:
    """Add a key by the documented command; return it."""
    script = (
        f"docker compose --project-name {PROJECT} run -T --rm --no-deps --entrypoint python "
        f"api -m service.keys {name} 2>&1 >> '{keys}'"
    )
    said = site.run("sh", "-c", script)
    keys.chmod(0o644)
    return said.split()[-1]


def _status(site: Site, api_key: str | None) -> int:
    try:
        with site.client(api_key) as client:
            list(client.list())
    except RolloutApiError as error:
        return error.status
    return 200


def _succeeds(site: Site, service: str, *command: str) -> bool:
    try:
        site.within(service, *command)
    except CommandError:
        return False
    return True
