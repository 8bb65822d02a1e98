"""The band below the pictures of an overlay video: prediction, what the colours mean, and time."""

from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rollout_core.contract import Caption, Color, Overlay
from rollout_core.pictures.heat import yuv_table
from rollout_core.pictures.sheet import colour_key, shortened
from rollout_core.video.convert import Planes
from rollout_core.video.geometry import Size

SHARE_OF_HEIGHT, SHARE_OF_WIDTH = 1 / 22, 1 / 13
"""Height of the band, at most, as a share of the picture's."""

MIN_LINES = 20
TEXT_SHARE = 0.6
"""Size of the text, as a share of the band's height."""

KEY_SHARE, KEY_SHARE_OF_WIDTH = 0.3, 0.15
"""Height of the key of the colours, as a share of the band's, and its width, of the picture's."""

TITLE_SHARE = 0.4
"""The key has no words, or is left out, where it would leave less than this of the width to the
prediction."""

INK, MUTED, BEHIND = (240, 242, 245), (168, 176, 186), (24, 27, 31)
LONGEST_TIME = "000.00 s"


def band_lines(size: Size) -> int:
    """Return the height of the band, even, for a picture of this width and height."""
    width, height = size
    lines = min(SHARE_OF_HEIGHT * height, SHARE_OF_WIDTH * width)
    return 2 * round(max(MIN_LINES, lines) / 2)


class CaptionBand:
    """Draws the band. All but the time is drawn once."""

    def __init__(
        self, width: int, lines: int, color: Color, caption: Caption, overlay: Overlay
    ) -> None:
        """Draw the band, except for the time. Its width and height are even."""
        self._color = color
        self._font = ImageFont.load_default(size=TEXT_SHARE * lines)
        self._gap = round(lines * (1 - TEXT_SHARE) / 2) + 2
        self._time = ""
        self._picture = Image.new("RGB", (width, lines), BEHIND)
        self._pen = ImageDraw.Draw(self._picture)
        room = ceil(self._font.getlength(LONGEST_TIME)) + self._gap
        self._time_left = max(0, (width - room) // 2 * 2)
        self._draw_texts(caption, overlay)
        self._planes = self._convert(self._picture)

    def draw(self, target: Planes, seconds: float) -> None:
        """Write the band at a time into the lowest lines of a picture."""
        time = f"{seconds:.2f} s"
        if time != self._time:
            self._time = time
            self._draw_time(time)
        for plane, band in zip(target, self._planes, strict=True):
            plane[-len(band) :] = band

    def _draw_texts(self, caption: Caption, overlay: Overlay) -> None:
        """Draw the prediction at the left, and the key of the colours before the time."""
        width, lines = self._picture.size
        left, middle = self._gap, lines / 2
        right = self._time_left - self._gap
        bar = round(KEY_SHARE_OF_WIDTH * width)
        words = ("against", "for") if overlay.signed else ("least", "most relevant")
        for low, high in (words, ("", "")):
            beside = [ceil(self._font.getlength(word)) + self._gap for word in (low, high) if word]
            end = right - sum(beside) - bar - self._gap
            if end - left > TITLE_SHARE * width:
                self._pen.text((right, middle), high, fill=MUTED, font=self._font, anchor="rm")
                bar_left = right - sum(beside[1:]) - bar
                self._draw_key(bar_left, bar, overlay)
                start = bar_left - self._gap, middle
                self._pen.text(start, low, fill=MUTED, font=self._font, anchor="rm")
                right = end
                break
        title = shortened(caption.title, self._font, right - left)
        self._pen.text((left, middle), title, fill=INK, font=self._font, anchor="lm")

    def _draw_key(self, left: int, width: int, overlay: Overlay) -> None:
        lines = self._picture.height
        height = max(4, round(KEY_SHARE * lines))
        plain = overlay.model_copy(
            update={"contours": False}
        )  # they would be blots on so slim a bar
        self._picture.paste(colour_key(width, height, plain), (left, (lines - height) // 2))

    def _draw_time(self, text: str) -> None:
        """Draw the time over the one before, which is all that is converted again."""
        width, lines = self._picture.size
        left = self._time_left
        self._pen.rectangle((left, 0, width, lines), fill=BEHIND)
        end = width - self._gap, lines / 2
        self._pen.text(end, text, fill=INK, font=self._font, anchor="rm")
        changed = self._convert(self._picture.crop((left, 0, width, lines)))
        for plane, part in zip(self._planes, changed, strict=True):
            plane[:, -part.shape[1] :] = part

    def _convert(self, picture: Image.Image) -> Planes:
        pixels = yuv_table(np.asarray(picture), self._color)
        lines, width = pixels.shape[:2]
        squares = pixels[..., 1:].reshape(lines // 2, 2, width // 2, 2, 2)
        halved = np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
        return [pixels[..., 0].copy(), halved[..., 0], halved[..., 1]]
