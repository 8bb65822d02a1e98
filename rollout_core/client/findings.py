"""What a result says, in words and numbers, for readers that see no pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core.archive import Archive
from rollout_core.contract import ExplainResult

TOP_FRAMES = 3
MOST_CLIPS = 8
"""Clips that are described; a long video has many."""

TENTH = 0.1
DECIMALS = 3
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")


def describe_findings(result: ExplainResult, arrays: Archive) -> dict[str, Any]:
    """Return the predictions, and when and where the model looked in each clip.

    Points are source pixels as displayed, times seconds since the first frame of the video.
    """
    clips = [_describe_clip(arrays, clip) for clip in range(min(len(arrays.relevance), MOST_CLIPS))]
    return {
        "model": result.model,
        "method": result.request.method,
        "predictions": [
            {"label": p.label, "probability": round(p.probability, DECIMALS)}
            for p in result.predictions
        ],
        "explained_class": result.targets[0].label if result.targets else None,
        "has_signs": bool((arrays.relevance < 0).any()),
        "clips": clips,
        "clips_not_described": len(arrays.relevance) - len(clips),
        "warnings": [warning.detail for warning in result.warnings],
    }


def tell_findings(findings: dict[str, Any]) -> str:
    """Return the findings as a few sentences."""
    best, *others = findings["predictions"]
    lines = [f"{findings['model']} predicts {best['label']!r} ({best['probability']:.1%})."]
    if others:
        rest = ", ".join(f"{p['label']!r} {p['probability']:.1%}" for p in others)
        lines.append(f"Then: {rest}.")
    if findings["explained_class"] is not None:
        opposes = "; what speaks against it is left out" if findings["has_signs"] else ""
        lines.append(f"Shown is what speaks for {findings['explained_class']!r}{opposes}.")
    for number, clip in enumerate(findings["clips"]):
        peak, frames = clip["peak"], clip["top_frames"]
        times = ", ".join(f"{f['seconds']:.2f} s ({f['share']:.0%})" for f in frames)
        lines.append(
            f"Clip {number} ({clip['start_seconds']:.2f} to {clip['end_seconds']:.2f} s): most "
            f"relevant frames at {times}. The most relevant patch is at {peak['seconds']:.2f} s "
            f"in the {peak['region']} of what the model sees, around pixel "
            f"({peak['x']:.0f}, {peak['y']:.0f}). The most relevant tenth of all patches has "
            f"{clip['top_tenth_share']:.0%} of the relevance (10% would be even)."
        )
    if findings["clips_not_described"]:
        lines.append(f"{findings['clips_not_described']} more clips are not described here.")
    lines += [f"Warning: {warning}" for warning in findings["warnings"]]
    return "\n".join(lines)


def _describe_clip(arrays: Archive, clip: int) -> dict[str, Any]:
    relevance = arrays.relevance[clip].astype(np.float64)  # t h w
    seconds, shares = arrays.pts_seconds[clip], arrays.frame_relevance[clip]
    frame, row, column = np.unravel_index(int(relevance.argmax()), relevance.shape)
    order = np.argsort(-shares, kind="stable")[:TOP_FRAMES]
    return {
        "start_seconds": _rounded(seconds.min()),
        "end_seconds": _rounded(seconds.max()),
        "top_frames": [
            {"seconds": _rounded(seconds[t]), "share": _rounded(shares[t])} for t in order
        ],
        "peak": {
            "seconds": _rounded(seconds[frame]),
            "region": _region(int(row), int(column), relevance.shape[1:]),
            **_pixel(arrays.crop_xywh, int(row), int(column), relevance.shape[1:]),
        },
        "top_tenth_share": _rounded(_top_share(relevance)),
    }


def _region(row: int, column: int, grid: tuple[int, ...]) -> str:
    """Return a name for the third of the picture, by rows and columns, that holds a patch."""
    vertical = ROWS[int(3 * (row + 0.5) / grid[0])]
    horizontal = COLUMNS[int(3 * (column + 0.5) / grid[1])]
    return (
        "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"
    )


def _pixel(crop: NDArray[np.int64], row: int, column: int, grid: tuple[int, ...]) -> dict[str, int]:
    """Return the centre of a patch."""
    left, top, width, height = (int(value) for value in crop)
    return {
        "x": round(left + width * (column + 0.5) / grid[1]),
        "y": round(top + height * (row + 0.5) / grid[0]),
    }


def _top_share(relevance: NDArray[np.float64]) -> float:
    """Return the share of the relevance in its largest tenth of patches, 0 if there is none."""
    ordered = np.sort(np.maximum(relevance, 0), axis=None)[::-1]
    total = float(ordered.sum())
    return float(ordered[: max(1, round(TENTH * ordered.size))].sum()) / total if total else 0.0


def _rounded(value: Any) -> float:
    return round(float(value), DECIMALS)
