"""Make the sample clip: `python -m rollout_core.demo.sample`.

A scene of the generator, filmed for ten seconds in a wider and larger picture than the model
sees. Its label is written beside it.
"""

from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Generator

from rollout_core.demo.shapes import CLASSES, render
from rollout_core.specs import MOVING_SHAPES

SAMPLE_PATH = Path(__file__).with_name("sample.mp4")
LABEL_PATH = Path(__file__).with_name("sample.label")

LABEL = "left"
SEED = 19
FRAME_RATE_HZ = 25
HEIGHT, WIDTH = 360, 640


def sample_frames() -> NDArray[np.uint8]:
    """Draw the sample's scene, uint8 `t H W c`, RGB. It has no noise, which would not compress."""
    batch = render(
        torch.tensor([CLASSES.index(LABEL)]),
        Generator().manual_seed(SEED),
        frames=round(MOVING_SHAPES.clip_seconds * FRAME_RATE_HZ),
        height=HEIGHT,
        width=WIDTH,
        noise=0.0,
    )
    frames = rearrange(batch.frames, "1 c t H W -> t H W c")
    return (frames * 255).round().to(torch.uint8).numpy()


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode frames, `t H W c`, as H.264."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE_HZ)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "26", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Write the clip and its label."""
    write_video(SAMPLE_PATH, sample_frames())
    LABEL_PATH.write_text(f"{LABEL}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
