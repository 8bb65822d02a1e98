"""The numbers of a result as one file, and what they mean. numpy only, and never a pickle."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import ExplainRequest
from rollout_core.specs import ModelSpec, Sampling

VERSIONED = ("timesformer-rollout", "torch", "timm", "av", "numpy", "pillow", "cmap")
"""Distributions whose version may bear on a result."""

NORMALISATION = {
    "relevance": (
        "none: each patch's share of the classification token's flow; with the token's own "
        "share, a clip sums to 1 (each frame does, for space_only attention)"
    ),
    "pictures": (
        "the means of frames sampled more than once, scaled to 0..1 by the minimum and maximum "
        "over the whole video"
    ),
}


@dataclass(frozen=True)
class Run:
    """What a result is of: a model, a request, and how that was understood.

    Attributes:
        crop: x, y, width and height of what the model saw, in source pixels as displayed.
        sampling, start_seconds, end_seconds: those really used; the span is half open.
    """

    spec: ModelSpec
    checkpoint_sha256: str | None
    request: ExplainRequest
    crop: tuple[int, int, int, int]
    sampling: Sampling
    start_seconds: float
    end_seconds: float

    @property
    def resolved_request(self) -> ExplainRequest:
        """The request with every default filled in."""
        return self.request.model_copy(
            update={
                "model": self.spec.name,
                "sampling": self.sampling,
                "start_seconds": self.start_seconds,
                "end_seconds": self.end_seconds,
            }
        )


@dataclass(frozen=True)
class Archive:
    """What `rollout.npz` holds, under these names.

    Attributes:
        relevance: float32 `clip t h w`, not normalised.
        pts_seconds: float64 `clip t`, of each sampled frame, counted from the first.
        frame_index: int64 `clip t`, of each sampled frame among all frames of the video.
        crop_xywh: int64 `4`, the part that the model saw, in source pixels as displayed.
        logits: float32 `clip k`.
        meta: see `describe_run`; JSON text in the file.
    """

    relevance: NDArray[np.float32]
    pts_seconds: NDArray[np.float64]
    frame_index: NDArray[np.int64]
    crop_xywh: NDArray[np.int64]
    logits: NDArray[np.float32]
    meta: dict[str, Any]


ARRAY_TYPES: dict[str, type[np.generic]] = {
    "relevance": np.float32,
    "pts_seconds": np.float64,
    "frame_index": np.int64,
    "crop_xywh": np.int64,
    "logits": np.float32,
}


def save(path: Path, archive: Archive) -> None:
    """Write an archive, compressed: beside its place, then moved there."""
    arrays = {name: np.asarray(getattr(archive, name), kind) for name, kind in ARRAY_TYPES.items()}
    meta = np.array(json.dumps(archive.meta, ensure_ascii=False, allow_nan=False))
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, meta=meta, **arrays)
    beside.replace(path)


def load(path: Path) -> Archive:
    """Read an archive.

    Raises:
        ValueError, KeyError: it is none, or holds pickled objects, which are never loaded.
    """
    if not is_zipfile(path):
        raise ValueError(f"{path} is no whole archive")
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        return Archive(**{name: file[name] for name in ARRAY_TYPES}, meta=meta)


def describe_run(run: Run) -> dict[str, Any]:
    """Return what is needed to understand an archive, and to make it again."""
    request, spec = run.request, run.spec
    return {
        "model": spec.name,
        "checkpoint_sha256": run.checkpoint_sha256,
        "method": {
            "name": request.method,
            "head_fusion": request.head_fusion,
            "discard_ratio": request.discard_ratio,
            "start_layer": request.start_layer,
        },
        "sampling": {
            "name": run.sampling,
            "clips": request.clips,
            "frames": spec.frames,
            "stride": spec.stride if run.sampling == "strided" else None,
            "start_seconds": run.start_seconds,
            "end_seconds": run.end_seconds,
        },
        "input": {
            "height": spec.height,
            "width": spec.width,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "channel_order": spec.channel_order,
        },
        "overlay": request.overlay.model_dump() if request.overlay else None,
        "normalisation": NORMALISATION,
        "axes": {
            "relevance": "clip t h w",
            "pts_seconds": "clip t",
            "frame_index": "clip t",
            "crop_xywh": "x y width height, source pixels as displayed",
            "logits": "clip k",
        },
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Return the version of Python and of each distribution that is installed here."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
