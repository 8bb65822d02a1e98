"""The command `rollout-client` as a process, with the real service."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rollout_core.client.command import _how_to_go_on, make_parser
from rollout_core.client.submitting import Task

RESULT = {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}
COMMAND = (sys.executable, "-m", "rollout_core.client")


@pytest.fixture
def url(system):
    return str(system.client.base_url)


@pytest.fixture
def environment(url, tmp_path):
    return os.environ | {"ROLLOUT_URL": url, "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def run(environment, tmp_path):
    def run(*arguments, **changes):
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=environment | changes,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        return SimpleNamespace(status=done.returncode, lines=lines, err=done.stderr.splitlines())

    return run


def names_in(folder):
    return {path.name for path in folder.iterdir()}


class TestSubmit:
    def test_a_video_is_explained_and_its_files_fetched(self, run, film, tmp_path):
        done = run("submit", film, "--model", "fake", "--method", "attention", "--layer", "1")
        assert done.status == 0, done.err
        (line,) = done.lines
        assert line.startswith(f"{film}: ")
        assert line.endswith("% → rollout-output/drift")
        assert names_in(tmp_path / "rollout-output" / "drift") == RESULT
        request = json.loads((tmp_path / "rollout-output/drift/result.json").read_text())["request"]
        assert (request["method"], request["layer"]) == ("attention", 1)
        assert f"{film}: uploading" in done.err
        assert any("job " in line for line in done.err)
        assert not any("\x1b" in line for line in done.err)

    def test_one_that_fails_does_not_stop_the_others(self, run, film, tmp_path):
        folder = tmp_path / "videos"
        (folder / "deep").mkdir(parents=True)
        shutil.copy(film, folder / "a.mp4")
        shutil.copy(film, folder / "deep" / "a.MP4")
        (folder / "b.mp4").write_text("no video " * 99)
        (folder / "notes.txt").write_text("not taken")
        done = run("submit", folder, "-o", "out", "--model", "fake", "--artifact", "sheet.png")
        assert done.status == 1
        assert len(done.lines) == 3
        (bad,) = [line for line in done.lines if "b.mp4" in line]
        assert "Not a video container that is supported" in bad
        assert done.err[-1] == "rollout-client: 1 of 3 videos failed"
        assert names_in(tmp_path / "out") == {"a", "deep"}
        assert names_in(tmp_path / "out" / "deep" / "a") == {"sheet.png"}

    def test_a_job_that_fails_is_one_line_and_a_status(self, run, film):
        done = run("submit", film, "--model", "fake-fail")
        assert done.status == 1
        (line,) = done.lines
        assert "The model ran out of memory" in line

    def test_without_waiting_it_names_the_job(self, run, film, system):
        done = run("submit", film, "--model", "fake", "--no-wait", "--json")
        (answer,) = map(json.loads, done.lines)
        assert (done.status, answer["files"], answer["error"]) == (0, [], None)
        assert system.wait(answer["job"]["id"])["state"] == "succeeded"
        assert done.err == []

    def test_json_is_one_document_a_video(self, run, film, tmp_path):
        (tmp_path / "bad.mp4").write_text("no video " * 99)
        done = run("submit", film, "bad.mp4", "--model", "fake", "--json", "-o", "out")
        answers = {answer["source"]: answer for answer in map(json.loads, done.lines)}
        good, bad = answers[str(film)], answers["bad.mp4"]
        assert (good["job"]["state"], good["error"]) == ("succeeded", None)
        assert {name.rpartition("/")[2] for name in good["files"]} == RESULT
        assert (bad["job"], bad["error"]["code"]) == (None, "video_container_unsupported")
        assert bad["error"]["status"] == 415
        assert done.status == 1

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--layer", "3"), "layer is for attention"),
            (("--discard-ratio", "2"), "discard_ratio: "),
            (("--query", "nonsense"), "query: 'nonsense' is not cls"),
            (("--no-overlay", "--overlay.opacity", "1"), "--no-overlay does not go with"),
        ],
    )
    def test_a_wrong_flag_is_refused_before_anything_is_sent(self, run, film, arguments, text):
        done = run("submit", film, *arguments, ROLLOUT_URL="http://127.0.0.1:9")
        assert (done.status, done.lines) == (2, [])
        assert done.err[-1].startswith("rollout-client: ")
        assert text in done.err[-1]

    def test_a_misspelt_variable_is_told(self, run):
        done = run("models", ROLLOUT_ULR="http://127.0.0.1:9")
        assert done.status == 0
        assert done.err == [
            "rollout-client: there is no setting ROLLOUT_ULR; did you mean ROLLOUT_URL?"
        ]

    def test_an_unknown_artifact_is_refused_before_anything_is_sent(self, run, film):
        done = run("submit", film, "--artifact", "shee.png", ROLLOUT_URL="http://127.0.0.1:9")
        assert (done.status, done.lines) == (2, [])
        assert "invalid choice: 'shee.png'" in done.err[-1]
        assert "sheet.png" in done.err[-1]

    def test_a_missing_file_and_an_empty_folder_are_named(self, run, tmp_path):
        (tmp_path / "empty").mkdir()
        assert run("submit", "nowhere.mp4").err == [
            "rollout-client: nowhere.mp4: No such file or folder"
        ]
        done = run("submit", "empty")
        assert (done.status, done.err) == (1, ["rollout-client: empty: No video in this folder"])

    def test_a_service_that_is_away_is_one_line(self, run, film):
        done = run("models", ROLLOUT_URL="http://127.0.0.1:9")
        assert done.status == 1
        (line,) = done.err
        assert line.startswith("rollout-client: cannot connect to http://127.0.0.1:9: ")


class TestInterrupt:
    def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(
        self, environment, film, tmp_path, system, run
    ):
        process = subprocess.Popen(
            [*COMMAND, "submit", str(film), "--model", "fake-hang", "-o", "out"],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while "decode" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        lines = err.splitlines()
        assert "Traceback" not in err
        assert lines[-3] == "rollout-client: interrupted"
        words = lines[-1].split()
        assert words[:5] == ["rollout-client", "show", "--follow", "-o", "out/drift"]
        assert system.job(words[5])["state"] == "running"
        assert run("cancel", words[5]).status == 0
        assert system.wait(words[5])["state"] == "canceled"

    @pytest.mark.parametrize("key", [["--api-key", "secret"], ["--api-key=secret"]])
    def test_what_is_said_has_no_key(self, key):
        given = ["submit", *key, "--model", "fake", "a.mp4"]
        arguments = make_parser().parse_args(given)
        arguments.given = given

        *_, command = _how_to_go_on(arguments, [Task("a.mp4", Path("out"))])

        assert command.split() == ["rollout-client", "submit", "--model", "fake", "a.mp4"]

    def test_a_command_can_be_continued(self, run, film, tmp_path):
        (answer,) = map(
            json.loads, run("submit", film, "--model", "fake", "--no-wait", "--json").lines
        )
        done = run("show", "--follow", "-o", "out/drift", answer["job"]["id"])
        assert done.status == 0
        assert names_in(tmp_path / "out" / "drift") == RESULT


class TestJobs:
    def test_jobs_are_listed_shown_canceled_and_deleted(self, run, film):
        (answer,) = map(
            json.loads, run("submit", film, "--model", "fake-hang", "--no-wait", "--json").lines
        )
        job_id = answer["job"]["id"]
        table = run("jobs", "--limit", "3").lines
        assert table[0].split()[:2] == ["ID", "STATE"]
        assert table[1].split()[0] == job_id
        assert json.loads(run("jobs", "--json", "--limit", "1").lines[0])["id"] == job_id
        assert run("show", job_id).lines[0].split() == ["job:", job_id]
        assert json.loads(run("show", job_id, "--json").lines[0])["id"] == job_id
        assert run("cancel", job_id).lines[0].startswith(job_id)
        done = run("delete", job_id, "f" * 32)
        assert (done.status, done.lines) == (1, [f"{job_id}: deleted"])
        assert done.err == [f"rollout-client: {'f' * 32}: {done.err[0].partition('f: ')[2]}"]
        assert "No such job" in done.err[0]
        missing = run("show", job_id)
        assert missing.status == 1
        assert "No such job" in missing.err[0]

    def test_errors_of_single_jobs_are_json_too(self, run):
        done = run("delete", "f" * 32, "--json")
        (answer,) = map(json.loads, done.lines)
        assert (done.status, answer["error"]["code"]) == (1, "job_not_found")

    def test_models_are_listed(self, run):
        lines = run("models").lines
        assert {line.split()[0] for line in lines[1:]} == {"fake", "fake-fail", "fake-hang"}
        assert {json.loads(line)["name"] for line in run("models", "--json").lines} >= {"fake"}

    def test_a_reader_that_leaves_is_no_error(self, environment):
        done = subprocess.run(
            f"{' '.join(COMMAND)} models --json | head -n 0",
            shell=True,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""


class TestTerminal:
    def test_progress_is_drawn_and_removed(self, environment, film, tmp_path):
        """On a terminal: bars on standard error, and only the result left at the end."""
        terminal, end = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "submit", str(film), "--model", "fake"],
            env=environment | {"COLUMNS": "120"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=end,
            text=True,
        )
        os.close(end)
        drawn = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    drawn += os.read(terminal, 65_536)
                except OSError:  # the other end is closed
                    break
        out, _ = process.communicate(timeout=30)
        os.close(terminal)
        assert process.returncode == 0
        assert out.endswith("rollout-output/drift\n")
        assert b"100% [########################]" in drawn
        assert drawn.rstrip().endswith(b"\x1b[J")


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_shell_gets_a_script_that_it_can_read(self, run, shell, tmp_path):
        done = run("completion", shell)
        script = "\n".join(done.lines)
        assert done.status == 0
        assert "--head-fusion" in script or "head-fusion" in script
        if shutil.which(shell):
            (tmp_path / "script").write_text(script)
            checked = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True)
            assert (checked.returncode, checked.stderr) == (0, b"")

    def test_bash_completes_commands_flags_and_choices(self, run):
        script = "\n".join(run("completion", "bash").lines)

        def complete(*words):
            line = " ".join(words)
            ask = (
                f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
                f"_shtab_rollout_client rollout-client '{words[-1]}' '{words[-2]}'; "
                'printf "%s\\n" "${COMPREPLY[@]}"'
            )
            done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
            return done.stdout.split()

        assert "cancel" in complete("rollout-client", "c")
        assert "--head-fusion" in complete("rollout-client", "submit", "--head")
        assert complete("rollout-client", "submit", "--clips", "t") == ["tile"]


def test_every_command_has_json_and_help():
    (commands,) = [a for a in make_parser()._actions if hasattr(a, "choices") and a.choices]
    for name, command in commands.choices.items():
        assert "Traceback" not in command.format_help()
        assert ("--json" in command.format_help()) == (name not in ("completion",))
