"""An engine without a model, for teams who build on the service and for its own tests.

It speaks as the real one and takes the same requests; for its answers see `worker.fake_engine`.
The name of the model is its script.
"""

import os
import time
from hashlib import sha256
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import Fill, TokenQuery
from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from worker.engine_server import warm_up
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays

SLOW_SECONDS = 0.5
"""What `fake-slow` takes for a clip, or for a curve of any number of them."""

CRASH_STATUS = 70
"""Exit status of `fake-crash`."""

SPECS: dict[str, ModelSpec] = {
    name: ModelSpec(
        name=name,
        frames=8,
        stride=4,
        sampling="uniform",
        clip_seconds=1.0,
        height=64,
        width=64,
        patch_height=8,
        patch_width=8,
        depth=4,
        classes=5,
        labels=("still", "drifting", "growing", "turning", "flickering"),
        licence="Apache-2.0",
    )
    for name in ("fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang")
}


class FakeEngine:
    """A loaded `LoadedEngine` that follows the script of its name."""

    def __init__(self, spec: ModelSpec, batch_clips: int = 1) -> None:
        self._spec = spec
        self.ready = Ready(
            spec=spec,
            checkpoint_sha256=None,
            device="none",
            batch_clips=batch_clips,
            clip_seconds=warm_up(self._explain, spec),
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`, or do what the script says."""
        self._require_layer("start_layer", request.start_layer)
        self._require_layer("layer", request.layer or 0)
        self._act(clips=len(frames))
        return self._explain(frames, request)

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed`, or do what the script says."""
        self._act()
        return perturb(frames, order, request, self._spec)

    def _explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        return explain(frames, request, self._spec)

    def _require_layer(self, name: str, layer: int) -> None:
        depth = self._spec.depth
        if layer >= depth:
            raise InvalidRequest(f"{name} is {layer}, but the model has {depth} layers")

    def _act(self, clips: int = 1) -> None:
        match self._spec.name:
            case "fake-slow":
                time.sleep(clips * SLOW_SECONDS)
            case "fake-fail":
                raise OutOfMemory("fake-fail always runs out of memory")
            case "fake-crash":
                os._exit(CRASH_STATUS)
            case "fake-hang":
                _hang()


def load(options: EngineOptions) -> FakeEngine:
    """Return the fake engine of that name.

    Raises:
        UnknownModel: there is no such script.
    """
    if options.model not in SPECS:
        raise UnknownModel(f"no fake is called {options.model!r}; there are {', '.join(SPECS)}")
    return FakeEngine(SPECS[options.model], options.batch_clips or 1)


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


Floats = NDArray[np.float64]


CLS_SHARE = 0.02
"""Relevance that every token leaves to the classification token."""


OWN_SHARE = 0.3
"""Relevance that every patch keeps of its own."""


FLOOR = 1e-3
"""Change that every patch is given, so that a still clip has relevance too."""


ACCENTS = {
    "rollout": (1, 1, 1),
    "attention": (0, 1, 1),
    "gradient_rollout": (2, 1, 1),
    "projection": (1, 2, 2),
    "deviation": (2, 1, 3),
    "alti": (1, 3, 1),
    "l2": (1, 1, 3),
}
"""Weights of the changes in time, down and across, by method or weighting."""


FADING: dict[Fill, float] = {"mean": 1.0, "blur": 0.5, "still": 2.0}
"""Exponent by which a class fades with the changes that are left: a blur leaves more to see."""


def explain(frames: NDArray[np.uint8], request: Explain, spec: ModelSpec) -> Arrays:
    """Return the arrays of `Explained` for frames `b t H W c`."""
    logits = logits_of(frames, spec.classes)
    change = change_of(frames, spec, ACCENTS[_accent(request)], request.head_fusion)
    explained: Arrays = {"logits": logits}
    if request.method == "gradient_rollout":
        explained["targets"] = _targets(logits, request.target)
        change *= _taste(explained["targets"], spec)

    def look_from(layer: int) -> Floats:
        return rollout_of(change, layer / spec.depth, request.discard_ratio)

    tokens = look_from(_layer(request, spec.depth))  # b n n
    rows = [_row(tokens, query, request.first_clip, spec) for query in request.queries]
    explained["query_relevance"] = np.stack(rows, axis=1).astype(np.float32)  # b r t h w
    explained["temporal_rollout"] = _by_frame(tokens, spec).astype(np.float32)  # b t t
    if request.full_rollout:
        explained["full_rollout"] = tokens.astype(np.float16)
    if request.per_layer:
        layers = [look_from(max(layer, request.start_layer)) for layer in range(spec.depth)]
        rows = [_row(layer, request.queries[0], request.first_clip, spec) for layer in layers]
        explained["layer_relevance"] = np.stack(rows, axis=1).astype(np.float32)  # b l t h w
    return explained


def perturb(
    frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb, spec: ModelSpec
) -> NDArray[np.float32]:
    """Return a class's probability `steps+1`: it fades, to chance, with the changes left to see."""
    logits = logits_of(frames, spec.classes)[0].astype(np.float64)
    whole = np.exp(logits[request.target]) / np.exp(logits).sum()
    change = change_of(frames, spec, ACCENTS["rollout"], "mean")[0].reshape(-1)  # (t h w)
    left = np.append(change[order][::-1].cumsum()[::-1], 0) / change.sum()
    replaced = np.linspace(0, len(order), request.steps + 1).round().astype(np.int64)
    chance = 1 / spec.classes
    faded = chance + (whole - chance) * left[replaced] ** FADING[request.fill]
    return np.asarray(faded, np.float32)


def logits_of(frames: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """Return a digest of each clip's frames as logits from -3 to 3, `b k`."""
    digests = [sha256(clip.tobytes()).digest()[:classes] for clip in frames]
    levels = np.array([list(digest) for digest in digests], np.float32)
    return (levels / 127.5 - 1) * 3


def change_of(
    frames: NDArray[np.uint8], spec: ModelSpec, accents: tuple[int, int, int], fusion: str
) -> Floats:
    """Return how much each patch changes in time, down and across, `b t h w`.

    A patch's pixels are fused as the request wants heads to be.
    """
    brightness = frames.astype(np.float64).mean(axis=-1)  # b t H W
    change = sum(
        weight * np.abs(np.gradient(brightness, axis=axis))
        for axis, weight in enumerate(accents, start=1)
    )
    h, w = spec.grid[1:]
    pixels = change.reshape(*change.shape[:2], h, spec.patch_height, w, spec.patch_width)
    fused: Floats = getattr(pixels, fusion)(axis=(3, 5))  # b t h i w j -> b t h w
    return fused + FLOOR


def rollout_of(change: Floats, depth: float, discard_ratio: float) -> Floats:
    """Return what each token takes of each token, `b n n`; every row sums to 1.

    A patch prefers its own frame and place, and everything prefers what changes: the more so,
    the deeper (0 to 1) the layer from which it looks.
    """
    b, t, h, w = change.shape
    flat = change.reshape(b, -1) ** (1 + depth)  # b (t h w)
    threshold = np.quantile(flat, discard_ratio, axis=1, keepdims=True)
    shares = np.where(flat >= threshold, flat, 0.0)
    near = 1 + np.kron(np.eye(t), np.ones((h * w, h * w))) + np.kron(np.ones((t, t)), np.eye(h * w))
    taken = np.concatenate([np.ones((1, t * h * w)), near]) * shares[:, None]  # b n (t h w)
    taken /= taken.sum(axis=-1, keepdims=True)
    taken[:, 1:] = (1 - OWN_SHARE) * taken[:, 1:] + OWN_SHARE * np.eye(t * h * w)
    cls = np.full((b, 1 + t * h * w, 1), CLS_SHARE)
    return np.concatenate([cls, (1 - CLS_SHARE) * taken], axis=-1)


def _accent(request: Explain) -> str:
    return request.weighting if request.method == "contribution_rollout" else request.method


def _layer(request: Explain, depth: int) -> int:
    """Return the layer from which the explained tokens look."""
    if request.method == "attention":
        return depth - 1 if request.layer is None else request.layer
    return request.start_layer


def _targets(logits: NDArray[np.float32], target: int | None) -> NDArray[np.int64]:
    if target is None:
        return np.asarray(logits.argmax(axis=1), np.int64)
    return np.full(len(logits), target, np.int64)


def _taste(targets: NDArray[np.int64], spec: ModelSpec) -> Floats:
    """Return what each class makes of each frame, `b t 1 1`: every class has its own moment."""
    moments = np.linspace(0, 1, spec.frames, endpoint=False) - targets[:, None] / spec.classes
    return (1.5 + np.cos(2 * np.pi * moments))[:, :, None, None]


def _row(tokens: Floats, query: TokenQuery, first_clip: int, spec: ModelSpec) -> Floats:
    """Return what a token takes of each patch, `b t h w`; a clip without the token has none."""
    t, h, w = spec.grid
    if query == "cls":
        return tokens[:, 0, 1:].reshape(-1, t, h, w)
    taken = np.zeros((len(tokens), t, h, w))
    clip, token = query.clip - first_clip, 1 + (query.frame * h + query.row) * w + query.column
    if 0 <= clip < len(tokens):
        taken[clip] = tokens[clip, token, 1:].reshape(t, h, w)
    return taken


def _by_frame(tokens: Floats, spec: ModelSpec) -> Floats:
    """Return what the patches of each frame take of each frame, on average, `b t t`."""
    t = spec.frames
    b, p = len(tokens), (tokens.shape[1] - 1) // t
    pairs = tokens[:, 1:, 1:].reshape(b, t, p, t, p)  # b (q p) (t k) -> b q p t k
    frames: Floats = pairs.sum(axis=4).mean(axis=2)  # b q t
    return frames
