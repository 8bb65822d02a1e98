"""The suite that callers get, against the fake service and against a real engine."""

import os
import re
import subprocess
import sys

import pytest

from tests.system.system import open_system

SUITE = "rollout_core.testing.contract"


def run_suite(folder, *flags):
    """Run the suite in an empty folder; return its output, and how many of its tests did what."""
    of_this_run = {name for name in os.environ if name.startswith("PYTEST_")} - {"PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-Werror", "--pyargs", SUITE, *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={name: value for name, value in os.environ.items() if name not in of_this_run},
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    counts = re.findall(r"(\d+) (passed|skipped)", output.splitlines()[-1])
    return output, {word: int(number) for number, word in counts}


def reasons(output):
    return set(re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", output, re.MULTILINE))


def test_the_fake_service_keeps_the_contract(tmp_path):
    output, counts = run_suite(tmp_path, "-o", "rollout_service_keys=true")
    assert counts["passed"] > 60
    assert reasons(output) == {"the engine is fake"}


def test_a_real_engine_keeps_the_contract(tmp_path):
    with open_system(forked=True) as system:
        system.api()
        system.worker("--model", "moving-things")
        system.await_models("moving-things")
        output, counts = run_suite(tmp_path, "--rollout-url", str(system.client.base_url))
        assert not system.client.get("/v1/jobs").json()["jobs"]
    assert counts["passed"] > 50
    needs_keys = {reason for reason in reasons(output) if "another owner" in reason}
    assert reasons(output) - needs_keys == {"scripts the fake engine"}


def test_a_service_that_breaks_its_word_is_found_out(tmp_path):
    """The suite fails where the API differs: here a server that answers everything with 200."""
    server = (
        "import http.server\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        '        body = b\'{"models": [{"name": "fake", "ready": 1, "engines": ["fake"]}]}\'\n'
        "        self.send_response(200)\n"
        "        self.send_header('Content-Length', str(len(body)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "    do_POST = do_DELETE = do_PUT = do_GET\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            with pytest.raises(AssertionError, match="require_problem"):
                run_suite(tmp_path, "--rollout-url", url, "-k", "test_a_path_that_does_not_exist")
        finally:
            process.kill()
