"""Attempts with a real fake engine, and a media process whose messages each test writes."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core import archive
from rollout_core.archive import Archive
from rollout_core.contract import (
    ARCHIVE_NAME,
    ExplainRequest,
    PatchQuery,
    Target,
    VideoWarning,
)
from rollout_core.errors import AttemptLost, DeadlineExceeded, InvalidRequest, TooMuchWork
from rollout_core.relevance.faithfulness import FILLS, STEPS
from tests.rollout_core.sources import SOURCE
from tests.worker.orders import explain_order
from worker import attempt as attempt_module
from worker import fake_engine, wire
from worker.attempt import Attempt, AttemptInput
from worker.child import ChildLost, next_message
from worker.children import Children
from worker.fake_engine import SPECS
from worker.heartbeat import Canceled, Heartbeat
from worker.messages import (
    Clip,
    Decoded,
    EngineOptions,
    Explain,
    Explained,
    MediaOptions,
    Opened,
    Perturbed,
    Ready,
    Render,
    Rendered,
    Working,
)
from worker.scripted_child import ScriptedMedia

OPENED = Opened(clips=2, crop=(0, 0, 80, 80), sampling="uniform", start_seconds=0, end_seconds=16)
DECODED = Decoded(source=SOURCE)
TIMES = np.arange(16.0).reshape(2, 8)
CLIP = {
    "frames": np.zeros((8, 64, 64, 3), np.uint8),
    "pts_seconds": np.arange(8.0),
    "frame_index": np.arange(8),
}


class FakeRecords:
    """Stands in for `RetryingRecords`: notes each heartbeat, and returns or raises `answer`."""

    def __init__(self) -> None:
        self.beats: list[tuple[str, int, str]] = []
        self.answer: bool | Exception = False

    def beat(self, job_id: str, attempt: int, progress, token=None) -> bool:
        self.beats.append((job_id, attempt, progress.stage))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class ScriptedChildren(Children):
    """A fake engine, and a media process that sends what the test writes to `script`."""

    def __init__(self, model: str = "fake", batch_clips: int | None = None) -> None:
        options = EngineOptions(model=model, batch_clips=batch_clips)
        media = ScriptedMedia(MediaOptions())
        super().__init__(
            "fake", options, media.options, load_seconds=30, start_media=lambda _: media
        )
        self.media, self.script = media, media.script
        wire.send(self.script, Working())

    def close(self) -> None:
        """Stop the engine, and kill the media process, which a test may not have taken."""
        self.media.kill()
        super().close()


@pytest.fixture
def children() -> Iterator[ScriptedChildren]:
    children = ScriptedChildren()
    yield children
    children.close()


@pytest.fixture
def records() -> FakeRecords:
    return FakeRecords()


@pytest.fixture
def prepare(children, records, tmp_path):
    def prepare(
        deadline_seconds: float = 120.0,
        children: Children = children,
        engine_timeout_seconds: float | None = 10.0,
        media_timeout_seconds: float = 10.0,
        **request: object,
    ) -> Attempt:
        (tmp_path.parent / f"{tmp_path.name}-video").write_bytes(bytes(SOURCE.bytes))
        is_one_clip = request.keys() & {"faithfulness", "full_rollout"}
        asked = {"clips": "one" if is_one_clip else "tile"} | request
        job = AttemptInput(
            id="1" * 32,
            attempt=2,
            request=ExplainRequest(model="fake", overlay=None, **asked),
            upload=tmp_path.parent / f"{tmp_path.name}-video",
            folder=tmp_path,
            started_at=datetime.now(UTC),
            deadline_seconds=deadline_seconds,
            engine_timeout_seconds=engine_timeout_seconds,
            media_timeout_seconds=media_timeout_seconds,
        )
        heartbeat = Heartbeat(job.id, 2, deadline_seconds, children, records, lambda: None)
        return Attempt(job, children, heartbeat)

    return prepare


def send_clips(script: Connection, clips: int = 2, **changes: np.ndarray) -> None:
    """Send a plan and its clips, with some arrays of each clip replaced."""
    wire.send(script, OPENED.model_copy(update={"clips": clips}), times_seconds=TIMES[:clips])
    for _ in range(clips):
        wire.send(script, Clip(), **(CLIP | changes))
    wire.send(script, DECODED)


def send_pictures(script: Connection, folder: Path, *names: str) -> None:
    """Write pictures into the attempt's folder, and report that rendering is finished."""
    for name in ("sheet.png", *names):
        (folder / name).write_bytes(b"picture")
    wire.send(script, Rendered(done=2, total=2, finished=True))


