"""An engine without a model, for tests and for clients that are developed without a GPU.

It takes the same requests as the real engine, and answers with arrays of the same shapes. Patches
that change over time or space get high relevance. The name of the model selects how it behaves:

fake        answers at once
fake-slow   answers after `SLOW_SECONDS` per clip
fake-fail   answers every request with `out_of_memory`
fake-crash  exits
fake-hang   never answers

A request can order the same of `fake`; see `worker.fake_script`.
"""

import os
import time
from hashlib import sha256
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import (
    PREDICTED,
    ClassChoice,
    Fill,
    MethodOptions,
    TokenQuery,
    default_weighting,
)
from rollout_core.errors import OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import check_layer
from worker.engine_server import warm_up
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays

VERSION = 2
"""Raised when the answers of a fake change: it stands for a checkpoint, which a fake has not."""

SLOW_SECONDS = 0.5
"""Time of `fake-slow` per clip, and per perturbation curve."""

CRASH_STATUS = 70
"""Exit status of `fake-crash`."""

CLS_RELEVANCE = 0.02
"""Relevance that every token gives to the classification token."""

OWN_RELEVANCE = 0.3
"""Share of the rest that every patch gives to itself."""

MEAN_FRAME_WEIGHT = 1.5
"""Mean over the frames of the weight that a class gives each of them."""

MIN_CHANGE = 1e-3
"""Change added to every patch, so that a still clip has relevance too."""

CHANGE_WEIGHTS = {
    "rollout": (1, 1, 1),
    "attention": (0, 1, 1),
    "gradient_rollout": (2, 1, 1),
    "projection": (1, 2, 2),
    "deviation": (2, 1, 3),
    "still": (1, 0, 0),
    "blur": (1, 2, 1),
    "mean": (2, 3, 3),
}
"""Weights of the changes in time, down and across, by method, weighting or reference."""

FILL_EXPONENTS: dict[Fill, float] = {"mean": 1.0, "blur": 0.5, "still": 2.0}
"""How fast the probability falls as patches are replaced. A blur keeps the most information."""

Floats = NDArray[np.float64]

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


def expected(model: str, batch_clips: int | None) -> Ready:
    """Return what the engine of a fake model will say once it has loaded, but for its speed."""
    return Ready(
        spec=SPECS[model],
        checkpoint_sha256=_digest(model),
        device="none",
        batch_clips=batch_clips or 1,
        clip_seconds=0,
    )


def _digest(name: str) -> str:
    """Return what stands for the digest of a checkpoint: equal jobs have equal results."""
    return sha256(f"{name} {VERSION}".encode()).hexdigest()


