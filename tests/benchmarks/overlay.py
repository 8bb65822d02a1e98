"""Time the overlay of a 5.3 s, 1280×720 clip, against a decode and a re-encode without it.

    python -m tests.benchmarks.overlay [--repeats 5]

The three run in turn, so that other load on the machine affects all of them. Prints medians and
ratios to the re-encode, which uses libx264's veryfast preset.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from rollout_core.contract import Overlay
from rollout_core.pictures.render import render
from rollout_core.video.clips import Limits, crop_of, probe

WIDTH, HEIGHT, RATE_HZ, FRAMES = 1280, 720, 25, 133
CLIP_FRAMES, GRID = 8, 14


def main() -> None:
    """Run the three passes `repeats` times and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.mp4"
        make_clip(source)
        passes: dict[str, Callable[[], None]] = {
            "decode": lambda: decode(source),
            "re-encode": lambda: reencode(source, folder / "reencoded.mp4"),
            "overlay": lambda: overlay(source, folder),
        }
        seconds = {label: [] for label in passes}
        for _ in range(repeats):
            for label, run in passes.items():
                seconds[label].append(timed(run))
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    load = os.getloadavg()[0]
    print(f"{FRAMES} frames of {WIDTH}×{HEIGHT}; {os.cpu_count()} processors, load {load:.1f}")
    for label, median in medians.items():
        print(f"{label:10} {median:6.2f} s   × {median / medians['re-encode']:.2f}")


def make_clip(path: Path) -> None:
    """Write a clip of moving texture, about as hard to encode as a filmed one."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (HEIGHT // 8, 2 * WIDTH // 8, 3), dtype=np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1) // 2
    texture += random.integers(0, 24, texture.shape, dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream(
            "libx264", rate=RATE_HZ, width=WIDTH, height=HEIGHT, options={"preset": "veryfast"}
        )
        for index in range(FRAMES):
            view = np.ascontiguousarray(texture[:, 4 * index : 4 * index + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode(None))


def decode(source: Path) -> None:
    """Decode every frame."""
    with av.open(source) as container:
        for _ in container.decode(video=0):
            pass


def reencode(source: Path, target: Path) -> None:
    """Decode every frame and encode it unchanged."""
    with av.open(source) as container, av.open(target, "w") as output:
        stream = output.add_stream(
            "libx264", rate=RATE_HZ, width=WIDTH, height=HEIGHT, options={"preset": "veryfast"}
        )
        for frame in container.decode(video=0):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def overlay(source: Path, folder: Path) -> None:
    """Render both pictures of a clip whose relevance differs in every frame."""
    limits = Limits()
    info = probe(source, limits)
    index = np.linspace(0, FRAMES - 1, CLIP_FRAMES).astype(np.int64)[None]
    render(
        source,
        pts_seconds=index / RATE_HZ,
        frame_index=index,
        relevance=np.random.default_rng(1).exponential(size=(1, CLIP_FRAMES, GRID, GRID)),
        crop=crop_of(info, height=224, width=224),
        overlay=Overlay(),
        folder=folder,
        limits=limits,
        frames=info.frames,
        progress=lambda done, total: None,
    )


def timed(run: Callable[[], None]) -> float:
    """Return how many seconds a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
