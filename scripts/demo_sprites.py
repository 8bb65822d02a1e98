"""Renders the sheet of sprites from a colour font; see scripts/demo-sprites."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rollout_core.demo.sprite_names import CELL, COLUMNS, SPRITES

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109
"""The one size of the font's bitmaps, in pixels."""

GLYPH_CANVAS = 160
SHEET_PATH = Path(__file__).parents[1] / "rollout_core" / "demo" / "sprites.webp"


def main() -> None:
    """Write the sheet."""
    font = ImageFont.truetype(sys.argv[1] if sys.argv[1:] else FONT_PATH, FONT_SIZE)
    rows = -(-len(SPRITES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, glyph in enumerate(SPRITES.values()):
        row, column = divmod(index, COLUMNS)
        sheet.paste(_sprite(glyph, font), (column * CELL, row * CELL))
    sheet.save(SHEET_PATH, quality=80, alpha_quality=90, method=6)


def _sprite(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return the glyph, cropped to what is drawn and centred in a square cell."""
    canvas = Image.new("RGBA", (GLYPH_CANVAS, GLYPH_CANVAS))
    ImageDraw.Draw(canvas).text((8, 8), glyph[0], font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font has no picture of {glyph}")
    drawn = canvas.crop(box)
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square.resize((CELL, CELL), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
