import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
PACKAGES = ("rollout_core", "service", "worker")

BREACHES = {
    "rollout_core imports neither its users nor HTTP; only jobs/redis_* import redis": [
        ("rollout_core/jobs/store.py", "import redis"),
        ("rollout_core/jobs/redis_records.py", "import rq"),
        ("rollout_core/jobs/redis_url.py", "import rq"),
        ("rollout_core/errors.py", "import service.jobs"),
        ("rollout_core/pipeline.py", "import worker.messages"),
        ("rollout_core/contract.py", "import fastapi"),
    ],
    "only rollout_core.client speaks HTTP as a client": [
        ("rollout_core/command.py", "import httpx2"),
        ("rollout_core/pipeline.py", "import rollout_core.client"),
        ("worker/task.py", "import httpx2"),
    ],
    "the client needs the base installation only": [
        ("rollout_core/client/calls.py", "import av"),
        ("rollout_core/client/clients.py", "import rollout_core.pipeline"),
    ],
    "rollout_core outside jobs never imports jobs": [
        ("rollout_core/__main__.py", "import rollout_core.jobs.store"),
        ("rollout_core/resolve.py", "import rollout_core.jobs.records"),
        ("rollout_core/video/clips.py", "import rollout_core.jobs.redis_records"),
    ],
    "model and relevance import neither video nor pictures": [
        ("rollout_core/model/specs.py", "import rollout_core.video.sampling"),
        ("rollout_core/relevance/explain.py", "import rollout_core.pictures.heat"),
    ],
    "service never imports the worker, nor what its container does not have": [
        ("service/app.py", "import worker.settings"),
        ("service/jobs.py", "import torch"),
        ("service/uploads.py", "import av"),
        ("service/routes/artifacts.py", "import PIL"),
    ],
    "the service's jobs layer knows nothing of HTTP": [
        ("service/jobs.py", "import fastapi"),
        ("service/usage.py", "import starlette.requests"),
        ("service/workers.py", "import uvicorn"),
    ],
    "worker never imports the service": [
        ("worker/task.py", "import service.jobs"),
        ("worker/health.py", "import fastapi"),
    ],
    "rollout_core imports downwards only": [
        ("rollout_core/archive.py", "import rollout_core.pipeline"),
        ("rollout_core/errors.py", "import rollout_core.model.specs"),
        ("rollout_core/video/sampling.py", "import rollout_core.result"),
        ("rollout_core/not_in_a_layer.py", ""),
    ],
    "no package has an import circle": [
        ("service/usage.py", "import service.app"),
        ("worker/wire.py", "import worker.runner"),
        ("rollout_core/demo/scenes.py", "import rollout_core.demo.train"),
    ],
}
"""Contract → lines that break it, each added to a file by itself."""

DECODERS = {"av", "PIL", "cmap", "matplotlib"}
MODEL = {"torch", "timm", "einops", "safetensors", "huggingface_hub", "tqdm"}
HTTP = {"fastapi", "starlette", "uvicorn"}


@pytest.fixture(scope="module")
def contracts(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [contract["name"] for contract in settings["contracts"]]


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the packages and of their contracts."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("*.safetensors", "*.mp4", "__pycache__")
        shutil.copytree(root / package, tmp_path / package, ignore=ignored)
    return tmp_path


def lint(folder):
    """Return the exit status, and the output as one line: long names are wrapped."""
    done = subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, " ".join(done.stdout.split())


def test_packages_keep_every_contract(root, contracts):
    status, report = lint(root)
    assert status == 0, report
    assert f"{len(contracts)} kept, 0 broken" in report


def test_every_contract_has_a_breach(contracts):
    assert list(BREACHES) == contracts


@pytest.mark.parametrize(
    ("contract", "path", "line"),
    [(contract, *breach) for contract, breaches in BREACHES.items() for breach in breaches],
)
def test_a_breach_is_reported(copy, contract, path, line):
    with (copy / path).open("a") as file:
        file.write(f"\n{line}\n")
    status, report = lint(copy)
    assert status == 1
    verdict = re.search(rf"{re.escape(contract)} (KEPT|BROKEN)", report)
    assert verdict is not None, report
    assert verdict[1] == "BROKEN"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("service.app", MODEL | DECODERS | {"worker", "landlock", "pyseccomp"}),
        ("service.__main__", MODEL | DECODERS),
        ("service.openapi", MODEL | DECODERS | {"worker"}),
        ("worker.__main__", MODEL | DECODERS | HTTP | {"service"}),
        ("worker.media", MODEL | HTTP | {"service", "redis", "rq"}),
        ("rollout_core.command", MODEL | DECODERS | HTTP | {"pydantic_settings", "redis", "rq"}),
        ("rollout_core.client", MODEL | DECODERS | HTTP | {"mcp", "numpy", "redis", "rq"}),
        ("rollout_core.explained", MODEL | DECODERS | HTTP | {"redis", "rq"}),
        ("rollout_core.contract", MODEL | DECODERS | HTTP | {"redis", "rq"}),
        ("rollout_core.jobs.redis_records", MODEL | DECODERS | HTTP | {"rq"}),
    ],
)
def test_importing_a_module_loads_no_foreign_package(module, absent):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert absent.isdisjoint(json.loads(output))
