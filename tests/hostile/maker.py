"""Makes the valid files from which hostile files are built."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Stream

from tests.rollout_core import films


class Maker:
    """Encodes files in a folder; holds one valid film for each container."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mp4 = self.film("film.mp4")
        self.mkv = self.film("film.mkv")
        self.avi = self.film("film.avi", codec="mpeg4")
        self.ts = self.film("film.ts")

    def film(self, name: str, **recipe: object) -> bytes:
        """Encode a film; see `films.encode`."""
        return films.encode(self._folder / name, **recipe).read_bytes()  # type: ignore[arg-type]

    def muxed(self, name: str, codec: str, frames: int = 3, **properties: object) -> bytes:
        """Encode a stream with any codec, also sound."""
        path = self._folder / name
        with av.open(path, "w") as output:
            if codec == "aac":
                stream: Stream = output.add_stream("aac", rate=8000)
            else:
                size = {"width": 64, "height": 48} | properties
                stream = output.add_stream(codec, rate=25, **size)
            _encode(output, stream, frames)
        return path.read_bytes()

    def repeated(self, name: str, frames: int, **recipe: object) -> bytes:
        """Make a Matroska film that repeats its second frame."""
        source = io.BytesIO(self.film(name, frames=2, **recipe))
        target = io.BytesIO()
        with av.open(source) as read, av.open(target, "w", format="matroska") as written:
            stream = written.add_stream_from_template(read.streams.video[0])
            first, second = [packet for packet in read.demux(video=0) if packet.size]
            for index in range(frames):
                packet = av.Packet(bytes(second if index else first))
                packet.stream, packet.time_base = stream, Fraction(1, 100)
                packet.pts = packet.dts = index
                packet.is_keyframe = index == 0
                written.mux(packet)
        return target.getvalue()


def _encode(output: OutputContainer, stream: Stream, frames: int) -> None:
    for index in range(frames):
        if stream.type == "audio":
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = stream.rate
        else:
            pixels = films.grey(index, stream.width, stream.height)
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format=stream.pix_fmt)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
