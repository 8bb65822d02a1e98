"""How a stored frame is displayed. A stand-in: the values that PyAV itself gives."""

from dataclasses import dataclass
from typing import Literal

from av.video.frame import VideoFrame

from rollout_core.contract import Color, VideoWarning


@dataclass(frozen=True)
class Display:
    """From the stored to the displayed picture."""

    size: tuple[int, int]
    rotation: int
    mirrored: bool
    pixel_aspect_ratio: float
    color: Color
    hdr: Literal["pq", "hlg"] | None
    pixel_format: str
    warnings: tuple[VideoWarning, ...] = ()

    @classmethod
    def of(cls, picture: VideoFrame, size: tuple[int, int], quarter_turns: int) -> "Display":
        """Return how a picture of the displayed `size` is displayed."""
        return cls(
            size=size,
            rotation=90 * quarter_turns,
            mirrored=False,
            pixel_aspect_ratio=1.0,
            color=Color(matrix="unknown", primaries="unknown", transfer="unknown", range="limited"),
            hdr=None,
            pixel_format=picture.format.name,
        )