@contextmanager
def sending(script: Connection, folder: Path, films: Sequence[np.ndarray]) -> Iterator[None]:
    """Send clips, each `t H W c`, from a thread: they may be more than the socket holds."""

    def run() -> None:
        times = np.arange(8.0 * len(films)).reshape(-1, 8)
        wire.send(script, OPENED.model_copy(update={"clips": len(films)}), times_seconds=times)
        for frames in films:
            wire.send(script, Clip(), **(CLIP | {"frames": frames}))
        wire.send(script, DECODED)
        send_pictures(script, folder)

    sender = Thread(target=run, daemon=True)
    sender.start()
    yield
    sender.join(10)


def test_valid_messages_give_a_result(prepare, children, tmp_path):
    send_clips(children.script)
    wire.send(children.script, Rendered(done=1, total=2, finished=False))
    send_pictures(children.script, tmp_path)
    result = prepare().run()
    assert (result.clips, result.frames, result.attempt) == (2, 16, 2)
    assert result.request.end_seconds == 16
    assert [item.name for item in result.artifacts] == ["rollout.npz", "sheet.png"]


def test_timings_of_the_stages_add_up(prepare, children, tmp_path):
    """Media takes half a second for each of its parts; the engine has long answered by then."""

    def run() -> None:
        for send in (
            lambda: wire.send(children.script, OPENED, times_seconds=TIMES),
            lambda: wire.send(children.script, Clip(), **CLIP),
            lambda: wire.send(children.script, Clip(), **CLIP),
            lambda: wire.send(children.script, DECODED),
            lambda: send_pictures(children.script, tmp_path),
        ):
            time.sleep(0.5)
            send()

    next_message(children.engine, Ready, lambda: None)
    attempt, sender = prepare(), Thread(target=run, daemon=True)
    sender.start()
    began = time.monotonic()
    result = attempt.run()
    took = time.monotonic() - began
    stages = dict(result.timings_seconds)
    total = stages.pop("total")
    assert stages.keys() == {"wait", "open", "decode", "explain", "render", "save"}
    assert total == pytest.approx(sum(stages.values()), abs=0.001)
    assert total == pytest.approx(took, rel=0.03)
    assert total == pytest.approx((result.ended_at - result.started_at).total_seconds(), rel=0.03)
    assert stages["decode"] == pytest.approx(1.5, abs=0.3)
    assert stages["render"] == pytest.approx(0.5, abs=0.3)
    sender.join(10)


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
def test_invalid_clip_kills_media(prepare, children, changes):
    send_clips(children.script, 1, **changes)
    with pytest.raises(ChildLost, match="the media process sent an invalid clip"):
        prepare().run()


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"times_seconds": TIMES[:1]},
        {"times_seconds": TIMES.astype(np.float32)},
        {"times_seconds": TIMES * np.nan},
        {"times_seconds": TIMES, "more": np.zeros(1)},
    ],
)
def test_invalid_plan_kills_media(prepare, children, arrays):
    wire.send(children.script, OPENED, **arrays)
    with pytest.raises(ChildLost, match="the media process sent an invalid plan"):
        prepare().run()


def test_plan_with_more_clips_than_requested_kills_media(prepare, children):
    """A full rollout is large, so it is allowed for one clip only."""
    send_clips(children.script, 2)
    with pytest.raises(ChildLost, match="the media process sent an invalid plan"):
        prepare(full_rollout=True).run()


def test_media_that_fills_its_folder_is_killed(prepare, children, tmp_path):
    with (tmp_path / "filler").open("wb") as file:
        file.truncate(MediaOptions().file_bytes + 1)
    send_clips(children.script)
    with pytest.raises(ChildLost, match="the media process filled its folder"):
        prepare().run()


def test_unrequested_files_of_media_are_removed(prepare, children, tmp_path):
    """The supervisor does not follow a link that lies where it writes the archive."""
    victim = tmp_path.with_name("victim")
    victim.write_bytes(b"victim")
    (tmp_path / ".rollout.npz.part").symlink_to(victim)
    send_clips(children.script)
    send_pictures(children.script, tmp_path, "overlay.mp4", "result.json", "ended.json", ".font")
    prepare().run()
    assert {path.name for path in tmp_path.iterdir()} == {"sheet.png", "rollout.npz"}
    assert victim.read_bytes() == b"victim"


