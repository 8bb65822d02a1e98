"""What a result is of, and what is needed to understand it and to make it again."""

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from numpy.typing import NDArray

from rollout_core.contract import METHOD_OPTIONS, ExplainRequest, TokenQuery
from rollout_core.requests import resolve_queries
from rollout_core.specs import ModelSpec, Sampling

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


@dataclass(frozen=True)
class Run:
    """What a result is of: a model, a request, and how that was understood.

    Attributes:
        crop: x, y, width and height of what the model saw, in source pixels as displayed.
        sampling, start_seconds, end_seconds: those really used; the span is half open.
        queries: the request's, points resolved to patches.
    """

    spec: ModelSpec
    checkpoint_sha256: str | None
    request: ExplainRequest
    crop: tuple[int, int, int, int]
    sampling: Sampling
    start_seconds: float
    end_seconds: float
    queries: tuple[TokenQuery, ...]

    @classmethod
    def resolve(
        cls,
        request: ExplainRequest,
        spec: ModelSpec,
        *,
        checkpoint_sha256: str | None,
        crop: tuple[int, int, int, int],
        sampling: Sampling,
        start_seconds: float,
        end_seconds: float,
        times_seconds: Sequence[Sequence[float]],
    ) -> Self:
        """Return the run of a request whose clips, sampled at `times_seconds`, are planned.

        Raises:
            InvalidRequest: see `requests.resolve_queries`.
        """
        queries = resolve_queries(
            request,
            times_seconds=times_seconds,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            crop=crop,
            spec=spec,
        )
        return cls(
            spec=spec,
            checkpoint_sha256=checkpoint_sha256,
            request=request,
            crop=crop,
            sampling=sampling,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            queries=queries,
        )

    @property
    def resolved_request(self) -> ExplainRequest:
        """The request with every default filled in."""
        resolved = {
            "model": self.spec.name,
            "sampling": self.sampling,
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
        }
        if self.request.method == "attention" and self.request.layer is None:
            resolved["layer"] = self.spec.depth - 1
        return self.request.model_copy(update=resolved)


def describe_run(run: Run, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
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
