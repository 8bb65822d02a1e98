"""Compare displayed frames with FFmpeg's, for all orientations, sizes, colours and formats.

    python -m tests.benchmarks.display

Each case is a small lossless file. The program `ffmpeg` turns it as its display matrix says and
converts it to RGB; the matrix and the range are named to it, because it assumes BT.601 for untagged
files of any size. Prints the number of cases and the largest error of any channel of any pixel.
"""

import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from rollout_core.pictures.encoder import even_size
from rollout_core.video.clips import Limits
from rollout_core.video.color import FULL_RGB
from rollout_core.video.convert import converted, views
from rollout_core.video.decoder import open_video
from tests.system.tools import require_tool

Picture = NDArray[np.uint8]
"""`H W c`, RGB."""

ONE = 1 << 16
ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "turned 90": (0, -1, 1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270": (0, 1, -1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored, turned 90": (0, 1, 1, 0),
    "mirrored, turned 180": (1, 0, 0, -1),
    "mirrored, turned 270": (0, -1, -1, 0),
}
"""Name → a, b, c and d of a display matrix."""

SIZES = (64, 48), (65, 49), (48, 65), (1282, 33)
MATRICES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc", "untagged": None}
"""Name → FFmpeg's name of the tag."""

RANGES = "tv", "pc"
FORMATS = tuple(
    f"yuv{subsampling}p{depth}" for subsampling, depth in product((420, 422, 444), ("", "10le"))
)
FILES_PER_PROCESS = 32
FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
LOSSLESS = ("-lossless", "1", "-deadline", "realtime", "-cpu-used", "8")


class Case(NamedTuple):
    """What a file looks like."""

    orientation: str
    size: tuple[int, int]
    matrix: str
    range: str
    format: str

    @property
    def expected_matrix(self) -> str:
        """The matrix, by FFmpeg's name; the one that players assume for an untagged file."""
        known = "bt2020" if self.matrix == "bt2020" else MATRICES[self.matrix]
        return known or ("bt709" if self.size[0] >= 1280 else "smpte170m")

    @property
    def filtered_range(self) -> str:
        """The range after FFmpeg has turned the picture.

        Version 5.1 cannot transpose 4:2:2. It converts it first, and that limits the range.
        """
        turned = ORIENTATIONS[self.orientation][0] == 0
        return "tv" if turned and "422" in self.format else self.range


ALL = tuple(Case(*case) for case in product(ORIENTATIONS, SIZES, MATRICES, RANGES, FORMATS))


def covering(step: int) -> tuple[Case, ...]:
    """Return every `step`-th case, a prime number, so that all pairs of properties occur."""
    return ALL[::step]


class Errors(NamedTuple):
    """Largest errors of a case, of 255: of the RGB for model and sheet, and of the overlay."""

    rgb: int
    overlay: int


def errors(cases: Sequence[Case], folder: Path) -> dict[Case, Errors]:
    """Return the errors of each case."""
    found = {}
    for begin in range(0, len(cases), FILES_PER_PROCESS):
        batch = cases[begin : begin + FILES_PER_PROCESS]
        files = make_films(batch, folder)
        for case, path, expected in zip(batch, files, by_ffmpeg(batch, files), strict=True):
            rgb, overlay = displayed(path)
            height, width = overlay.shape[:2]
            found[case] = Errors(
                largest_error(rgb, expected), largest_error(overlay, expected[:height, :width])
            )
    return found


def largest_error(found: Picture, expected: Picture) -> int:
    """Return the largest difference of two pictures, of 255."""
    if found.shape != expected.shape:
        return 255
    return int(np.abs(found.astype(int) - expected).max())


