import os
import sys

import pytest

from tests.containers.site import (
    BASE,
    CPU,
    ROOT,
    CommandError,
    Site,
    clean_environment,
    copy_checkout,
    wait_until,
)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path, dict(os.environ), "127.0.0.1:1")


def test_a_copy_has_the_files_as_they_are_and_nothing_that_git_ignores(tmp_path):
    copy_checkout(tmp_path / "copy")
    for name in (*CPU, "Dockerfile", "rollout_core/demo/sample.mp4"):
        assert (tmp_path / "copy" / name).read_bytes() == (ROOT / name).read_bytes()
    assert not (tmp_path / "copy" / ".venv").exists()


def test_a_command_that_fails_says_why(site):
    with pytest.raises(CommandError, match="no such thing"):
        site.run(sys.executable, "-c", "raise SystemExit('no such thing')")
    assert site.run("sh", "-c", "pwd").strip() == str(site.folder)


def test_settings_are_written_under_their_names(site):
    site.write_settings(page="false", fake_model="fake-slow")
    assert (
        site.folder / ".env"
    ).read_text() == "ROLLOUT_PAGE=false\nROLLOUT_FAKE_MODEL=fake-slow\n"


def test_other_files_and_variables_are_of_another_site(site):
    other = site.with_files(CPU).with_variables(ROLLOUT_API_KEYS="keys.toml")
    assert (site.files, other.files) == (BASE, CPU)
    assert other.environment["ROLLOUT_API_KEYS"] == "keys.toml"
    assert "ROLLOUT_API_KEYS" not in site.environment


def test_settings_of_the_shell_do_not_count(monkeypatch):
    monkeypatch.setenv("ROLLOUT_PAGE", "false")
    assert "ROLLOUT_PAGE" not in clean_environment()
    assert "PATH" in clean_environment()


def test_waiting_ends(monkeypatch):
    wait_until(lambda: True, 0, "never")
    with pytest.raises(CommandError, match="the API is ready: not within 0 s"):
        wait_until(lambda: False, 0, "the API is ready")
