"""Clients that are generated from the committed document compile, and each one runs a job."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.node import FOLDER as NODE
from tests.system.node import require_node_package

DOCUMENT = Path(__file__).parents[2] / "openapi" / "openapi.json"
PYTHON_JOB = Path(__file__).with_name("python_client_job.py")
PNG = b"\x89PNG"
MISSED = "0" * 32


@pytest.fixture(scope="module")
def url(system):
    """Return the address of a service with a worker that has the fake engine."""
    return str(system.client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def video_path(video, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    path.write_bytes(video)
    return path


def run(*command, cwd, **environment):
    """Run a program; return its output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_job(text):
    """Check what a client says of its job."""
    job = json.loads(text)
    assert job["state"] == "succeeded"
    assert job["method"] == "rollout"
    assert job["code"] == "job_not_found"
    assert base64.b64decode(job["sheet"]).startswith(PNG)
    return job


@pytest.fixture(scope="module")
def python_client(tmp_path_factory):
    """Generate the package `rollout_api`; return the folder that contains it."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "config.yaml").write_text("post_hooks: []\n")
    options = ("--meta", "none", "--config", folder / "config.yaml", "--fail-on-warning")
    where = ("--path", DOCUMENT, "--output-path", folder / "rollout_api")
    run(sys.executable, "-m", "openapi_python_client", "generate", *where, *options, cwd=folder)
    shutil.copy(PYTHON_JOB, folder)
    return folder


def test_the_python_client_has_every_operation(python_client):
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    wanted = {item["operationId"] for path in document["paths"].values() for item in path.values()}
    found = {path.stem for path in (python_client / "rollout_api" / "api").glob("*/*.py")}

    assert wanted <= found


def test_the_python_client_compiles(python_client):
    run(sys.executable, "-m", "compileall", "-q", "rollout_api", cwd=python_client)
    names = ("rollout_api", PYTHON_JOB.name)
    run(sys.executable, "-m", "mypy", "--strict", "--no-incremental", *names, cwd=python_client)


def test_every_module_of_the_python_client_can_be_imported(python_client):
    files = (python_client / "rollout_api").rglob("*.py")
    modules = [".".join(path.relative_to(python_client).with_suffix("").parts) for path in files]
    imports = "\n".join(f"import {module.removesuffix('.__init__')}" for module in modules)

    run(sys.executable, "-W", "error", "-c", imports, cwd=python_client)


def test_the_python_client_runs_jobs(python_client, url, video_path):
    text = run(sys.executable, PYTHON_JOB.name, url, video_path, cwd=python_client)

    assert check_job(text)["second"] == "succeeded"


@pytest.fixture(scope="module")
def typescript_clients(tmp_path_factory):
    """Generate both clients and compile them strictly, with a program for each."""
    for package in ("typescript", "openapi-typescript", "openapi-fetch", "@hey-api/openapi-ts"):
        require_node_package(package)
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    for path in (NODE / "clients").iterdir():
        shutil.copy(path, folder)
    programs = folder / "node_modules" / ".bin"
    run(programs / "openapi-typescript", DOCUMENT, "-o", folder / "schema.ts", cwd=folder)
    run(programs / "openapi-ts", "-i", DOCUMENT, "-o", folder / "hey", "--no-log-file", cwd=folder)
    run(programs / "tsc", "-p", ".", cwd=folder)
    return folder


@pytest.mark.parametrize("name", ["openapi-typescript", "hey-api"])
def test_the_typescript_clients_run_a_job(typescript_clients, url, video_path, name):
    text = run("node", f"built/{name}.js", url, video_path, cwd=typescript_clients)

    check_job(text)
