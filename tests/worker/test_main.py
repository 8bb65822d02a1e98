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
    monkeypatch.setattr(main_module, "probe", lambda: found)
    return main_module._confinement(Settings(engine="fake", **settings))


@pytest.mark.parametrize("found", [WHOLE, *PARTS])
def test_sandbox_layers_are_logged_at_start(monkeypatch, caplog, found):
    with caplog.at_level(logging.INFO):
        assert confinement(monkeypatch, found) == found
    assert caplog.messages == [f"media is confined: {found}"]


@pytest.mark.parametrize("found", PARTS)
def test_required_sandbox_layer_missing_ends_the_worker(monkeypatch, found):
    with pytest.raises(SystemExit, match=r"sandbox is incomplete.*no (Landlock|seccomp) here"):
        confinement(monkeypatch, found, require_confinement=True)
    assert confinement(monkeypatch, WHOLE, require_confinement=True) == WHOLE


def test_media_must_reach_the_sandbox_that_was_probed():
    children = main_module._children(Settings(engine="fake"), WHOLE)
    try:
        assert children._media_options.confinement == WHOLE
    finally:
        children.close()
