"""The scripted media process behaves as a real one does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import wire
from worker.child import ChildLost, next_message
from worker.messages import MediaOptions, Render, Working
from worker.scripted_child import ScriptedMedia


@pytest.fixture
def media() -> Iterator[ScriptedMedia]:
    media = ScriptedMedia(MediaOptions())
    yield media
    media.kill()


def test_supervisor_receives_what_the_script_sends(media):
    wire.send(media.script, Working())
    assert next_message(media, Working, lambda: None) == (Working(), {})


def test_script_reads_what_the_supervisor_sent_even_after_a_kill(media):
    order = Render(overlay=None)
    media.send(order)
    media.kill()
    assert wire.receive(media.script) == (order, {})


def test_kill_ends_the_process(media):
    assert media.alive
    media.kill()
    assert not Path(f"/proc/{media.pid}").exists()


def test_closed_script_raises_child_lost(media):
    media.script.close()
    with pytest.raises(ChildLost, match="the media process stopped in the middle of a message"):
        media.receive()
    assert not media.alive
