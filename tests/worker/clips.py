"""Small videos for tests: a bright square that moves over a grey background."""

from pathlib import Path

import av
import numpy as np


def make_video(
    path: Path, *, seconds: float = 3.0, rate: int = 8, width: int = 96, height: int = 80
) -> Path:
    """Write an MP4 file with `rate` frames a second, and return its path."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(seconds * rate)):
            frame = av.VideoFrame.from_ndarray(_picture(index, width, height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _picture(index: int, width: int, height: int) -> np.ndarray:
    picture = np.full((height, width, 3), 70, np.uint8)
    left = 3 * index % (width - 24)
    picture[20:44, left : left + 24] = (230, 200, 40)
    return picture