def test_files_of_the_preview_are_kept_if_it_was_asked_for(prepare, children, tmp_path):
    more = "preview.mp4", "thumbnails.jpg"
    send_clips(children.script)
    send_pictures(children.script, tmp_path, *more, "thumbnails.png")
    result = prepare(preview=True).run()
    assert {path.name for path in tmp_path.iterdir()} == {"sheet.png", "rollout.npz", *more}
    assert {item.name for item in result.artifacts} == {"sheet.png", "rollout.npz", *more}


def test_files_of_a_preview_that_was_not_asked_for_are_removed(prepare, children, tmp_path):
    send_clips(children.script)
    send_pictures(children.script, tmp_path, "preview.mp4", "thumbnails.jpg")
    prepare().run()
    assert {path.name for path in tmp_path.iterdir()} == {"sheet.png", "rollout.npz"}


@pytest.mark.parametrize("name", ["preview.mp4", "thumbnails.jpg"])
def test_files_of_the_preview_must_be_plain(prepare, children, tmp_path, name):
    (tmp_path / name).symlink_to(__file__)
    send_clips(children.script)
    others = {"preview.mp4", "thumbnails.jpg"} - {name}
    send_pictures(children.script, tmp_path, *others)
    with pytest.raises(FileNotFoundError, match=name):
        prepare(preview=True).run()


def test_media_is_told_the_tiles_that_the_result_has(prepare, children, tmp_path):
    send_clips(children.script, 1)
    send_pictures(children.script, tmp_path, "preview.mp4", "thumbnails.jpg")
    result = prepare(clips="one", preview=True).run()
    wire.receive(children.script)
    order, _ = wire.receive(children.script)
    assert order.preview == result.thumbnails
    assert result.thumbnails.frame_index == tuple(range(8))
    assert result.thumbnails.tile_width == 108  # of a video of 96×80


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(__file__)])
def test_picture_must_be_a_plain_file(prepare, children, tmp_path, plant):
    plant(tmp_path / "sheet.png")
    send_clips(children.script)
    wire.send(children.script, Rendered(done=2, total=2, finished=True))
    with pytest.raises(OSError, match=r"No such file|directory"):
        prepare().run()


def test_result_tells_what_media_says_of_the_video(prepare, children, tmp_path):
    warning = VideoWarning(code="video_incomplete", detail="9 s of 10 s")
    wire.send(children.script, OPENED.model_copy(update={"clips": 1}), times_seconds=TIMES[:1])
    wire.send(children.script, Clip(), **CLIP)
    wire.send(children.script, Decoded(source=SOURCE, warnings=(warning,)))
    send_pictures(children.script, tmp_path)
    result = prepare().run()
    assert (result.source, result.warnings) == (SOURCE, (warning,))


def test_invalid_description_of_the_video_kills_media(prepare, children):
    wire.send(children.script, OPENED.model_copy(update={"clips": 1}), times_seconds=TIMES[:1])
    wire.send(children.script, Clip(), **CLIP)
    wire.send(children.script, Decoded(source=SOURCE.model_copy(update={"bytes": 8})))
    with pytest.raises(ChildLost, match="sent an invalid description of the video"):
        prepare().run()


def test_job_that_cannot_end_is_refused_at_its_first_stage(prepare, children, records):
    opened = {"frames": 3600, "width": 3840, "height": 2160, "media_seconds": 26.0}
    wire.send(children.script, OPENED.model_copy(update=opened), times_seconds=TIMES)
    with pytest.raises(TooMuchWork, match=r"3600 frames of 3840×2160 takes about 26 s here"):
        prepare(deadline_seconds=20).run()
    assert {beat[2] for beat in records.beats} == {"decode"}
    order, _ = wire.receive(children.script)
    assert 10 < order.seconds_left <= 20


def test_job_that_may_just_end_is_accepted(prepare, children, tmp_path):
    """An estimate is not exact."""
    opened = OPENED.model_copy(update={"clips": 1, "media_seconds": 110.0})
    wire.send(children.script, opened, times_seconds=TIMES[:1])
    wire.send(children.script, Clip(), **CLIP)
    wire.send(children.script, DECODED)
    send_pictures(children.script, tmp_path)
    assert prepare(deadline_seconds=100).run().clips == 1


