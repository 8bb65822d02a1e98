from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.children import next_message
from worker.crew import Crew
from worker.messages import EngineOptions, MediaOptions, Ready


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    yield crew
    crew.close()


def load(crew: Crew) -> None:
    next_message(crew.engine, Ready, lambda: None)


def test_a_crew_is_ready_once_its_engine_has_loaded(crew):
    assert not crew.ready
    load(crew)
    assert crew.ready


def test_a_crew_whose_engine_died_is_not_ready_until_it_is_mended(crew):
    load(crew)
    dead = crew.engine
    dead.kill()
    assert not crew.ready
    crew.mend()
    assert crew.engine is not dead
    load(crew)
    assert crew.ready


def test_a_live_engine_needs_no_mending(crew):
    engine = crew.engine
    crew.mend()
    assert crew.engine is engine


def test_every_job_has_a_media_process_of_its_own_that_was_started_before(crew):
    first = crew.take_media()
    second = crew.take_media()
    assert first.pid != second.pid
    assert first.alive
    assert second.alive
    first.kill()
    second.kill()


def test_a_media_process_that_died_while_it_waited_is_replaced(crew):
    crew._spare_media.kill()
    media = crew.take_media()
    assert media.alive
    media.kill()


def test_closing_leaves_no_process_behind():
    crew = Crew("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    pids = [crew.engine.pid, crew._spare_media.pid]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    crew.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
