"""What an attempt does with children that do not keep to the script."""

from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest
from rollout_core.errors import AttemptLost, DeadlineExceeded
from worker import wire
from worker.attempt import Assignment, Attempt, Canceled
from worker.children import ChildLost, Media, next_message
from worker.crew import Crew
from worker.messages import (
    Clip,
    EngineOptions,
    Explain,
    MediaOptions,
    Opened,
    Ready,
    Render,
    Rendered,
)

OPENED = Opened(
    clips=2, crop=(0, 0, 9, 9), sampling="uniform", start_seconds=0, end_seconds=2, seconds=0.25
)
CLIP = {
    "frames": np.zeros((8, 64, 64, 3), np.uint8),
    "pts_seconds": np.arange(8.0),
    "frame_index": np.arange(8),
}


class Ledger:
    """Remembers beats, and answers or raises what it is told to."""

    def __init__(self) -> None:
        self.beats: list[tuple[str, int, str]] = []
        self.answer: bool | Exception = False

    def beat(self, job_id: str, attempt: int, progress) -> bool:
        self.beats.append((job_id, attempt, progress.stage))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class ScriptedCrew(Crew):
    """A crew with a real engine, whose media process says what the test has put on the wire."""

    def __init__(self, model: str = "fake") -> None:
        super().__init__("fake", EngineOptions(model=model), MediaOptions(), load_seconds=30)
        ours, self.script = Pipe()
        self._scripted = Media(MediaOptions())
        self._scripted.connection.close()
        self._scripted.connection = ours

    def take_media(self) -> Media:
        return self._scripted

    def close(self) -> None:
        self.script.close()
        self._scripted.kill()
        super().close()


@pytest.fixture
def crew() -> Iterator[ScriptedCrew]:
    crew = ScriptedCrew()
    yield crew
    crew.close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def prepare(crew, ledger, tmp_path):
    def prepare(deadline_seconds: float = 20.0, crew: Crew = crew) -> Attempt:
        job = Assignment(
            id="1" * 32,
            attempt=2,
            request=ExplainRequest(model="fake", overlay=None),
            upload=tmp_path / "video",
            folder=tmp_path,
            deadline_seconds=deadline_seconds,
            engine_timeout_seconds=10.0,
        )
        return Attempt(job, crew, ledger, lambda: None)

    return prepare


def play(script: Connection, clips: int = 2, **changes: np.ndarray) -> None:
    wire.send(script, OPENED)
    for _ in range(clips):
        wire.send(script, Clip(seconds=0.5), **(CLIP | changes))


def test_a_script_that_is_kept_to_gives_a_result(prepare, crew, tmp_path):
    play(crew.script)
    (tmp_path / "sheet.png").write_bytes(b"picture")
    wire.send(crew.script, Rendered(done=1, total=2, seconds=0.1, finished=False))
    wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
    result = prepare().run()
    assert (result.clips, result.frames, result.attempt) == (2, 16, 2)
    assert result.timings_seconds["decode"] == 0.25 + 2 * 0.5
    assert result.timings_seconds["render"] == 0.75
    assert result.timings_seconds["total"] > 0
    assert result.request.end_seconds == 2
    assert [item.name for item in result.artifacts] == ["rollout.npz", "sheet.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": np.zeros((8, 64, 65, 3), np.uint8)},
        {"frames": np.zeros((9, 64, 64, 3), np.uint8)},
        {"pts_seconds": np.arange(8, dtype=np.float32)},
        {"pts_seconds": np.arange(7.0)},
        {"pts_seconds": np.full(8, np.nan)},
        {"frame_index": np.arange(8.0)},
        {"more": np.zeros(1)},
    ],
)
def test_a_clip_that_is_not_one_is_an_offence(prepare, crew, changes):
    play(crew.script, 1, **changes)
    with pytest.raises(ChildLost, match="the media process sent a clip that is none"):
        prepare().run()


def test_answers_out_of_turn_are_an_offence(prepare, crew):
    wire.send(crew.script, Rendered(done=1, total=1, seconds=1, finished=True))
    with pytest.raises(ChildLost, match="sent 'rendered'"):
        prepare().run()


