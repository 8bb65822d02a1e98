"""The arrays of a result in one file, `rollout.npz`, and the metadata that describes them.

Needs numpy only. Never writes or loads pickles.
"""

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import OPTIONS_BY_METHOD, ExplainRequest
from rollout_core.resolve import ResolvedRun

RECORDED_PACKAGES = ("timesformer-rollout", "torch", "timm", "av", "numpy", "pillow", "cmap")
"""Packages whose versions are recorded, because they may affect a result."""

DISCARD = (
    "of each attention (of one frame, or over time of one location) this share of the smallest "
    "entries of the whole head-fused matrix is set to 0, before the residual is added; a token's "
    "own entry stays, and rows are renormalised"
)
"""What `discard_ratio` means here. In other programs it is a quantile after the residual."""

SIGNED = {
    "contribution_rollout": "none, with signs: what a clip's patches add to the logit of the "
    "target, relative to the mean of all logits or to that of `against`; the rest stays with the "
    "classification token",
    "difference": "none, with signs: a clip sums to the target's logit minus that of its "
    "reference; above the first layer with the classification token's part",
}
"""Scale of the maps of classes, by method."""

SUMS_TO_ONE = "none: with the classification token's own share, {} sums to 1"
UNBOUNDED = "none: sums are not fixed"


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What one array of an archive holds.

    Attributes:
        dtype: the type in the file.
        axes: names of the axes: `clip`, `query`, `target`, `t` frame, `h w` patch, `l` layer,
            `k` class, `n` token (the classification token, then the patches in the order `t h w`).
        meaning: what a value is.
        axes_text: the entry under `axes` in the metadata. Default: `axes`.
        optional: whether the file may lack the array.
    """

    dtype: type[np.generic]
    axes: str
    meaning: str
    axes_text: str | None = None
    optional: bool = False


ARRAYS: dict[str, ArraySpec] = {
    "relevance": ArraySpec(
        dtype=np.float32,
        axes="clip t h w",
        meaning="relevance of each patch for the first query or target; with signs for "
        "contribution_rollout with a target and for difference",
    ),
    "frame_relevance": ArraySpec(
        dtype=np.float32,
        axes="clip t",
        meaning="share of each frame in the clip's relevance; negative values count as 0",
    ),
    "temporal_rollout": ArraySpec(
        dtype=np.float32,
        axes="clip t t",
        meaning="relevance of each frame for a query spread over all patches of a frame; not for "
        "difference, nor for contribution_rollout with a target",
        axes_text="clip t t: the row is the frame asked about, the column where it looked",
        optional=True,
    ),
    "pts_seconds": ArraySpec(
        dtype=np.float64,
        axes="clip t",
        meaning="time of each sampled frame, in seconds since the first frame of the video",
    ),
    "frame_index": ArraySpec(
        dtype=np.int64,
        axes="clip t",
        meaning="index of each sampled frame among all frames of the video",
    ),
    "crop_xywh": ArraySpec(
        dtype=np.int64,
        axes="xywh",
        meaning="the part that the model saw, in source pixels as displayed",
        axes_text="x y width height, source pixels as displayed",
    ),
    "logits": ArraySpec(dtype=np.float32, axes="clip k", meaning="output of the model"),
    "targets": ArraySpec(
        dtype=np.int64,
        axes="clip",
        meaning="index of the class explained, the first one if there are several, for methods "
        "that explain a class",
        axes_text="clip, index of the class",
        optional=True,
    ),
    "query_relevance": ArraySpec(
        dtype=np.float32,
        axes="query clip t h w",
        meaning="relevance of each patch for each query, if there are several",
        optional=True,
    ),
    "target_relevance": ArraySpec(
        dtype=np.float32,
        axes="target clip t h w",
        meaning="relevance of each patch for each target, with signs, if there are several",
        optional=True,
    ),
    "target_classes": ArraySpec(
        dtype=np.int64,
        axes="target clip",
        meaning="index of the class of each target, if there are several",
        optional=True,
    ),
    "layer_relevance": ArraySpec(
        dtype=np.float32,
        axes="clip l t h w",
        meaning="relevance at each layer for the first query or target, if `per_layer` was "
        "requested",
        axes_text="clip l t h w: of the first query or target, from it down to the input of layer "
        "l; of attention, that of layer l alone",
        optional=True,
    ),
    "full_rollout": ArraySpec(
        dtype=np.float16,
        axes="clip n n",
        meaning="rollout of every token, if `full_rollout` was requested",
        axes_text="clip n n: the row is the query; token 0 is the classification token, then "
        "the patches in order t h w",
        optional=True,
    ),
}
"""Every array of an archive, in the order of the file. `Archive` has a field for each."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The content of `rollout.npz`. An array that is None is not in the file.

    `ARRAYS` gives the dtype, the axes and the meaning of each array.

    Attributes:
        meta: see `describe_run`. Stored as JSON text.
    """

    relevance: NDArray[np.float32]
    frame_relevance: NDArray[np.float32]
    pts_seconds: NDArray[np.float64]
    frame_index: NDArray[np.int64]
    crop_xywh: NDArray[np.int64]
    logits: NDArray[np.float32]
    meta: dict[str, Any]
    temporal_rollout: NDArray[np.float32] | None = None
    targets: NDArray[np.int64] | None = None
    query_relevance: NDArray[np.float32] | None = None
    target_relevance: NDArray[np.float32] | None = None
    target_classes: NDArray[np.int64] | None = None
    layer_relevance: NDArray[np.float32] | None = None
    full_rollout: NDArray[np.float16] | None = None


def save(path: Path, archive: Archive) -> None:
    """Write a compressed archive: first to a file beside `path`, which is then renamed."""
    arrays = {
        name: np.asarray(array, spec.dtype)
        for name, spec in ARRAYS.items()
        if (array := getattr(archive, name)) is not None
    }
    meta = np.array(json.dumps(archive.meta, ensure_ascii=False, allow_nan=False))
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, meta=meta, **arrays)
    beside.replace(path)


def load(path: Path) -> Archive:
    """Read an archive.

    Raises:
        ValueError: the file is not a complete archive, or it holds pickled objects.
        KeyError: a required array is missing.
    """
    if not is_zipfile(path):
        raise ValueError(f"{path} is not a complete archive")
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        names = [name for name, spec in ARRAYS.items() if not spec.optional or name in file]
        return Archive(**{name: file[name] for name in names}, meta=meta)


def describe_run(run: ResolvedRun, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the metadata of an archive: all that is needed to read and reproduce its arrays."""
    request, spec = run.resolved_request, run.spec
    targets = arrays.get("targets")
    return {
        "model": spec.name,
        "checkpoint_sha256": run.checkpoint_sha256,
        "method": _describe_method(request),
        "targets": None if targets is None else [spec.label(int(k)) for k in targets],
        "queries": [q if q == "cls" else q.model_dump() for q in run.queries],
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
        "normalisation": _describe_normalisation(request, arrays),
        "axes": {
            name: spec.axes_text or spec.axes for name, spec in ARRAYS.items() if name in arrays
        },
        "versions": _versions(),
    }


