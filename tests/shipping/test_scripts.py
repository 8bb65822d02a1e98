import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

INSTALLATION_FILES = ("pyproject.toml", "constraints.txt", "rollout_core/__init__.py")
"""When one of them changes, the environment is installed again."""

PYTHON = """#!/bin/bash
# A fake python3.11: an environment is a copy of it, and the file "calls" gets its pip calls.
case "$*" in
    "-c import torch, timm, einops") exit "${TORCH_STATUS:-1}" ;;
    "-c "*) exit "${PYTHON_UNUSABLE:-0}" ;;
    "-m venv --clear .venv")
        mkdir -p .venv/bin && cp "$0" .venv/bin/python
        echo "VIRTUAL_ENV=$PWD/.venv" >.venv/bin/activate
        echo venv >>calls ;;
    "-m pip --version") exit 0 ;;
    "-V") echo "Python 3.11.0" ;;
    "-m tests.benchmarks.suite"*) echo "${0##*/} $*" >>calls ;;
    "-m pip install "*) echo "pip ${*: -1}" >>calls; exit "${PIP_STATUS:-0}" ;;
esac
"""


def test_every_script_is_executable_and_clean_bash(root):
    scripts = [path for path in (root / "scripts").iterdir() if not path.suffix and path.is_file()]
    assert root / "scripts" / "bench" in scripts
    for script in (root / ".ci" / "run", *scripts):
        assert os.access(script, os.X_OK), script
        assert script.read_text().startswith("#!/usr/bin/env bash\n"), script
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=10)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_ci_runs_the_test_script_and_nothing_else(root):
    shebang, command = (root / ".ci" / "run").read_text().splitlines()
    assert shebang.startswith("#!")
    assert re.fullmatch(r'exec "\S+ "\S+"\)/\.\./scripts/test"', command)


def test_test_script_checks_everything_in_order(root):
    text = (root / "scripts" / "test").read_text()
    steps = re.findall(r"^step (\S+)", text, re.MULTILINE)
    assert steps == ["ruff", "ruff", "mypy", "lint-imports", "pytest"]
    assert "ruff format --check" in text
    assert "mypy --strict" in text


@pytest.fixture
def checkout(root, tmp_path):
    """Return a copy of the files that scripts/environment needs, with a fake Python."""
    for path in (*INSTALLATION_FILES, "scripts/environment", "scripts/bench"):
        (tmp_path / "repository" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tmp_path / "repository" / path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3.11").write_text(PYTHON)
    (programs / "python3.11").chmod(0o755)

    def run(*arguments, script="environment", **environment):
        path = f"{programs}:/usr/bin:/bin"
        return subprocess.run(
            [repository / "scripts" / script, *arguments],
            cwd=tmp_path,
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=20,
        )

    def calls():
        file = repository / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    repository = tmp_path / "repository"
    return SimpleNamespace(folder=repository, run=run, calls=calls)


def test_environment_is_made_once(checkout):
    assert checkout.run("worker").returncode == 0
    assert checkout.calls() == ["venv", "pip .[worker]"]
    assert checkout.run("worker").returncode == 0
    assert checkout.calls() == []


def test_environment_of_the_tests_serves_the_demo(checkout):
    checkout.run("worker,dev")
    checkout.calls()
    checkout.run("worker")
    assert checkout.calls() == []


def test_environment_of_the_demo_is_completed_for_the_tests(checkout):
    checkout.run("worker")
    checkout.calls()
    checkout.run("worker,dev")
    assert checkout.calls() == ["pip .[worker,dev]"]


@pytest.mark.parametrize("name", INSTALLATION_FILES)
def test_environment_is_installed_again_when_a_file_changes(checkout, name):
    checkout.run("worker")
    checkout.calls()
    with (checkout.folder / name).open("a") as file:
        file.write("# changed\n")
    checkout.run("worker")
    assert checkout.calls() == ["pip .[worker]"]


def test_failed_installation_is_reported_and_repeated(checkout):
    failed = checkout.run("worker", PIP_STATUS="1")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "installation failed" in failed.stderr
    checkout.calls()
    assert checkout.run("worker").returncode == 0
    assert checkout.calls() == ["pip .[worker]"]


def test_moved_environment_is_made_again(checkout):
    checkout.run("worker")
    checkout.calls()
    activate = checkout.folder / ".venv" / "bin" / "activate"
    activate.write_text("VIRTUAL_ENV=/elsewhere/.venv\n")
    stamp = checkout.folder / ".venv" / "installed"
    stamp.write_text(stamp.read_text().replace(str(checkout.folder), "/elsewhere"))
    checkout.run("worker")
    assert checkout.calls() == ["venv", "pip .[worker]"]


def test_missing_python_is_reported(checkout, tmp_path):
    for name in ("python3", "python3.12", "python3.13", "python3.14"):
        shutil.copy(tmp_path / "programs" / "python3.11", tmp_path / "programs" / name)
    done = checkout.run("worker", PYTHON_UNUSABLE="1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert checkout.calls() == []


@pytest.fixture
def other_python(tmp_path):
    """Return a Python of another version, which is not on the PATH."""
    folder = tmp_path / "others"
    folder.mkdir()
    other = folder / "python3.12"
    other.write_text(PYTHON.replace("Python 3.11.0", "Python 3.12.0"))
    other.chmod(0o755)
    return other


def test_named_python_makes_the_environment(checkout, other_python):
    assert checkout.run("worker", PYTHON=str(other_python)).returncode == 0
    assert checkout.calls() == ["venv", "pip .[worker]"]
    made = (checkout.folder / ".venv" / "bin" / "python").read_text()
    assert made == other_python.read_text()
    assert checkout.run("worker", PYTHON=str(other_python)).returncode == 0
    assert checkout.calls() == []


def test_named_python_replaces_an_environment_of_another_version(checkout, other_python):
    checkout.run("worker")
    checkout.calls()
    assert checkout.run("worker", PYTHON=str(other_python)).returncode == 0
    assert checkout.calls() == ["venv", "pip .[worker]"]


def test_named_python_is_the_only_candidate(checkout):
    done = checkout.run("worker", PYTHON="no-such-python")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "PYTHON=no-such-python" in done.stderr
    assert checkout.calls() == []


def test_benchmarks_make_the_environment(checkout):
    assert checkout.run("--quick", script="bench").returncode == 0
    made, installed, started = checkout.calls()
    assert (made, installed) == ("venv", "pip .[service,worker,dev]")
    assert started == "python -m tests.benchmarks.suite --quick"


def test_benchmarks_run_without_an_environment_where_torch_is_installed(checkout, tmp_path):
    """A GPU machine may have no network."""
    shutil.copy(tmp_path / "programs" / "python3.11", tmp_path / "programs" / "python3")
    done = checkout.run("--device", "cuda", script="bench", TORCH_STATUS="0")
    assert done.returncode == 0
    assert checkout.calls() == ["python3 -m tests.benchmarks.suite --device cuda"]
