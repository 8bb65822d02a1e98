"""Source videos that are about as hard to encode as filmed ones: scenes, motion and grain."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

RATE_HZ = 25
KEY_FRAME_SECONDS = 2
SCENE_SECONDS = 3
GRAIN = 2.0
"""Standard deviation of the noise in luma, of 255."""

OPTIONS = {"preset": "veryfast", "crf": "21", "g": str(KEY_FRAME_SECONDS * RATE_HZ)}

Plane = NDArray[np.uint8]


class Size(NamedTuple):
    """Width and height in pixels, multiples of 8."""

    width: int
    height: int


SIZES = {
    "360p": Size(640, 360),
    "720p": Size(1280, 720),
    "1080p": Size(1920, 1080),
    "4K": Size(3840, 2160),
}


def make_film(path: Path, size: Size, seconds: float) -> Path:
    """Write an H.264 MP4 with a key frame every two seconds, as cameras and web sites make them."""
    random = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for planes in _pictures(random, size, round(seconds * RATE_HZ)):
            frame = av.VideoFrame(*size, "yuv420p")
            for target, plane in zip(frame.planes, planes, strict=True):
                rows = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)
                rows[: plane.shape[0], : plane.shape[1]] = plane
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def repeat_film(source: Path, path: Path, times: int) -> Path:
    """Write a film that is another one several times, without encoding it again."""
    with av.open(path, "w") as output:
        target = None
        shift = 0
        for _ in range(times):
            with av.open(source) as container:
                stream = container.streams.video[0]
                target = target or output.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = target
                    output.mux(packet)
                shift += stream.duration
    return path


def _pictures(random: np.random.Generator, size: Size, count: int) -> Iterator[list[Plane]]:
    """Yield the planes of each frame: Y, U and V."""
    grain = [random.normal(0, GRAIN, (size.height, size.width)) for _ in range(5)]
    noise = [np.rint(one).astype(np.int16) for one in grain]
    for index in range(count):
        step = index % (SCENE_SECONDS * RATE_HZ)
        if step == 0:
            scene = _Scene(random, size)
        luma, *chroma = scene.planes(step)
        grainy = np.clip(luma + noise[index % len(noise)], 0, 255).astype(np.uint8)
        yield [grainy, *chroma]


class _Scene:
    """A background that the camera pans over, and objects that move in front of it."""

    def __init__(self, random: np.random.Generator, size: Size) -> None:
        margin = SCENE_SECONDS * RATE_HZ * 2
        self._size = size
        self._background = _textures(random, size.width + margin, size.height + margin)
        self._pan = random.uniform(0.5, 2, 2)
        self._objects = [_Object(random, size) for _ in range(4)]

    def planes(self, step: int) -> list[Plane]:
        """Return Y, U and V after some frames."""
        x, y = (2 * int(part * step / 2) for part in self._pan)
        planes = []
        for channel, plane in enumerate(self._background):
            scale = 2 if channel else 1
            rows = slice(y // scale, (y + self._size.height) // scale)
            columns = slice(x // scale, (x + self._size.width) // scale)
            planes.append(plane[rows, columns].copy())
        for thing in self._objects:
            thing.draw(planes, step)
        return planes


class _Object:
    """A textured disc that moves along a line, and turns at the edges."""

    def __init__(self, random: np.random.Generator, size: Size) -> None:
        side = 8 * round(random.uniform(0.15, 0.4) * size.height / 8)
        self._range = size.width - side, size.height - side
        self._begin = random.uniform(0, self._range)
        self._speed = random.uniform(-0.005, 0.005, 2) * size.height
        self._planes = _textures(random, side, side)
        down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        self._inside = np.hypot(down, across) < 1

    def draw(self, planes: list[Plane], step: int) -> None:
        """Draw the object as it is after some frames."""
        places = zip(self._begin + self._speed * step, self._range, strict=True)
        x, y = (2 * int(abs((m + r) % (2 * r) - r) / 2) for m, r in places)
        for channel, (plane, own) in enumerate(zip(planes, self._planes, strict=True)):
            scale = 2 if channel else 1
            height, width = own.shape
            part = plane[y // scale :, x // scale :][:height, :width]
            np.copyto(part, own, where=self._inside[::scale, ::scale])


def _textures(random: np.random.Generator, width: int, height: int) -> list[Plane]:
    """Return planes whose details shrink like those of photographs, Y, U and V."""
    luma = _pink(random, height, width, deviation=45, mean=random.uniform(90, 150))
    u, v = (
        _pink(random, height // 2, width // 2, deviation=12, mean=random.uniform(100, 156))
        for _ in range(2)
    )
    return [luma, u, v]


def _pink(
    random: np.random.Generator, height: int, width: int, *, deviation: float, mean: float
) -> Plane:
    """Return noise whose amplitude falls with the frequency."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(down, across), 1 / max(height, width)) ** 1.2
    phases = np.exp(2j * np.pi * random.random(amplitude.shape))
    wave = np.fft.irfft2(amplitude * phases, s=(height, width))
    return np.clip(mean + deviation * wave / wave.std(), 16, 235).astype(np.uint8)