def test_media_is_told_what_was_found_in_order(prepare, crew):
    play(crew.script, 1)
    second = CLIP | {
        "frames": np.full((8, 64, 64, 3), 9, np.uint8),
        "frame_index": np.arange(8, 16),
    }
    wire.send(crew.script, Clip(seconds=0.5), **second)
    wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
    with pytest.raises(FileNotFoundError):  # nobody has drawn sheet.png
        prepare().run()
    opened, _ = wire.receive(crew.script)
    assert opened.request == ExplainRequest(model="fake", overlay=None)
    order, arrays = wire.receive(crew.script)
    assert isinstance(order, Render)
    assert arrays["frame_index"].tolist() == [list(range(8)), list(range(8, 16))]
    assert arrays["relevance"].shape == (2, 8, 8, 8)


def test_the_first_beat_is_at_once_and_each_stage_is_told(prepare, crew, ledger):
    play(crew.script)
    wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
    with pytest.raises(FileNotFoundError):
        prepare().run()
    assert {beat[:2] for beat in ledger.beats} == {("1" * 32, 2)}
    assert list(dict.fromkeys(beat[2] for beat in ledger.beats)) == ["decode", "explain", "render"]


def test_a_cancellation_stops_it_before_the_next_clip(prepare, crew, ledger):
    ledger.answer = True
    play(crew.script)
    with pytest.raises(Canceled):
        prepare().run()
    assert not crew.engine.busy


def test_a_lost_job_stops_it(prepare, crew, ledger):
    ledger.answer = AttemptLost("gone")
    with pytest.raises(AttemptLost):
        prepare().run()


def test_redis_being_away_does_not_stop_it(prepare, crew, ledger, tmp_path):
    ledger.answer = RedisConnectionError("away")
    play(crew.script)
    (tmp_path / "sheet.png").write_bytes(b"picture")
    wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
    assert prepare().run().clips == 2
    assert ledger.beats


def test_the_deadline_stops_it(prepare, crew):
    with pytest.raises(DeadlineExceeded, match=r"not done after 0\.5 seconds"):
        prepare(deadline_seconds=0.5).run()


def test_an_answer_left_over_from_a_former_job_is_not_taken_for_ours(prepare, crew, tmp_path):
    next_message(crew.engine, Ready, lambda: None)
    stale = np.random.default_rng(0).integers(0, 256, (1, 8, 64, 64, 3), np.uint8)
    crew.engine.send(Explain(head_fusion="max", discard_ratio=0, start_layer=0), frames=stale)
    crew.engine.expect(10)
    play(crew.script)
    (tmp_path / "sheet.png").write_bytes(b"picture")
    wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
    prepare().run()
    with np.load(tmp_path / "rollout.npz") as found:
        np.testing.assert_array_equal(found["relevance"][0], found["relevance"][1])
        assert np.ptp(found["relevance"]) < 1e-6  # of still frames, which ours are


def test_a_failure_left_over_from_a_former_job_is_not_taken_for_ours(prepare, ledger, tmp_path):
    crew = ScriptedCrew()
    try:
        next_message(crew.engine, Ready, lambda: None)
        frames = np.zeros((1, 8, 64, 64, 3), np.uint8)
        crew.engine.send(Explain(head_fusion="max", discard_ratio=0, start_layer=9), frames=frames)
        crew.engine.expect(10)
        play(crew.script)
        (tmp_path / "sheet.png").write_bytes(b"picture")
        wire.send(crew.script, Rendered(done=2, total=2, seconds=0.75, finished=True))
        assert prepare(crew=crew).run().clips == 2
    finally:
        crew.close()


def test_an_engine_that_cannot_load_is_lost_not_the_jobs_fault(prepare):
    crew = ScriptedCrew("no such model")
    try:
        with pytest.raises(ChildLost, match="the engine cannot load its model: no fake is called"):
            prepare(crew=crew).run()
    finally:
        crew.close()
