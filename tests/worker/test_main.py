import logging

import pytest

from worker import __main__ as main_module
from worker.messages import Confinement
from worker.settings import Settings

WHOLE = Confinement(landlock_abi=4, seccomp=True)
PARTS = [
    Confinement(landlock_abi=None, seccomp=True),
    Confinement(landlock_abi=4, seccomp=False),
]


def confinement(monkeypatch, found: Confinement, **settings: object) -> Confinement:
    monkeypatch.setattr(main_module, "try_confinement", lambda: found)
    return main_module._confinement(Settings(engine="fake", **settings))


@pytest.mark.parametrize("found", [WHOLE, *PARTS])
def test_what_confines_media_is_told_at_the_start(monkeypatch, caplog, found):
    with caplog.at_level(logging.INFO):
        assert confinement(monkeypatch, found) == found
    assert caplog.messages == [f"media is confined: {found}"]


@pytest.mark.parametrize("found", PARTS)
def test_a_worker_that_must_confine_media_wholly_leaves_where_it_cannot(monkeypatch, found):
    with pytest.raises(SystemExit, match=r"not confined enough.*no (Landlock|seccomp) here"):
        confinement(monkeypatch, found, require_confinement=True)
    assert confinement(monkeypatch, WHOLE, require_confinement=True) == WHOLE


def test_a_message_can_neither_forge_a_line_of_the_log_nor_command_a_terminal():
    said = "job 1: é\r\n12:00:00 worker: forged \x1b[2J\x9b\u202e\u2028"
    record = logging.LogRecord("worker", logging.INFO, "", 0, "%s", (said,), None)
    line = main_module.LineFormatter("%(name)s: %(message)s").format(record)
    assert line == r"worker: job 1: é\r\n12:00:00 worker: forged \x1b[2J\x9b\u202e\u2028"


def test_media_is_held_to_what_was_found():
    children = main_module._children(Settings(engine="fake"), WHOLE)
    try:
        assert children._media_options.confinement == WHOLE
    finally:
        children.close()
