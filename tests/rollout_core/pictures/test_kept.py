"""The sheet from thumbnails that were kept while the clips were read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.model.specs import ModelSpec
from rollout_core.pictures import render as module
from rollout_core.pictures.kept import KeptThumbnails
from rollout_core.pictures.render import render
from rollout_core.pictures.sheet import MAX_FRAMES
from rollout_core.video.clips import Limits, open_clips, read_clips

SPEC = ModelSpec(
    name="u", frames=4, sampling="uniform", clip_seconds=0.2, classes=2, height=32, width=32
)


def texture(index: int, width: int, height: int) -> np.ndarray:
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([across + 9 * index, down * 3, across ^ down], axis=-1).astype(np.uint8)


def sheets(path: Path, folder: Path, *, overlay: Overlay | None = None, **request: object):
    """Return the pixels of a sheet without and with kept thumbnails, and these."""
    video = open_clips(path, ExplainRequest(**request), SPEC, Limits())
    kept = KeptThumbnails(video.crop, video.plan.times_seconds.size)
    size = {"height": SPEC.height, "width": SPEC.width}
    clips = [
        *read_clips(path, video.plan, video.crop, **size, limits=Limits(), keep=kept.add),
    ]
    shape = (len(clips), 4, 5, 5)
    pixels = []
    for thumbnails in ({}, kept.pixels):
        render(
            path,
            crop=video.crop,
            pts_seconds=np.stack([clip.pts_seconds for clip in clips]),
            frame_index=np.stack([clip.frame_index for clip in clips]),
            relevance=np.random.default_rng(0).random(shape, np.float32),
            overlay=overlay,
            kept=thumbnails,
            folder=folder,
            limits=Limits(),
            frames=video.info.frames,
            progress=lambda done, total: None,
        )
        with Image.open(folder / "sheet.png") as sheet:
            pixels.append(np.asarray(sheet))
    return (*pixels, kept.pixels)


@pytest.mark.parametrize(
    ("frames", "clips", "columns"), [(10, "one", 4), (60, "tile", MAX_FRAMES), (12, "tile", 8)]
)
@pytest.mark.parametrize("overlay", [None, Overlay()])
def test_sheet_is_the_same_from_kept_thumbnails(film, tmp_path, frames, clips, columns, overlay):
    path = film(frames=frames, picture=texture, options={"preset": "medium"})
    expected, found, kept = sheets(path, tmp_path, clips=clips, overlay=overlay)
    assert len(kept) == columns
    np.testing.assert_array_equal(found, expected)


def test_video_is_not_opened_for_a_sheet_of_kept_thumbnails(film, tmp_path, monkeypatch):
    path = film(picture=texture)
    opened = []
    original = module.open_video
    monkeypatch.setattr(
        module, "open_video", lambda *args, **known: opened.append(args) or original(*args, **known)
    )
    sheets(path, tmp_path)
    assert len(opened) == 1  # for the sheet without them


@pytest.mark.parametrize("frames", [2, 3, 20])
def test_nothing_is_kept_where_moments_share_a_frame(film, tmp_path, frames):
    """Which frames the sheet shows is not known before the last one then."""
    path = film(frames=frames, picture=texture, rate=10)
    expected, found, kept = sheets(path, tmp_path, clips="tile" if frames == 20 else "one")
    assert kept == {}
    np.testing.assert_array_equal(found, expected)