def test_message_out_of_order_kills_media(prepare, children):
    wire.send(children.script, Rendered(done=1, total=1, finished=True))
    with pytest.raises(ChildLost, match="sent an unexpected 'rendered'"):
        prepare().run()


def test_media_gets_relevance_of_clips_in_order(prepare, children, tmp_path):
    wire.send(children.script, OPENED, times_seconds=TIMES)
    wire.send(children.script, Clip(), **CLIP)
    second = CLIP | {
        "frames": np.full((8, 64, 64, 3), 9, np.uint8),
        "frame_index": np.arange(8, 16),
    }
    wire.send(children.script, Clip(), **second)
    wire.send(children.script, DECODED)
    wire.send(children.script, Rendered(done=2, total=2, finished=True))
    with pytest.raises(FileNotFoundError):  # sheet.png was not drawn
        prepare().run()
    opened, _ = wire.receive(children.script)
    assert opened.folder == str(tmp_path)
    assert opened.request == ExplainRequest(model="fake", overlay=None, clips="tile")
    order, arrays = wire.receive(children.script)
    assert isinstance(order, Render)
    assert arrays["frame_index"].tolist() == [list(range(8)), list(range(8, 16))]
    assert arrays["relevance"].shape == (2, 8, 8, 8)


def test_first_heartbeat_is_immediate_and_each_stage_is_reported(prepare, children, records):
    send_clips(children.script)
    wire.send(children.script, Rendered(done=2, total=2, finished=True))
    with pytest.raises(FileNotFoundError):
        prepare().run()
    assert {beat[:2] for beat in records.beats} == {("1" * 32, 2)}
    assert list(dict.fromkeys(beat[2] for beat in records.beats)) == [
        "decode",
        "explain",
        "render",
        "publish",
    ]


def test_cancel_stops_attempt_before_the_next_clip(prepare, children, records):
    next_message(children.engine, Ready, lambda: None)
    records.answer = True
    send_clips(children.script)
    with pytest.raises(Canceled):
        prepare().run()
    assert not children.engine.busy


def test_cancel_kills_engine_after_the_grace_time(prepare, records, monkeypatch, tmp_path):
    monkeypatch.setattr("worker.heartbeat.CANCEL_GRACE_SECONDS", 0.5)
    monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.05)
    children = ScriptedChildren("fake-hang")
    send_clips(children.script, 1)
    attempt = prepare(children=children)
    asked_at = []

    def cancel_once_it_explains(job_id: str, number: int, progress, token) -> bool:
        if children.engine.busy and progress.stage == "explain":
            asked_at.append(time.monotonic())
        return bool(asked_at)

    records.beat = cancel_once_it_explains
    try:
        with pytest.raises(Canceled):
            attempt.run()
        assert not children.engine.alive
        assert 0.5 <= time.monotonic() - asked_at[0] < 3
        children.restart_dead()
        assert isinstance(next_message(children.engine, Ready, lambda: None)[0], Ready)
    finally:
        children.close()


@pytest.mark.parametrize("sign", [signal.SIGSTOP, None])
def test_deadline_is_noticed_while_the_engine_hangs(prepare, records, sign):
    """`fake-hang` sleeps in C; a stopped process does not handle signals either."""
    children = ScriptedChildren("fake-hang")
    send_clips(children.script, 1)
    next_message(children.engine, Ready, lambda: None)
    if sign is not None:
        os.kill(children.engine.pid, sign)
    try:
        with pytest.raises(DeadlineExceeded):
            prepare(children=children, deadline_seconds=1.0).run()
        assert children.engine.busy
        children.engine.kill()
        assert not children.engine.alive
    finally:
        children.close()


def test_lost_job_stops_attempt(prepare, children, records):
    records.answer = AttemptLost("gone")
    with pytest.raises(AttemptLost):
        prepare().run()


def test_unreachable_redis_does_not_stop_attempt(prepare, children, records, tmp_path):
    records.answer = RedisConnectionError("away")
    send_clips(children.script)
    send_pictures(children.script, tmp_path)
    assert prepare().run().clips == 2
    assert records.beats


