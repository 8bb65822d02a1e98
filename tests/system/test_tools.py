import pytest

from tests.system.tools import require_tool

MISSING = "a-program-that-does-not-exist"


def test_an_installed_program_is_found():
    assert require_tool("sh").endswith("/sh")


def test_a_missing_program_skips_at_a_users(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        require_tool(MISSING)


def test_a_missing_program_fails_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        require_tool(MISSING)
