"""Keeps the pictures of the contact sheet while the clips are read, so that no pass is needed."""

from collections.abc import Mapping

from rollout_core.pictures.sheet import choose_frames, thumbnail_size
from rollout_core.video.clips import Crop, resize
from rollout_core.video.convert import Plane
from rollout_core.video.decoder import Frame


class KeptThumbnails:
    """Thumbnails of the sampled frames that the sheet will show; at most `MAX_FRAMES`.

    Which frames these are is known only once all are read, except where every moment has a frame
    of its own. Where one does not, nothing is kept.
    """

    def __init__(self, crop: Crop, moments: int) -> None:
        """Expect the frames of this number of moments."""
        self._places = {*choose_frames(moments)}
        self._size = thumbnail_size(crop)
        self._moments = moments
        self._seen = 0
        self._pixels: dict[int, Plane] = {}

    def add(self, frame: Frame, crop: Plane) -> None:
        """Take the next sampled frame.

        Args:
            crop: the part of it that the model sees, uint8 `H W c`, RGB.
        """
        if self._seen in self._places:
            width, height = self._size
            self._pixels[frame.index] = resize(crop, height=height, width=width)
        self._seen += 1

    @property
    def pixels(self) -> Mapping[int, Plane]:
        """Thumbnails, uint8 `H W c`, RGB, by the index of their frame: all of a sheet, or none."""
        return self._pixels if self._seen == self._moments else {}