def _describe_method(request: ExplainRequest) -> dict[str, Any]:
    """Return the method and the options that it uses."""
    options = {name: getattr(request, name) for name in OPTIONS_BY_METHOD[request.method]}
    discard = {"discard": DISCARD} if "discard_ratio" in options else {}
    return {"name": request.method, **options, **discard}


def _describe_normalisation(request: ExplainRequest, arrays: Collection[str]) -> dict[str, str]:
    """Return how each array of relevance and the pictures are scaled."""
    # Rollouts renormalise rows, except gradient_rollout. Of fused attention, only the mean over
    # heads still sums to 1.
    sums_to_one = request.method in ("rollout", "contribution_rollout") or (
        request.method == "attention" and request.head_fusion == "mean"
    )
    scales = {
        name: SIGNED[request.method]
        if request.explains_classes
        else SUMS_TO_ONE.format(whole)
        if sums_to_one
        else UNBOUNDED
        for name, whole in (
            ("relevance", "a clip that the query is of"),
            ("query_relevance", "the query's clip"),
            ("target_relevance", "a clip"),
            ("layer_relevance", "a clip at a layer"),
            ("temporal_rollout", "a row"),
            ("full_rollout", "a row"),
        )
        if name in arrays
    }
    return scales | {
        "frame_relevance": "a clip sums to 1, or to 0 where none of its relevance is positive",
        "pictures": (
            "the means of frames sampled more than once, of which negative values count as 0, "
            "scaled to 0..1 by the minimum and maximum over the whole video"
        ),
    }


def _versions() -> dict[str, str]:
    """Return the version of Python and of each installed package in `RECORDED_PACKAGES`."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
