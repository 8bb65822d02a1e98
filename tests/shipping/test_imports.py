import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

BREACHES = {
    "rollout_core/jobs/store.py": "import redis",
    "service/jobs.py": "import torch",
    "worker/task.py": "import service.schemas",
}


def lint(folder):
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_rooms_keep_to_their_arrows(root):
    done = lint(root)
    assert done.returncode == 0, done.stdout


def test_each_breach_is_noticed(root, tmp_path):
    shutil.copy(root / "pyproject.toml", tmp_path)
    for room in ("rollout_core", "service", "worker"):
        shutil.copytree(
            root / room, tmp_path / room, ignore=shutil.ignore_patterns("*.safetensors")
        )
    for path, line in BREACHES.items():
        with (tmp_path / path).open("a") as file:
            file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "0 kept, 3 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("service.app", {"torch", "timm", "einops", "av", "PIL", "worker"}),
        ("service.__main__", {"torch", "timm", "einops", "av", "PIL"}),
        ("worker.__main__", {"torch", "timm", "service", "fastapi"}),
        ("rollout_core.contract", {"torch", "av", "redis", "rq", "fastapi"}),
    ],
)
def test_importing_loads_nothing_of_the_other_rooms(module, absent):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert absent.isdisjoint(json.loads(output))