def make_films(cases: Sequence[Case], folder: Path) -> list[Path]:
    """Write a film of one frame for each case.

    The program writes them too, because the encoder of the Python package has no odd sizes in ten
    bits. Its display matrices know no mirrors, so these are written into the files.
    """
    command = [require_tool("ffmpeg"), "-v", "error", "-y"]
    paths = [folder / f"{place}.mp4" for place in range(len(cases))]
    for case, path in zip(cases, paths, strict=True):
        path.with_suffix(".yuv").write_bytes(yuv(case))
        command += ["-f", "rawvideo", "-pix_fmt", case.format, "-color_range", case.range]
        command += ["-s", "{}x{}".format(*case.size), "-i", str(path.with_suffix(".yuv"))]
    for place, (case, path) in enumerate(zip(cases, paths, strict=True)):
        command += ["-map", f"{place}:v", "-c:v", "libvpx-vp9", "-threads", "1", *LOSSLESS]
        command += ["-pix_fmt", case.format, "-color_range", case.range]
        command += ["-colorspace", MATRICES[case.matrix] or "unknown", str(path)]
    subprocess.run(command, check=True, timeout=120)
    for case, path in zip(cases, paths, strict=True):
        content = bytearray(path.read_bytes())
        struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *display_matrix(case))
        path.write_bytes(content)
    return paths


def yuv(case: Case) -> bytes:
    """Return the planes of a picture whose luma and chroma grow in different directions."""
    width, height = case.size
    depth = 10 if case.format.endswith("10le") else 8
    fewer_columns, fewer_rows = "444" not in case.format, "420" in case.format
    chroma_size = -(-height // (1 + fewer_rows)), -(-width // (1 + fewer_columns))
    planes = []
    for place, (rows, columns) in enumerate(((height, width), chroma_size, chroma_size)):
        down, across = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
        level = (60 + 80 * across + 50 * down, 110 + 30 * across, 150 - 30 * down)[place]
        kind = np.uint8 if depth == 8 else np.dtype("<u2")
        planes.append(np.rint(level * (1 << depth - 8)).astype(kind).tobytes())
    return b"".join(planes)


def display_matrix(case: Case) -> list[int]:
    """Return the nine numbers of the case's display matrix."""
    a, b, c, d = (ONE * value for value in ORIENTATIONS[case.orientation])
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


def displayed(path: Path) -> tuple[Picture, Picture]:
    """Return the first displayed frame of a film, and the overlay's before it is painted on."""
    with open_video(path, Limits()) as decoder:
        frame = next(decoder.frames())
    size, color = even_size(frame.displayed_size, 1 << 14), frame.display.painted_color
    below = av.VideoFrame(*size, "yuv420p")
    for view, plane in zip(
        views(below), frame.display.planes(frame.picture, size, color), strict=True
    ):
        view[:] = plane
    return frame.rgb(), converted(below, "rgb24", color, FULL_RGB).to_ndarray()


def by_ffmpeg(cases: Sequence[Case], files: Sequence[Path]) -> list[Picture]:
    """Return what the program `ffmpeg` displays."""
    command = [require_tool("ffmpeg"), "-v", "error", "-y"]
    for path in files:
        command += ["-threads", "1", "-i", str(path)]
    for place, (case, path) in enumerate(zip(cases, files, strict=True)):
        colour = f"in_color_matrix={case.expected_matrix}:in_range={case.filtered_range}"
        scale = f"scale={colour}:flags={FLAGS},format=rgb24"
        command += ["-map", f"{place}:v", "-vf", scale, "-frames:v", "1"]
        command += ["-f", "rawvideo", f"{path}.rgb"]
    subprocess.run(command, check=True, timeout=120)
    pictures = []
    for case, path in zip(cases, files, strict=True):
        width, height = case.size
        if ORIENTATIONS[case.orientation][0] == 0:
            width, height = height, width
        content = np.fromfile(f"{path}.rgb", np.uint8)
        pictures.append(content.reshape(height, width, 3))
    return pictures


def main() -> None:
    """Compare all cases."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = errors(ALL, Path(folder))
    print(f"{len(found)} cases in {time.perf_counter() - began:.0f} s. Largest errors, of 255:")
    for field in Errors._fields:
        worst = max(found, key=lambda case: getattr(found[case], field))
        print(f"{field:8} {getattr(found[worst], field)} ({', '.join(map(str, worst))})")


if __name__ == "__main__":
    main()
