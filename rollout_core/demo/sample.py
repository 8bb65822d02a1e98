"""Writes the sample video and its label: `python -m rollout_core.demo.sample`."""

from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Generator

from rollout_core.demo.motions import CLASSES
from rollout_core.demo.scenes import ClipBatch, render
from rollout_core.model.specs import MOVING_THINGS

SAMPLE_PATH = Path(__file__).with_name("sample.mp4")
LABEL_PATH = Path(__file__).with_name("sample.label")
LABELS = ("a thing moves right", "a thing rises")
"""What happens in the sample. A ring marks the things of the first act, whose class counts."""

SEED = 21
FRAME_RATE_HZ = 25
HEIGHT, WIDTH = 360, 480


def sample_scene() -> ClipBatch:
    """Render the sample's scene, without noise so that it compresses well.

    Its sprites and its ground are held out from training.
    """
    return render(
        torch.tensor([[CLASSES.index(label) for label in LABELS]]),
        Generator().manual_seed(SEED),
        frames=round(MOVING_THINGS.clip_seconds * FRAME_RATE_HZ),
        height=HEIGHT,
        width=WIDTH,
        split="test",
        noise=0.0,
    )


def sample_frames() -> NDArray[np.uint8]:
    """Return the pictures of the sample, uint8 `t H W c`, RGB."""
    frames = rearrange(sample_scene().frames, "1 c t H W -> t H W c")
    return (frames * 255).round().to(torch.uint8).numpy()


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode frames, uint8 `t H W c`, RGB, as H.264 in MP4."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE_HZ)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "26", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Write the sample video and its label."""
    write_video(SAMPLE_PATH, sample_frames())
    LABEL_PATH.write_text(f"{LABELS[0]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
