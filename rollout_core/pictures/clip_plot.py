"""Plots one explained clip for a notebook: its frames, and the heat map over each."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from rollout_core.archive import Archive
from rollout_core.contract import ExplainResult, Overlay
from rollout_core.pictures.heat import colour_table, scale_maps
from rollout_core.pictures.sheet import heated

SCALE = 3
"""Pixels of the drawing per pixel of the model's input, along each side."""

COLUMNS = 8
"""Frames in a row."""

CELL_INCHES, TITLE_INCHES = 1.6, 0.6
DOTS_PER_INCH = 100


def plot_clip(
    result: ExplainResult, arrays: Archive, frames: NDArray[np.uint8] | None, clip: int
) -> Figure:
    """Draw the frames of a clip with their heat maps.

    Colours are scaled as in the other pictures.

    Args:
        frames: `clip t H W c`; None draws the heat maps alone.
    Raises:
        IndexError: there is no such clip.
    """
    overlay = result.request.overlay or Overlay()
    maps = arrays.relevance.astype(np.float64)  # clip t h w
    if not overlay.signed:
        maps = maps.clip(min=0)
    scaled = scale_maps(maps.reshape(-1, *maps.shape[2:]), overlay)
    heat = scaled.reshape(maps.shape)[clip].astype(np.float32)
    rows, columns = -(-len(heat) // COLUMNS), min(len(heat), COLUMNS)
    size = columns * CELL_INCHES, rows * (CELL_INCHES + 0.25) + TITLE_INCHES
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(_title(result, clip), x=0.01, ha="left", fontsize="medium", parse_math=False)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for index, (panel, values) in enumerate(zip(panels, heat, strict=False)):
        panel.imshow(_blend(values, None if frames is None else frames[clip, index], overlay))
        seconds, share = arrays.pts_seconds[clip, index], arrays.frame_relevance[clip, index]
        panel.set_title(f"{seconds:.2f} s · {share:.0%}", fontsize="small")
    return figure


def _blend(
    heat: NDArray[np.float32], frame: NDArray[np.uint8] | None, overlay: Overlay
) -> NDArray[np.uint8]:
    """Return the colours of a heat map `h w`; if there is a frame, `H W c`, smoothly over it."""
    if frame is None:
        return np.asarray(colour_table(overlay)[np.rint(255 * heat).astype(int)])
    height, width = frame.shape[:2]
    large = Image.fromarray(frame).resize((width * SCALE, height * SCALE), Resampling.BICUBIC)
    return np.asarray(heated(np.asarray(large), heat, overlay))


def _title(result: ExplainResult, clip: int) -> str:
    best = ", ".join(f"{each.label} {each.probability:.0%}" for each in result.predictions[:3])
    which = f"clip {clip + 1} of {result.clips}: " if result.clips > 1 else ""
    notes = "above each frame: its time, and its share of the clip's relevance"
    return f"{which}{best}\n{result.request.method}; {notes}"
