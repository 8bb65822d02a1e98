"""The plugin in the projects of others: each test runs pytest in a folder of its own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from rollout_core.testing.fake_service import FakeServiceError, RolloutService, running_fake
from tests.system.processes import is_alive
from tests.system.waiting import wait_until

STRICT = """
[pytest]
addopts = --strict-markers --strict-config
filterwarnings = error
"""

USES = """
import json, pathlib, urllib.request

def test_it(rollout_service):
    with urllib.request.urlopen(rollout_service.url + "/v1/models") as answer:
        names = {{model["name"] for model in json.load(answer)["models"]}}
    assert "fake" in names
    assert rollout_service.api_key is None
    assert (rollout_service.data_dir / "valkey").is_dir()
    pathlib.Path({noted!r}).write_text(str(rollout_service.data_dir))
    {then}
"""


@pytest.fixture
def project(tmp_path):
    """Return a function that makes a project with one test and runs pytest there."""

    def project(test, *flags, ini=STRICT, **files):
        (tmp_path / "pytest.ini").write_text(ini)
        (tmp_path / "test_it.py").write_text(test)
        for name, content in files.items():
            (tmp_path / f"{name}.py").write_text(content)
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"ROLLOUT_MODEL": "fake-slow"},  # settings of another service
        )

    return project


def require_passed(process, tests=1):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert f"{tests} passed" in output


def processes_of(data_dir):
    """Return the processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(data_dir).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_the_service_runs_for_the_session_and_all_of_it_is_stopped(project, tmp_path):
    noted = tmp_path / "noted"
    require_passed(project(USES.format(noted=str(noted), then="")))
    assert processes_of(noted.read_text()) == []


def test_the_service_is_stopped_if_the_tests_are_killed(project, tmp_path):
    noted = tmp_path / "noted"
    process = project(USES.format(noted=str(noted), then="import time; time.sleep(600)"))
    wait_until(lambda: noted.exists() and noted.read_text(), 60)
    pids = processes_of(noted.read_text())
    assert len(pids) >= 4
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(map(is_alive, pids)), 30)


def test_the_fixture_gives_a_service_that_runs_already(project):
    test = (
        "def test_it(rollout_service):\n"
        "    assert rollout_service.url == 'http://there:1'\n"
        "    assert (rollout_service.api_key, rollout_service.data_dir) == ('secret', None)\n"
    )
    os.environ["ROLLOUT_API_KEY"] = "secret"
    try:
        require_passed(project(test, "--rollout-url", "http://there:1/"))
        ini = f"{STRICT}\nrollout_service_url = http://there:1"
        require_passed(project(test, ini=ini))
    finally:
        del os.environ["ROLLOUT_API_KEY"]


def test_a_project_that_does_not_use_it_notices_nothing(project):
    """Neither imports nor a package of the project that is called as one of ours."""
    test = (
        "import sys\n"
        "import service\n"
        "def test_it():\n"
        "    assert service.OURS\n"
        "    foreign = {'numpy', 'pydantic', 'fastapi', 'redis', 'worker'}\n"
        "    assert foreign.isdisjoint(sys.modules)\n"
    )
    require_passed(project(test, service="OURS = True"))


def test_a_service_that_cannot_start_says_why(tmp_path):
    with (
        pytest.raises(FakeServiceError, match=r"\[fake\](.|\n)*max_queued"),
        running_fake(tmp_path, settings={"ROLLOUT_MAX_QUEUED": "none"}),
    ):
        pass


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ROLLOUT_MAX_QUED=2", "no setting ROLLOUT_MAX_QUED; did you mean ROLLOUT_MAX_QUEUED?"),
        ("MAX_QUEUED=2", "no setting MAX_QUEUED; did you mean ROLLOUT_MAX_QUEUED?"),
        ("ROLLOUT_URL=http://there", "no setting ROLLOUT_URL"),
        ("ROLLOUT_MAX_QUEUED", "'ROLLOUT_MAX_QUEUED' is not NAME=VALUE"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(project, line, reason):
    ini = f"{STRICT}\nrollout_service_settings = {line}\n"
    process = project("def test_it(rollout_service):\n    pass\n", ini=ini)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert reason in output


def test_keys_and_settings_come_from_the_projects_file(project):
    ini = (
        f"{STRICT}\n"
        "rollout_service_keys = true\n"
        "rollout_service_settings =\n"
        "    ROLLOUT_MAX_UPLOAD_BYTES=1000\n"
        "    ROLLOUT_MAX_QUEUED=7\n"
    )
    test = (
        "from rollout_core.testing.http import Api\n"
        "def test_it(rollout_service):\n"
        "    url, key = rollout_service.url, rollout_service.other_api_key\n"
        "    assert key != rollout_service.api_key\n"
        "    statuses = [Api(url, given).get('/v1/jobs').status for given in (None, key)]\n"
        "    assert statuses == [401, 200]\n"
        "    answer = rollout_service.api.post_form('/v1/jobs', {'video': bytes(2000)})\n"
        "    assert answer.status == 413\n"
    )
    require_passed(project(test, ini=ini))


def test_the_client_is_made_for_the_service(monkeypatch):
    made = SimpleNamespace(RolloutClient=lambda *given, **named: (given, named))
    monkeypatch.setitem(sys.modules, "rollout_core.client", made)
    service = RolloutService("http://there", api_key="secret")
    assert service.client(timeout_seconds=1) == (
        ("http://there",),
        {"api_key": "secret", "timeout_seconds": 1},
    )