def test_deadline_stops_attempt(prepare, children):
    with pytest.raises(DeadlineExceeded, match=r"not done after 0\.5 seconds"):
        prepare(deadline_seconds=0.5).run()


def test_answer_to_a_former_job_is_discarded(prepare, children, tmp_path):
    next_message(children.engine, Ready, lambda: None)
    stale = np.random.default_rng(0).integers(0, 256, (1, 8, 64, 64, 3), np.uint8)
    children.engine.send(explain_order(head_fusion="max"), frames=stale)
    children.engine.expect(10)
    send_clips(children.script)
    send_pictures(children.script, tmp_path)
    prepare().run()
    with np.load(tmp_path / "rollout.npz") as found:
        np.testing.assert_array_equal(found["relevance"][0], found["relevance"][1])
        assert np.ptp(found["relevance"]) < 1e-6  # both clips are still frames


def test_failure_of_a_former_job_is_discarded(prepare, records, tmp_path):
    children = ScriptedChildren()
    try:
        next_message(children.engine, Ready, lambda: None)
        frames = np.zeros((1, 8, 64, 64, 3), np.uint8)
        children.engine.send(explain_order(start_layer=9), frames=frames)
        children.engine.expect(10)
        send_clips(children.script)
        send_pictures(children.script, tmp_path)
        assert prepare(children=children).run().clips == 2
    finally:
        children.close()


def test_engine_that_cannot_load_raises_child_lost(prepare):
    children = ScriptedChildren("no such model")
    try:
        with pytest.raises(ChildLost, match="the engine cannot load its model: no fake is called"):
            prepare(children=children).run()
    finally:
        children.close()


MOVING = CLIP | {
    "frames": np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), np.uint8),
}


def test_request_options_reach_engine_and_result(prepare, children, tmp_path):
    send_clips(children.script, 1, **MOVING)
    send_pictures(children.script, tmp_path)
    result = prepare(
        method="gradient_rollout",
        target="drifting",
        query=("cls", {"x": 79, "y": 0, "seconds": 2.9}),
        per_layer=True,
        full_rollout=True,
    ).run()
    assert result.targets == (Target(label="drifting", index=1),)
    assert result.queries == ("cls", PatchQuery(clip=0, frame=3, row=0, column=7))
    with np.load(tmp_path / "rollout.npz") as found:
        full = found["full_rollout"][0]
        queries = found["query_relevance"][:, 0].reshape(2, -1)
        assert found["layer_relevance"].shape == (1, 4, 8, 8, 8)
    rows = full[[0, 1 + 3 * 64 + 7], 1:]
    np.testing.assert_allclose(queries, rows, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(sum(result.frame_relevance[0]), 1, atol=1e-3)


def test_patch_query_selects_its_clip(prepare, children, tmp_path):
    send_clips(children.script, 2, **MOVING)
    send_pictures(children.script, tmp_path)
    query = PatchQuery(clip=1, frame=0, row=3, column=3)
    assert prepare(clips="tile", query=query).run().queries == (query,)
    with np.load(tmp_path / "rollout.npz") as found:
        assert not found["relevance"][0].any()
        assert found["relevance"][1].argmax() == 3 * 8 + 3


@pytest.mark.parametrize("batch_clips", [1, 2, 3, 8])
def test_batch_size_does_not_change_the_result(prepare, records, tmp_path, batch_clips):
    children = ScriptedChildren(batch_clips=batch_clips)
    asked, send = [], children.engine.send

    def remember(question: Explain, **arrays: np.ndarray) -> None:
        asked.append((question.first_clip, len(arrays["frames"])))
        send(question, **arrays)

    children.engine.send = remember
    random = np.random.default_rng(7)
    films = random.integers(0, 256, (5, 8, 64, 64, 3), np.uint8)
    try:
        with sending(children.script, tmp_path, films):
            assert prepare(children=children, clips="tile").run().clips == 5
    finally:
        children.close()
    expected = {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2], 8: [5]}[batch_clips]
    assert [count for _, count in asked] == expected
    assert [first for first, _ in asked] == [sum(expected[:i]) for i in range(len(expected))]
    with np.load(tmp_path / "rollout.npz") as found:
        alone = fake_engine.explain(films, Explain(), SPECS["fake"])
        np.testing.assert_allclose(found["relevance"], alone["query_relevance"][:, 0], rtol=1e-6)
        np.testing.assert_array_equal(found["logits"], alone["logits"])


