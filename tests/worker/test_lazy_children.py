import numpy as np
import pytest

from tests.system.processes import is_alive
from worker import fake_engine
from worker.child import next_message
from worker.fake_engine import SPECS
from worker.lazy_children import LazyChildren
from worker.messages import EngineOptions, Explain, Explained, MediaOptions, Ready


@pytest.fixture
def children():
    children = LazyChildren(
        "fake",
        EngineOptions(model="fake-slow"),
        MediaOptions(),
        load_seconds=30,
        model=fake_engine.expected("fake-slow", None),
    )
    yield children
    children.close()


def children_of(process) -> list[int]:
    return [process.engine.pid, process.template.pid]


def test_asleep_they_are_ready_and_have_no_process(children):
    assert children.ready
    assert children.engine.require_model().spec == SPECS["fake-slow"]
    assert not children.engine.busy
    children.restart_dead()
    with pytest.raises(AttributeError):
        children_of(children)


def test_awake_they_are_as_any_others(children):
    children.wake()
    pids = children_of(children)
    assert all(map(is_alive, pids))
    ready, _ = next_message(children.engine, Ready, lambda: None)
    expected = fake_engine.expected("fake-slow", None)
    assert ready.model_copy(update={"clip_seconds": 0}) == expected
    children.engine.send(Explain(), frames=np.zeros((1, 8, 64, 64, 3), np.uint8))
    next_message(children.engine, Explained, lambda: None)

    children.wake()
    assert children_of(children) == pids
    media = children.take_media()
    assert is_alive(media.pid)
    media.kill()


def test_they_can_be_closed_asleep_and_awake(children):
    children.close()
    children.wake()
    pids = children_of(children)
    children.close()
    assert not any(map(is_alive, pids))
