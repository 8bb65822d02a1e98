"""The numbers of a result as one file, and what they mean. numpy only, and never a pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray


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