def test_batch_is_limited_by_message_bytes(prepare, records, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt_module, "MAX_BATCH_BYTES", 2 * CLIP["frames"].nbytes + 1)
    children = ScriptedChildren(batch_clips=8)
    sizes, send = [], children.engine.send
    children.engine.send = lambda *question, frames: (
        sizes.append(len(frames)) or send(*question, frames=frames)
    )
    try:
        with sending(children.script, tmp_path, [CLIP["frames"]] * 3):
            prepare(children=children, clips="tile").run()
    finally:
        children.close()
    assert sizes == [2, 1]


def test_silent_media_is_killed_after_its_timeout(prepare, children, monkeypatch):
    wire.send(children.script, OPENED, times_seconds=TIMES)
    wire.send(children.script, Clip(), **CLIP)
    began = time.monotonic()
    with pytest.raises(ChildLost, match=r"the media process did not answer within 0\.7 seconds"):
        prepare(media_timeout_seconds=0.7).run()
    assert 0.5 < time.monotonic() - began < 10


def test_working_messages_restart_the_media_timeout(prepare, children, tmp_path):
    """It sends `Working` for longer than its timeout."""

    def work() -> None:
        for message in (OPENED, Clip(), Clip()):
            for _ in range(4):
                time.sleep(0.25)
                wire.send(children.script, Working())
            arrays = CLIP if isinstance(message, Clip) else {"times_seconds": TIMES}
            wire.send(children.script, message, **arrays)
        wire.send(children.script, Working())
        wire.send(children.script, DECODED)
        send_pictures(children.script, tmp_path)

    script = Thread(target=work)
    script.start()
    try:
        assert prepare(media_timeout_seconds=0.7).run().clips == 2
    finally:
        script.join()


def garble(monkeypatch, children: ScriptedChildren, kind: type, **changes: np.ndarray) -> None:
    """Replace some arrays in the engine's answers of one kind."""
    receive = children.engine.receive

    def garbled():
        message, arrays = receive()
        return message, arrays | changes if isinstance(message, kind) else arrays

    monkeypatch.setattr(children.engine, "receive", garbled)


def test_invalid_explanation_kills_engine(prepare, children, monkeypatch):
    garble(monkeypatch, children, Explained, logits=np.full((1, 5), np.nan, np.float32))
    send_clips(children.script, 1)
    with pytest.raises(ChildLost, match="the engine sent an invalid explanation"):
        prepare().run()
    assert not children.engine.alive


def test_heartbeat_continues_while_the_archive_is_written(
    prepare, children, records, tmp_path, monkeypatch
):
    beats_meanwhile = []

    def save_slowly(path: Path, found: Archive) -> None:
        before = len(records.beats)
        time.sleep(0.5)
        beats_meanwhile.extend(records.beats[before:])
        save(path, found)

    save = archive.save
    monkeypatch.setattr(archive, "save", save_slowly)
    monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.05)
    send_clips(children.script, 1)
    send_pictures(children.script, tmp_path)
    assert prepare().run().clips == 1
    assert beats_meanwhile


def test_heartbeat_continues_while_the_disk_is_flushed(
    prepare, children, records, tmp_path, monkeypatch
):
    beats_meanwhile = []

    def fsync_files_slowly(folder: Path) -> None:
        assert (folder / ARCHIVE_NAME).exists()
        before = len(records.beats)
        time.sleep(0.5)
        beats_meanwhile.extend(records.beats[before:])

    monkeypatch.setattr("worker.attempt.fsync_files", fsync_files_slowly)
    monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.05)
    send_clips(children.script, 1)
    send_pictures(children.script, tmp_path)
    assert prepare().run().clips == 1
    assert beats_meanwhile


@pytest.mark.parametrize(
    "request_",
    [{"start_layer": 4}, {"method": "gradient_rollout", "target": "swimming"}],
)
def test_request_the_model_cannot_meet_is_refused_before_media_starts(prepare, children, request_):
    with pytest.raises(InvalidRequest):
        prepare(**request_).run()
    assert not children.script.poll()


@pytest.mark.parametrize(
    "point", [{"x": 80, "y": 0, "seconds": 1}, {"x": 0, "y": 0, "seconds": 17}]
)
def test_query_outside_the_crop_is_refused(prepare, children, point):
    send_clips(children.script, 1)
    with pytest.raises(InvalidRequest, match="outside"):
        prepare(query=point).run()


