"""Writes the tables of the page's colormaps. Start it through scripts/page-colormaps.

They are made by cmap, as those of the overlay video are.
"""

import base64
from pathlib import Path

from rollout_core.pictures.heat import rgb_table

NAMES = ("plasma", "turbo", "inferno", "magma", "viridis", "cividis", "gray")
TARGET = Path(__file__).parents[1] / "service/page/static/data/colormap_tables.js"
HEADER = """\
/** Written by scripts/page-colormaps. Each table is `256 3`, RGB, in base64. */

/** @type {Record<string, string>} */
export const TABLES = {
"""


def main() -> None:
    """Write the module."""
    lines = [
        f'  {name}:\n    "{base64.b64encode(rgb_table(name).tobytes()).decode()}",\n'
        for name in NAMES
    ]
    TARGET.write_text(HEADER + "".join(lines) + "};\n", encoding="utf-8")


if __name__ == "__main__":
    main()
