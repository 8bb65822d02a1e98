import ast
import json
import re
from itertools import takewhile

import pytest

from rollout_core import __version__

EXTRAS = {"api": "service", "worker": "worker", "worker-cpu": "worker", "worker-fake": "media"}
TARGETS = tuple(EXTRAS)
ARGUMENTS = {
    "BASE_IMAGE": "python:3.11-slim-bookworm",
    "TORCH_INDEX": "https://download.pytorch.org/whl/cpu",
    "VERSION": __version__,
    "REVISION": "",
    "SOURCE": "",
}


@pytest.fixture(scope="module")
def stages(root):
    """Return stage → instructions, `(keyword, argument)`, those of its base stages first."""
    text = re.sub(r"\\\n\s*", "", (root / "Dockerfile").read_text())
    found = {}
    for line in text.splitlines():
        keyword, _, argument = line.strip().partition(" ")
        argument = argument.replace("$BASE_IMAGE", ARGUMENTS["BASE_IMAGE"])
        if keyword == "ARG" and not found:
            continue  # of the whole file
        if keyword == "FROM":
            below, _, name = argument.partition(" AS ")
            found[name] = list(found.get(below, [("FROM", below)]))
        elif keyword and not keyword.startswith("#"):
            found[name].append((keyword, argument.strip()))
    return found


def arguments(stage, keyword):
    return [argument for found, argument in stage if found == keyword]


def environment(stage):
    pairs = (pair for argument in arguments(stage, "ENV") for pair in argument.split())
    return dict(pair.split("=", 1) for pair in pairs)


def test_every_target_exists(stages):
    assert set(TARGETS) <= set(stages)


@pytest.mark.parametrize("target", TARGETS)
def test_target_is_slim_and_tested_python(stages, target):
    assert arguments(stages[target], "FROM")[0].startswith("python:3.11-slim")


@pytest.mark.parametrize("target", TARGETS)
def test_target_runs_as_a_fixed_user_other_than_root(stages, target):
    assert arguments(stages[target], "USER") == ["10001:10001"]
    keywords = [keyword for keyword, _ in stages[target]]
    assert "RUN" not in keywords[keywords.index("USER") :]


@pytest.mark.parametrize("target", TARGETS)
def test_target_has_a_health_check_that_compiles(stages, target):
    (check,) = arguments(stages[target], "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python"
    if command[1] == "-c":
        ast.parse(command[2])
    else:
        assert command[1:] == ["-m", "worker.health"]


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("api", "rollout-service"),
        ("worker", "rollout-worker"),
        ("worker-cpu", "rollout-worker"),
        ("worker-fake", "rollout-worker"),
    ],
)
def test_target_starts_its_command(stages, root, target, command):
    assert json.loads(arguments(stages[target], "ENTRYPOINT")[0]) == [command]
    assert f"\n{command} = " in (root / "pyproject.toml").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_target_writes_only_to_data_and_tmp(stages, target):
    env = environment(stages[target])
    assert env["HOME"] == "/tmp"
    assert env["ROLLOUT_DATA_DIR"] == "/data"
    assert env["PYTHONDONTWRITEBYTECODE"] == env["PYTHONUNBUFFERED"] == "1"
    assert arguments(stages[target], "VOLUME") == ["/data"]
    assert arguments(stages[target], "WORKDIR")[-1] == "/tmp"


@pytest.mark.parametrize("target", TARGETS)
def test_target_installs_its_own_extra_at_pinned_versions(stages, target):
    runs = arguments(stages[f"dependencies-{target}"], "RUN")
    (install,) = [run for run in runs if run.startswith("pip ") and ".[" in run]
    assert re.findall(r"\.\[([\w,]+)\]", install) == [f"{EXTRAS[target]},s3,telemetry"]
    assert "--constraint constraints.txt" in install


def test_torch_for_the_cpu_comes_first_and_at_its_pinned_version(stages):
    runs = [run for run in arguments(stages["dependencies-worker-cpu"], "RUN") if "pip " in run]
    torch = [run for run in runs if '--index-url "$TORCH_INDEX" torch torchvision' in run]
    assert torch
    assert runs.index(torch[0]) == 1
    assert "--no-deps --constraint constraints.txt" in torch[0]
    assert environment(stages["worker-cpu"])["ROLLOUT_DEVICE"] == "cpu"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(stages["worker-cpu"])


@pytest.mark.parametrize("target", TARGETS)
def test_labels_name_the_image_its_version_and_its_origin(stages, target):
    steps = stages[target]
    (text,) = arguments(steps, "LABEL")
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    assert found.pop("title") == f"timesformer-rollout-{target}"
    assert len(found.pop("description")) > 20
    assert found == {
        "licenses": "Apache-2.0",
        "version": "$VERSION",
        "revision": "$REVISION",
        "source": "$SOURCE",
    }
    # Last of all: another revision builds nothing again but what follows.
    assert [keyword for keyword, _ in steps[-4:]] == ["ARG", "ARG", "ARG", "LABEL"]


def test_build_arguments_have_defaults(root):
    head = (root / "Dockerfile").read_text().partition("\nFROM ")[0]
    assert dict(re.findall(r"(?m)^ARG (\w+)=(.*)$", head)) == ARGUMENTS


def test_worker_sees_the_gpu(stages):
    env = environment(stages["worker"])
    assert env["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(env["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_the_code_makes_no_new_layer_of_dependencies(stages, target):
    for _, argument in stages[f"dependencies-{target}"]:
        assert argument != ". ."
    steps = stages[target]
    dependencies = ("COPY", f"--from=dependencies-{target} /opt/rollout /opt/rollout")
    code = [step for step in steps if "from=wheel" in step[1]]
    assert len(code) == 1
    assert steps.index(dependencies) < steps.index(code[0])
    assert "--no-deps --force-reinstall" in code[0][1]


@pytest.mark.parametrize("target", TARGETS)
def test_version_is_there_for_the_first_installation(stages, root, target):
    assert 'path = "rollout_core/__init__.py"' in (root / "pyproject.toml").read_text()
    before = takewhile(lambda step: "pip " not in step[1], stages[f"dependencies-{target}"])
    assert ("COPY", "rollout_core/__init__.py rollout_core/") in list(before)


def test_has_no_secrets(root):
    text = (root / "Dockerfile").read_text()
    assert set(re.findall(r"(?m)^ARG (\w+)", text)) == ARGUMENTS.keys()
    assert not re.search(r"(?im)^\s*ADD\b|secret|token|password", text)
    assert re.findall(r"\w+://\S+?(?=['\n/])", text) == [
        "https://download.pytorch.org",
        "http://127.0.0.1:8000",
    ]


def test_context_is_a_list_of_allowed_files(root):
    lines = (root / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert {"pyproject.toml", "constraints.txt", "service", "worker", "rollout_core"} <= set(
        allowed
    )
    assert all((root / path).exists() for path in allowed)