class TestFaithfulness:
    def test_faithfulness_is_measured_drawn_and_reported(
        self, prepare, children, records, tmp_path
    ):
        send_clips(children.script, 1, **MOVING)
        send_pictures(children.script, tmp_path, "faithfulness.png")
        result = prepare(faithfulness=True, target="growing").run()
        measured = result.faithfulness
        assert measured.target == Target(label="growing", index=2)
        assert [fill.fill for fill in measured.fills] == list(FILLS)
        assert (measured.steps, measured.forwards) == (STEPS, len(FILLS) * 7 * (STEPS + 1))
        assert "faithfulness.png" in [item.name for item in result.artifacts]
        assert result.timings_seconds["faithfulness"] > 0
        assert "faithfulness" in [stage for _, _, stage in records.beats]
        wire.receive(children.script)
        order, _ = wire.receive(children.script)
        assert order.faithfulness == measured

    def test_predicted_class_is_the_default_target(self, prepare, children, tmp_path):
        send_clips(children.script, 1, **MOVING)
        send_pictures(children.script, tmp_path, "faithfulness.png")
        result = prepare(faithfulness=True).run()
        assert result.faithfulness.target.index == result.predictions[0].index
        for fill in result.faithfulness.fills:
            assert fill.most_first_deleted[0] == pytest.approx(
                result.predictions[0].probability, abs=1e-5
            )
            assert fill.deletion.most_first < fill.deletion.random_mean < fill.deletion.least_first
            assert fill.insertion.most_first > fill.insertion.least_first

    def test_cancel_stops_attempt_between_two_curves(self, prepare, children, records):
        send_clips(children.script, 1, **MOVING)
        attempt = prepare(faithfulness=True)
        beat = records.beat

        def cancel_once_it_measures(job_id: str, number: int, progress, token) -> bool:
            return beat(job_id, number, progress) or progress.stage == "faithfulness"

        records.beat = cancel_once_it_measures
        with pytest.raises(Canceled):
            attempt.run()
        assert not children.engine.busy

    def test_cancel_kills_engine_in_a_slow_curve(self, prepare, children, records, monkeypatch):
        monkeypatch.setattr("worker.heartbeat.CANCEL_GRACE_SECONDS", 0.5)
        send_clips(children.script, 1, **MOVING)
        attempt = prepare(faithfulness=True)

        def cancel_once_it_measures(job_id: str, number: int, progress, token) -> bool:
            if progress.stage == "faithfulness" and not stopped:
                os.kill(children.engine.pid, signal.SIGSTOP)
                stopped.append(time.monotonic())
            return bool(stopped)

        stopped: list[float] = []
        records.beat = cancel_once_it_measures
        monkeypatch.setattr(children.engine, "expect_work", lambda *_: children.engine.expect(30))
        monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.05)
        with pytest.raises(Canceled):
            attempt.run()
        assert time.monotonic() - stopped[0] < 3

    def test_engine_timeout_grows_with_forwards(self, prepare, children, tmp_path, monkeypatch):
        allowed, expect = [], children.engine.expect

        def remember(seconds: float) -> None:
            allowed.append(seconds)
            expect(seconds)

        monkeypatch.setattr(children.engine, "expect", remember)
        send_clips(children.script, 1)
        send_pictures(children.script, tmp_path, "faithfulness.png")
        prepare(faithfulness=True).run()
        assert allowed == [10.0] + [10.0 * (STEPS + 1)] * len(FILLS) * 7

    @pytest.mark.parametrize("probabilities", [np.ones(STEPS), np.full(STEPS + 1, np.nan)])
    def test_invalid_curve_kills_engine(self, prepare, children, monkeypatch, probabilities):
        garble(monkeypatch, children, Perturbed, probabilities=probabilities.astype(np.float32))
        send_clips(children.script, 1)
        with pytest.raises(ChildLost, match="the engine sent an invalid curve"):
            prepare(faithfulness=True).run()

    def test_faithfulness_is_not_measured_by_default(self, prepare, children, tmp_path):
        send_clips(children.script, 1)
        send_pictures(children.script, tmp_path)
        result = prepare().run()
        assert result.faithfulness is None
        assert "faithfulness" not in result.timings_seconds