class FakeEngine:
    """A `LoadedEngine` that behaves as its model's name says."""

    def __init__(self, spec: ModelSpec, batch_clips: int = 1) -> None:
        self._spec = spec
        self.ready = Ready(
            spec=spec,
            checkpoint_sha256=_digest(spec.name),
            device="none",
            batch_clips=batch_clips,
            clip_seconds=warm_up(self._explain, spec),
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`, or fail as the name says."""
        check_layer("start_layer", request.options.start_layer, self._spec.depth)
        check_layer("layer", request.options.layer or 0, self._spec.depth)
        self._misbehave(clips=len(frames), ordered=request.fake)
        return self._explain(frames, request)

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed`, or fail as the name says."""
        self._misbehave()
        return perturb(frames, order, request, self._spec)

    def _explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        return explain(frames, request, self._spec)

    def _misbehave(self, clips: int = 1, ordered: str | None = None) -> None:
        match ordered or self._spec.name:
            case "fake-slow":
                time.sleep(clips * SLOW_SECONDS)
            case "fake-fail":
                raise OutOfMemory("fake-fail always runs out of memory")
            case "fake-crash" | "crash":
                os._exit(CRASH_STATUS)
            case "fake-hang" | "hang":
                _hang()


def load(options: EngineOptions) -> FakeEngine:
    """Return the fake engine of this name.

    Raises:
        UnknownModel: `SPECS` has no such name.
    """
    if options.model not in SPECS:
        raise UnknownModel(f"no fake is called {options.model!r}; there are {', '.join(SPECS)}")
    return FakeEngine(SPECS[options.model], options.batch_clips or 1)


def explain(frames: NDArray[np.uint8], request: Explain, spec: ModelSpec) -> Arrays:
    """Return the arrays of `Explained` for frames `b t H W c`."""
    logits = logits_of(frames, spec.classes)
    options = request.options
    if options.method == "difference" or (
        options.method == "contribution_rollout" and request.targets
    ):
        return _explain_classes(frames, logits, request, spec)
    change = change_of(frames, spec, CHANGE_WEIGHTS[_weights_key(options)], options.head_fusion)
    explained: Arrays = {"logits": logits}
    if options.method == "gradient_rollout":
        explained["targets"] = _classes(logits, request.targets)[:, 0]
        change *= _frame_weights(explained["targets"], spec)

    def rollout_at(layer: int) -> Floats:
        return rollout_of(change, layer / spec.depth, options.discard_ratio)

    tokens = rollout_at(_layer(options, spec.depth))  # b n n
    rows = [_row(tokens, query, request.first_clip, spec) for query in request.queries]
    explained["query_relevance"] = np.stack(rows, axis=1).astype(np.float32)  # b r t h w
    explained["temporal_rollout"] = _by_frame(tokens, spec).astype(np.float32)  # b t t
    if options.full_rollout:
        explained["full_rollout"] = tokens.astype(np.float16)
    if options.per_layer:
        layers = [rollout_at(max(layer, options.start_layer)) for layer in range(spec.depth)]
        rows = [_row(layer, request.queries[0], request.first_clip, spec) for layer in layers]
        explained["layer_relevance"] = np.stack(rows, axis=1).astype(np.float32)  # b l t h w
    return explained


def _explain_classes(
    frames: NDArray[np.uint8], logits: NDArray[np.float32], request: Explain, spec: ModelSpec
) -> Arrays:
    """Return the maps of classes, with signs. Against a class, its map is subtracted."""
    options, classes = request.options, _classes(logits, request.targets)
    weights = CHANGE_WEIGHTS[_weights_key(options, has_target=True)]
    change = change_of(frames, spec, weights, "mean")

    def of_class(indices: NDArray[np.int64]) -> Floats:
        """Return the map, `b t h w`, of a class of each clip, `b`: its frames have the most."""
        return change * (_frame_weights(indices, spec) - MEAN_FRAME_WEIGHT)

    maps = np.stack([of_class(indices) for indices in classes.T], axis=1)  # b r t h w
    if request.against is not None:
        maps -= of_class(_classes(logits, (request.against,))[:, 0])[:, np.newaxis]
    explained: Arrays = {
        "logits": logits,
        "targets": classes[:, 0],
        "query_relevance": maps[:, :1].astype(np.float32),
        "target_relevance": maps.astype(np.float32),
        "target_classes": classes,
    }
    if options.per_layer:
        above = np.maximum(np.arange(spec.depth) - options.start_layer, 0) / spec.depth
        by_layer = maps[:, :1] * (1 - above[:, np.newaxis, np.newaxis, np.newaxis])
        explained["layer_relevance"] = by_layer.astype(np.float32)  # b l t h w
    return explained


def perturb(
    frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb, spec: ModelSpec
) -> NDArray[np.float32]:
    """Return the class's probability, `steps + 1`. It falls to chance with the change left."""
    logits = logits_of(frames, spec.classes)[0].astype(np.float64)
    whole = np.exp(logits[request.target]) / np.exp(logits).sum()
    change = change_of(frames, spec, CHANGE_WEIGHTS["rollout"], "mean")[0].reshape(-1)  # (t h w)
    left = np.append(change[order][::-1].cumsum()[::-1], 0) / change.sum()
    replaced = np.linspace(0, len(order), request.steps + 1).round().astype(np.int64)
    chance = 1 / spec.classes
    probability = chance + (whole - chance) * left[replaced] ** FILL_EXPONENTS[request.fill]
    return np.asarray(probability, np.float32)


def logits_of(frames: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """Return logits from -3 to 3, `b k`: a hash of each clip's frames."""
    digests = [sha256(clip.tobytes()).digest()[:classes] for clip in frames]
    levels = np.array([list(digest) for digest in digests], np.float32)
    return (levels / 127.5 - 1) * 3


def change_of(
    frames: NDArray[np.uint8], spec: ModelSpec, weights: tuple[int, int, int], fusion: str
) -> Floats:
    """Return how much each patch changes in time, down and across, `b t h w`.

    Args:
        weights: of the changes in time, down and across.
        fusion: how the pixels of a patch are combined: "mean", "max" or "min".
    """
    brightness = frames.astype(np.float64).mean(axis=-1)  # b t H W
    change = sum(
        weight * np.abs(np.gradient(brightness, axis=axis))
        for axis, weight in enumerate(weights, start=1)
    )
    h, w = spec.grid[1:]
    pixels = change.reshape(*change.shape[:2], h, spec.patch_height, w, spec.patch_width)
    fused: Floats = getattr(pixels, fusion)(axis=(3, 5))  # b t h i w j -> b t h w
    return fused + MIN_CHANGE


def rollout_of(change: Floats, depth: float, discard_ratio: float) -> Floats:
    """Return the relevance of each token for each token, `b n n`. Every row sums to 1.

    Every token prefers patches that change, and a patch prefers its own frame and location.

    Args:
        depth: from 0 to 1. Deeper layers prefer changes more strongly.
    """
    b, t, h, w = change.shape
    flat = change.reshape(b, -1) ** (1 + depth)  # b (t h w)
    threshold = np.quantile(flat, discard_ratio, axis=1, keepdims=True)
    shares = np.where(flat >= threshold, flat, 0.0)
    near = 1 + np.kron(np.eye(t), np.ones((h * w, h * w))) + np.kron(np.ones((t, t)), np.eye(h * w))
    taken = np.concatenate([np.ones((1, t * h * w)), near]) * shares[:, None]  # b n (t h w)
    taken /= taken.sum(axis=-1, keepdims=True)
    taken[:, 1:] = (1 - OWN_RELEVANCE) * taken[:, 1:] + OWN_RELEVANCE * np.eye(t * h * w)
    cls = np.full((b, 1 + t * h * w, 1), CLS_RELEVANCE)
    return np.concatenate([cls, (1 - CLS_RELEVANCE) * taken], axis=-1)


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def _weights_key(options: MethodOptions, *, has_target: bool = False) -> str:
    match options.method:
        case "contribution_rollout":
            return options.weighting or default_weighting(has_target=has_target)
        case "difference":
            return options.reference
    return options.method


def _layer(options: MethodOptions, depth: int) -> int:
    """Return the layer that the relevance is of."""
    if options.method == "attention":
        return depth - 1 if options.layer is None else options.layer
    return options.start_layer


def _classes(logits: NDArray[np.float32], targets: tuple[ClassChoice, ...]) -> NDArray[np.int64]:
    """Return the classes to explain, `b r`. Default: the predicted ones."""
    best = logits.argmax(axis=1)
    chosen = targets or (PREDICTED,)
    columns = [best if each == PREDICTED else np.full(len(best), each) for each in chosen]
    return np.stack(columns, axis=1).astype(np.int64)


def _frame_weights(targets: NDArray[np.int64], spec: ModelSpec) -> Floats:
    """Return a per-class weight of each frame, `b t 1 1`: a cosine with a class-specific phase."""
    phases = np.linspace(0, 1, spec.frames, endpoint=False) - targets[:, None] / spec.classes
    return (MEAN_FRAME_WEIGHT + np.cos(2 * np.pi * phases))[:, :, None, None]


def _row(tokens: Floats, query: TokenQuery, first_clip: int, spec: ModelSpec) -> Floats:
    """Return the relevance of each patch for a token, `b t h w`: 0 in clips without the token."""
    t, h, w = spec.grid
    if query == "cls":
        return tokens[:, 0, 1:].reshape(-1, t, h, w)
    taken = np.zeros((len(tokens), t, h, w))
    clip, token = query.clip - first_clip, 1 + (query.frame * h + query.row) * w + query.column
    if 0 <= clip < len(tokens):
        taken[clip] = tokens[clip, token, 1:].reshape(t, h, w)
    return taken


def _by_frame(tokens: Floats, spec: ModelSpec) -> Floats:
    """Return the mean relevance of each frame for the patches of each frame, `b t t`."""
    t = spec.frames
    b, p = len(tokens), (tokens.shape[1] - 1) // t
    pairs = tokens[:, 1:, 1:].reshape(b, t, p, t, p)  # b (q p) (t k) -> b q p t k
    frames: Floats = pairs.sum(axis=4).mean(axis=2)  # b q t
    return frames
