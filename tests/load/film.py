"""A video of a megabyte that is decoded fast: a few frames of noise, which barely compress."""

from pathlib import Path

import av
import numpy as np

FRAMES, RATE_HZ = 24, 8
WIDTH, HEIGHT = 320, 240
QUANTIZER = "32"
"""Gives a file of about a megabyte."""


def make_film(path: Path) -> Path:
    """Write the video to `path`."""
    rng = np.random.default_rng(0)
    options = {"preset": "ultrafast", "qp": QUANTIZER}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(FRAMES):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
