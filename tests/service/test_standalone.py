"""The private Valkey server and `RestartingProcess`, with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from rollout_core.command import UNUSABLE_STATUS
from service import standalone as standalone_module
from service.settings import Settings
from service.standalone import (
    GRACE_SECONDS,
    WORKER_DRAIN_SECONDS,
    RestartingProcess,
    StandaloneError,
    default_model,
    private_valkey,
    standalone,
    valkey_command,
    worker_command,
)
from tests.system.processes import is_alive
from tests.system.waiting import wait_until


@contextmanager
def connected(url):
    with Redis.from_url(url) as redis:
        yield redis


class TestPrivateValkey:
    @pytest.mark.parametrize("name", ["data", "my data", "ünïcode", "long" * 40])
    def test_it_keeps_its_data_below_any_folder(self, tmp_path, name):
        folder = tmp_path / name / "valkey"

        for expected in (None, b"kept"):
            with private_valkey(folder) as url, connected(url) as redis:
                assert redis.get("key") == expected
                assert redis.config_get("appendonly") == {"appendonly": "yes"}
                assert redis.config_get("port") == {"port": "0"}
                assert folder.stat().st_mode & 0o077 == 0
                redis.set("key", "kept")

        assert (folder / "appendonlydir").is_dir()

    def test_it_is_stopped_at_the_end(self, tmp_path):
        with private_valkey(tmp_path) as url, connected(url) as redis:
            pid = redis.info("server")["process_id"]
            assert is_alive(pid)

        assert not is_alive(pid)
        with connected(url) as redis, pytest.raises(RedisConnectionError):
            redis.ping()

    def test_it_is_stopped_after_an_error(self, tmp_path):
        pids = []

        def run():
            with private_valkey(tmp_path) as url, connected(url) as redis:
                pids.append(redis.info("server")["process_id"])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run()
        assert not is_alive(pids[0])

    def test_only_one_service_may_use_a_folder(self, tmp_path):
        with (
            private_valkey(tmp_path),
            pytest.raises(StandaloneError, match="another service"),
            private_valkey(tmp_path),
        ):
            pass

    def test_a_server_left_behind_is_ended(self, tmp_path):
        with subprocess.Popen(valkey_command(tmp_path), stdout=subprocess.DEVNULL) as orphan:
            wait_until((tmp_path / "valkey.sock").exists)
            with connected(f"unix://{tmp_path}/valkey.sock") as redis:
                redis.set("key", "kept")

            with private_valkey(tmp_path) as url, connected(url) as redis:
                assert redis.info("server")["process_id"] != orphan.pid
                assert redis.get("key") == b"kept"
            assert orphan.wait(10) == 0

    def test_a_server_that_does_not_start(self, tmp_path):
        manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
        manifest.parent.mkdir()
        manifest.write_text("nonsense")

        with pytest.raises(StandaloneError, match=r"valkey\.log"), private_valkey(tmp_path):
            pass

        assert "manifest" in (tmp_path / "valkey.log").read_text()

    def test_the_terminals_interrupt_does_not_reach_it(self, tmp_path):
        with private_valkey(tmp_path) as url, connected(url) as redis:
            pid = redis.info("server")["process_id"]
            assert os.getsid(pid) == pid

    def test_it_is_started_again_with_its_data_when_it_dies(self, tmp_path, monkeypatch):
        monkeypatch.setattr(standalone_module, "RESTART_SECONDS", 0.05)

        def answers():
            with suppress(RedisError):
                return redis.ping()

        with private_valkey(tmp_path) as url, connected(url) as redis:
            redis.set("key", "kept")
            os.kill(redis.info("server")["process_id"], signal.SIGKILL)
            wait_until(lambda: not answers())
            wait_until(answers)
            assert redis.get("key") == b"kept"


class TestRestartingProcess:
    @staticmethod
    def command(path, then="time.sleep(60)"):
        """Return a command that writes its process id below `path`, then runs a statement."""
        code = f"import os, time, signal; open('{path}/' + str(os.getpid()), 'w'); {then}"
        return [sys.executable, "-c", code]

    def test_it_starts_and_stops_a_process(self, tmp_path):
        with RestartingProcess("process", self.command(tmp_path)):
            wait_until(lambda: list(tmp_path.iterdir()))
            (pid,) = [int(path.name) for path in tmp_path.iterdir()]
            assert is_alive(pid)
            assert os.getsid(pid) == pid  # out of the terminal's reach

        assert not is_alive(pid)

    def test_it_restarts_a_process_that_ended(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(standalone_module, "RESTART_SECONDS", 0.05)
        monkeypatch.setattr(standalone_module, "POLL_SECONDS", 0.02)

        with RestartingProcess("process", self.command(tmp_path, "os._exit(3)")):
            wait_until(lambda: len(list(tmp_path.iterdir())) >= 3)

        assert "ended with exit status 3" in caplog.text
        assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())

    def test_it_gives_up_a_process_that_cannot_run_with_its_settings(self, tmp_path, monkeypatch):
        monkeypatch.setattr(standalone_module, "POLL_SECONDS", 0.02)
        given_up = threading.Event()

        command = self.command(tmp_path, f"os._exit({UNUSABLE_STATUS})")
        with RestartingProcess("process", command, give_up=given_up.set) as process:
            assert given_up.wait(30)

        assert process.is_unusable
        assert len(list(tmp_path.iterdir())) == 1

    def test_it_kills_a_process_that_does_not_stop(self, tmp_path, monkeypatch):
        monkeypatch.setattr(standalone_module, "GRACE_SECONDS", 0.2)
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('{}/deaf', 'w'); time.sleep(60)"

        with RestartingProcess("process", self.command(tmp_path, deaf.format(tmp_path))):
            wait_until((tmp_path / "deaf").exists)

        pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
        assert not is_alive(pids[0])

    def test_it_does_not_wait_out_the_pause_before_a_restart(self, tmp_path, monkeypatch):
        monkeypatch.setattr(standalone_module, "RESTART_SECONDS", 60)

        with RestartingProcess("process", self.command(tmp_path, "os._exit(0)")):
            wait_until(lambda: list(tmp_path.iterdir()))
            time.sleep(2 * standalone_module.POLL_SECONDS)

        assert len(list(tmp_path.iterdir())) == 1

    def test_the_process_ends_if_its_parent_is_killed(self, tmp_path):
        code = (
            "import os, pathlib, sys, time\n"
            "from service.standalone import RestartingProcess\n"
            f"with RestartingProcess('process', {self.command(tmp_path)!r}):\n"
            f"    while not list(pathlib.Path({str(tmp_path)!r}).iterdir()): time.sleep(0.01)\n"
            "    os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", code], check=False)

        (pid,) = [int(path.name) for path in tmp_path.iterdir()]
        wait_until(lambda: not is_alive(pid))


class TestStandalone:
    def test_service_ends_if_its_worker_cannot_load_the_model(self, tmp_path):
        command = [sys.executable, "-m", "service", "--standalone", "--port", "0"]
        command += ["--data-dir", str(tmp_path), "--engine", "fake", "--model", "nothing"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr.count("rollout-worker: cannot load nothing") == 1
        assert "the worker cannot run with these settings" in done.stderr
        assert "Traceback" not in done.stderr

    def test_without_the_worker_installed_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(standalone_module, "find_spec", lambda _: None)

        with (
            pytest.raises(StandaloneError, match=r"\[worker\]"),
            standalone(Settings(data_dir=tmp_path)),
        ):
            pass
        assert list(tmp_path.iterdir()) == []


class TestWorkerCommand:
    def test_the_settings_become_flags(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        settings = Settings(
            redis_url="unix:///s",
            data_dir=Path("d"),
            engine="fake",
            model="fake-slow",
            device="cpu",
            log_format="json",
            log_level="debug",
        )

        command = worker_command(settings)

        assert WORKER_DRAIN_SECONDS < GRACE_SECONDS
        assert command[1:] == [
            *("-m", "worker", "--redis-url", "unix:///s", "--redis-password-file", "None"),
            *("--data-dir", str(tmp_path / "d")),
            *("--engine", "fake", "--device", "cpu"),
            *("--drain-seconds", str(WORKER_DRAIN_SECONDS)),
            *("--log-format", "json", "--log-level", "debug", "--model", "fake-slow"),
        ]

    def test_the_worker_chooses_its_own_model(self):
        assert "--model" not in worker_command(Settings())


class TestDefaultModel:
    def test_of_all_scripted_models_it_is_the_plain_one(self):
        assert default_model(Settings(engine="fake")) == "fake"

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"engine": "fake", "model": "fake-slow"}, None),
            ({"engine": "fake", "default_model": "fake-slow"}, "fake-slow"),
            ({"engine": "torch"}, None),
        ],
    )
    def test_it_is_left_alone_otherwise(self, settings, expected):
        assert default_model(Settings(**settings)) == expected
