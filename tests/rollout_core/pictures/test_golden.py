"""Whole pictures, compared with kept ones: `python -m tests.rollout_core.pictures.test_golden`
writes these anew. Look at them before you commit them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import Caption, Overlay
from rollout_core.pictures.sheet import Column, HeatMap, draw_sheet, save_sheet

FOLDER = Path(__file__).parent / "golden"
MEAN_TOLERANCE, PIXEL_TOLERANCE = 1.0, 64
"""Of 255. Versions of the font's rasterizer differ at the edges of letters."""


def scene(index: int, size: int = 208) -> np.ndarray:
    """Return a frame of a disc that moves over a slope, uint8 `H W c`."""
    y, x = np.mgrid[:size, :size].astype(float)
    picture = np.stack([90 + 0.3 * y, 140 + 0.2 * y, 200 - 0.4 * y], axis=-1)
    picture[(x - 40 - 18 * index) ** 2 + (y - 130) ** 2 < 900] = (235, 120, 60)
    return picture.astype(np.uint8)


def hot_spot(index: int, row: int) -> HeatMap:
    """Return a map that is hot where the disc is, float32 `h w`."""
    y, x = np.mgrid[:14, :14].astype(float)
    heat = np.exp(-((x - 3 - 1.2 * index) ** 2 + (y - 8 + 3 * row) ** 2) / 4)
    return HeatMap(heat.astype(np.float32), share=(index + 1) / 36)


def columns(count: int, rows: int = 1) -> list[Column]:
    return [
        Column(scene(i), 0.6 + 1.24 * i, [hot_spot(i, row) for row in range(rows)])
        for i in range(count)
    ]


def sheet() -> Image.Image:
    caption = Caption(title="moves right, 98 %", detail="a-model · gradient_rollout of moves right")
    frames = np.arange(8.0)
    near = np.exp(-np.abs(frames[:, None] - frames) / 2) + (frames == 5)
    return draw_sheet(columns(8), Overlay(), caption, when=near.astype(np.float32))


def signed() -> Image.Image:
    caption = Caption(title="moves right, 98 %", detail="a-model · difference of moves right")
    overlay = Overlay(signed=True, contours=True)
    both = [
        Column(each.thumbnail, each.pts_seconds, [HeatMap(0.5 + (of.heat - against.heat) / 2, 0.1)])
        for each, of, against in ((one, *one.maps) for one in columns(4, 2))
    ]
    return draw_sheet(both, overlay, caption)


def bands() -> Image.Image:
    caption = Caption(title="a long name of a class " * 20, detail="a-model · rollout")
    return draw_sheet(columns(10), Overlay(colormap="viridis"), caption, sampled=24)


def comparison() -> Image.Image:
    caption = Caption(title="moves right, 98 %", detail="a-model")
    return draw_sheet(columns(4, 2), Overlay(), caption, names=["rollout", "attention"])


PICTURES = {
    "sheet.png": sheet,
    "bands.png": bands,
    "comparison.png": comparison,
    "signed.png": signed,
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_the_kept_one(name):
    drawn = np.asarray(PICTURES[name]()).astype(int)
    with Image.open(FOLDER / name) as kept:
        difference = np.abs(drawn - np.asarray(kept.convert("RGB")))
    assert difference.mean() < MEAN_TOLERANCE
    assert (difference.max(axis=-1) > PIXEL_TOLERANCE).mean() < 0.002


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        save_sheet(draw(), FOLDER / name)
