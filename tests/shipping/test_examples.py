import ast
import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from rollout_core.client import RolloutClient
from tests.system.waiting import wait_until

MAX_NOTEBOOK_BYTES = 1_500_000
RESULTS = {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}

ABSOLUTE_PATH = re.compile(r"/(?:home|root|tmp|usr|var|opt|mnt|srv|Users)/")


@pytest.fixture
def notebook(root):
    return json.loads((root / "examples" / "explore_rollout.ipynb").read_text(encoding="utf-8"))


@pytest.fixture
def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs_of(cells):
    return [output for cell in cells for output in cell["outputs"]]


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_script_explains_the_sample_clip(root, tmp_path):
    label = (root / "rollout_core" / "demo" / "sample.label").read_text().strip()
    done = run(root / "examples" / "explain_one_video.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.endswith(f" {label}")
    assert "most relevant patch: row " in done.stdout
    assert {path.name for path in (tmp_path / "rollout-output").iterdir()} == RESULTS


def test_script_reports_an_unusable_video_in_one_line(root, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    done = run(root / "examples" / "explain_one_video.py", "text.mp4", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("explain_one_video: ")
    assert "Traceback" not in done.stderr


def test_code_cells_compile_and_their_imports_resolve(code_cells):
    for cell in code_cells:
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_notebook_runs_and_prints_what_it_shows(code_cells, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells))
    done = run(script, cwd=tmp_path, MPLBACKEND="agg", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    streams = [output for output in outputs_of(code_cells) if output["output_type"] == "stream"]
    shown = "".join("".join(output["text"]) for output in streams)
    assert done.stdout.split() == shown.split()


def test_cells_were_executed_once_in_order(code_cells):
    counts = [cell["execution_count"] for cell in code_cells]
    assert counts == list(range(1, len(code_cells) + 1))


def test_outputs_are_kept_and_hold_no_error(code_cells):
    outputs = outputs_of(code_cells)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)


def test_notebook_holds_no_absolute_path(root, notebook, code_cells):
    for output in outputs_of(code_cells):
        output.get("data", {}).pop("image/png", None)
    text = json.dumps(notebook)
    assert not ABSOLUTE_PATH.search(text)
    assert f"{root}/" not in text


def test_notebook_is_small(root):
    assert (root / "examples" / "explore_rollout.ipynb").stat().st_size < MAX_NOTEBOOK_BYTES


class TestByService:
    """The script that asks a service, with a real one."""

    @pytest.fixture
    def service(self, root, tmp_path):
        command = [sys.executable, "-m", "service", "--standalone", "--engine", "fake"]
        command += ["--model", "fake", "--port", "0", "--data-dir", str(tmp_path / "data")]
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen(
                command,
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                text=True,
            ) as process,
        ):
            try:
                url = next(line.split()[-1] for line in process.stdout if "http://" in line)
                with RolloutClient(url) as client:
                    wait_until(lambda: any(model.ready for model in client.models()), 60)
                yield url
            finally:
                process.terminate()

    def test_script_explains_the_sample_clip(self, root, tmp_path, service):
        script = root / "examples" / "explain_by_service.py"
        done = run(script, cwd=tmp_path, ROLLOUT_URL=service)
        assert done.returncode == 0, done.stderr
        assert "most relevant patch: row " in done.stdout
        assert {path.name for path in (tmp_path / "rollout-output").iterdir()} == RESULTS

    def test_a_service_that_is_away_is_one_line(self, root, tmp_path):
        script = root / "examples" / "explain_by_service.py"
        done = run(script, cwd=tmp_path, ROLLOUT_URL="http://127.0.0.1:9")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("explain_by_service: cannot connect to http://127.0.0.1:9")
