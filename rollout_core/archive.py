"""The numbers of a result as one file, and what they mean. numpy only, and never a pickle."""

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

from rollout_core.contract import METHOD_OPTIONS, ExplainRequest
from rollout_core.resolve import ResolvedRun


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What `rollout.npz` holds, under these names; what is None is not in the file.

    Attributes:
        relevance: float32 `clip t h w`, of the first query.
        frame_relevance: float32 `clip t`, each frame's share of the clip's relevance.
        temporal_rollout: float32 `clip t t`, from all patches of a frame to each frame.
        pts_seconds: float64 `clip t`, of each sampled frame, counted from the first.
        frame_index: int64 `clip t`, of each sampled frame among all frames of the video.
        crop_xywh: int64 `4`, the part that the model saw, in source pixels as displayed.
        logits: float32 `clip k`.
        meta: see `run.describe_run`; JSON text in the file.
        targets: int64 `clip`, the class explained, where the method explains one.
        query_relevance: float32 `query clip t h w`, where several queries were asked.
        layer_relevance: float32 `clip l t h w`, if asked for.
        full_rollout: float16 `clip n n`, row by query, if asked for.
    """

    relevance: NDArray[np.float32]
    frame_relevance: NDArray[np.float32]
    temporal_rollout: NDArray[np.float32]
    pts_seconds: NDArray[np.float64]
    frame_index: NDArray[np.int64]
    crop_xywh: NDArray[np.int64]
    logits: NDArray[np.float32]
    meta: dict[str, Any]
    targets: NDArray[np.int64] | None = None
    query_relevance: NDArray[np.float32] | None = None
    layer_relevance: NDArray[np.float32] | None = None
    full_rollout: NDArray[np.float16] | None = None


ARRAY_TYPES: dict[str, type[np.generic]] = {
    "relevance": np.float32,
    "frame_relevance": np.float32,
    "temporal_rollout": np.float32,
    "pts_seconds": np.float64,
    "frame_index": np.int64,
    "crop_xywh": np.int64,
    "logits": np.float32,
}

OPTIONAL_ARRAY_TYPES: dict[str, type[np.generic]] = {
    "targets": np.int64,
    "query_relevance": np.float32,
    "layer_relevance": np.float32,
    "full_rollout": np.float16,
}


def save(path: Path, archive: Archive) -> None:
    """Write an archive, compressed: beside its place, then moved there."""
    arrays = {
        name: np.asarray(array, kind)
        for name, kind in (ARRAY_TYPES | OPTIONAL_ARRAY_TYPES).items()
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
        ValueError, KeyError: it is none, or holds pickled objects, which are never loaded.
    """
    if not is_zipfile(path):
        raise ValueError(f"{path} is no whole archive")
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        names = (*ARRAY_TYPES, *(name for name in OPTIONAL_ARRAY_TYPES if name in file))
        return Archive(**{name: file[name] for name in names}, meta=meta)


VERSIONED = ("timesformer-rollout", "torch", "timm", "av", "numpy", "pillow", "cmap")
"""Distributions whose version may bear on a result."""


DISCARD = (
    "of each attention (of one frame, or over time of one location) this share of the smallest "
    "entries of the whole head-fused matrix is set to 0, before the residual is added; a token's "
    "own entry stays, and rows are renormalised"
)
"""The meaning of `discard_ratio`; in other programs it is a quantile after the residual."""


_SHARES = "none: with the classification token's own share, {} sums to 1"


_UNBOUNDED = "none: sums are not fixed"


AXES = {
    "relevance": "clip t h w",
    "frame_relevance": "clip t",
    "temporal_rollout": "clip t t: the row is the frame asked about, the column where it looked",
    "pts_seconds": "clip t",
    "frame_index": "clip t",
    "crop_xywh": "x y width height, source pixels as displayed",
    "logits": "clip k",
    "targets": "clip, index of the class",
    "query_relevance": "query clip t h w",
    "layer_relevance": "clip l t h w: of the first query, from it down to the input of layer l; of "
    "attention, that of layer l alone",
    "full_rollout": "clip n n: the row is the query; token 0 is the classification token, then "
    "the patches in order t h w",
}


def describe_run(run: ResolvedRun, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what is needed to understand the arrays of an archive, and to make them again."""
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
        "axes": {name: axes for name, axes in AXES.items() if name in arrays},
        "versions": _versions(),
    }


def _describe_method(request: ExplainRequest) -> dict[str, Any]:
    """Return the method and every option that means something to it."""
    options = {name: getattr(request, name) for name in METHOD_OPTIONS[request.method]}
    discard = {"discard": DISCARD} if "discard_ratio" in options else {}
    return {"name": request.method, **options, **discard}


def _describe_normalisation(request: ExplainRequest, arrays: Collection[str]) -> dict[str, str]:
    """Return how each array of relevance, and what is drawn of it, is scaled."""
    # Only the mean of the heads' attention still sums to 1; rollouts renormalise, but Chefer's.
    bounded = request.method in ("rollout", "contribution_rollout") or (
        request.method == "attention" and request.head_fusion == "mean"
    )
    scales = {
        name: _SHARES.format(whole) if bounded else _UNBOUNDED
        for name, whole in (
            ("relevance", "a clip that the query is of"),
            ("query_relevance", "the query's clip"),
            ("layer_relevance", "a clip at a layer"),
            ("temporal_rollout", "a row"),
            ("full_rollout", "a row"),
        )
        if name in arrays
    }
    return scales | {
        "frame_relevance": "a clip sums to 1, or to 0 where its relevance is 0 everywhere",
        "pictures": (
            "the means of frames sampled more than once, scaled to 0..1 by the minimum and "
            "maximum over the whole video"
        ),
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
