import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import TooMuchWork
from worker.fake_engine import SPECS
from worker.messages import Opened, Ready
from worker.work_estimate import DEFAULT_LIMITS, SAFETY, WorkLimits, check_work


def check(
    *, clips=1, media=0.0, clip=1.0, batch=1, left=900.0, limits=DEFAULT_LIMITS, **request: object
) -> None:
    ready = Ready(
        spec=SPECS["fake"],
        checkpoint_sha256=None,
        device="cpu",
        batch_clips=batch,
        clip_seconds=clip,
    )
    opened = Opened(
        clips=clips,
        crop=(0, 0, 80, 80),
        sampling="uniform",
        start_seconds=0,
        end_seconds=60,
        frames=3600,
        width=3840,
        height=2160,
        media_seconds=media,
    )
    check_work(ExplainRequest(**request), ready, opened, limits, seconds_left=left)


def test_a_minute_of_4k60_is_refused_with_the_numbers():
    with pytest.raises(TooMuchWork, match=r"3600 frames of 3840×2160 takes about 1300 s .* 900 s"):
        check(media=1300.0)


def test_what_may_just_end_is_accepted():
    check(media=SAFETY * 900 - 10)
    check(clips=1500)


def test_clips_and_batches_count():
    with pytest.raises(TooMuchWork, match="running the model 4000 times"):
        check(clips=4000)
    check(clips=4000, batch=8)


def test_forwards_of_faithfulness_count():
    check(clip=3.0)
    with pytest.raises(TooMuchWork, match="running the model 694 times"):
        check(clip=5.0, faithfulness=True)


def test_forwards_are_limited():
    limits = WorkLimits(max_forwards=60)
    check(clips=60, limits=limits)
    check(clips=10, limits=limits, method="difference", target=0)
    with pytest.raises(TooMuchWork, match="11 clips take 66 forwards of the model; 60 are allowed"):
        check(clips=11, limits=limits, method="difference", target=0)
    with pytest.raises(TooMuchWork, match="1 clips take 694 forwards"):
        check(limits=limits, faithfulness=True)


def test_bytes_of_arrays_are_limited():
    everything = {"query": ["cls"] * 64, "per_layer": True}
    check(clips=600, batch=8, **everything)
    with pytest.raises(TooMuchWork, match="600 clips, 64 queries, 0 targets and 4 layers take"):
        check(clips=600, batch=8, limits=WorkLimits(max_array_bytes=80_000_000), **everything)
