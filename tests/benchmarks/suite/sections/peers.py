"""An explanation against what a user of Hugging Face's model would write today."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification

from rollout_core.model.checkpoints import adopt_model
from rollout_core.model.timesformer import Architecture
from rollout_core.relevance.explain import explain_clips
from tests.benchmarks.suite.dense import dense_rollout, with_skip
from tests.benchmarks.suite.models import BASE, PRECISIONS, TINY, on_device, random_clips, shaped
from tests.benchmarks.suite.processes import MEBIBYTE, peak_bytes
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.timing import Call, interleaved

SHAPES: dict[Scale, list[Architecture]] = {
    "full": [BASE, shaped(32, 224, depth=3)],
    "quick": [shaped(8, 224, depth=2)],
    "tiny": [replace(TINY, width=TINY.height)],
}

PEER = "Hugging Face, hooks, dense rollout"
SPATIAL = "Hugging Face, hooks, vit-explain's rollout in space only"
OURS = "explain_clips"


class Hooked(NamedTuple):
    """Attention of each layer, all heads: within frames and over time, first layer first."""

    space: list[Tensor]
    time: list[Tensor]


def run(settings: Settings) -> Section:
    """Compare them for each number of frames in each precision."""
    rows: list[Row] = []
    figures = {}
    for architecture in SHAPES[settings.scale]:
        calls: dict[tuple[str, str], Call] = {}
        for precision, dtype in PRECISIONS.items():
            made = explanations(architecture, settings.device, dtype)
            calls |= {(precision, name): call for name, call in made.items()}
        peaks = {key: peak_bytes(call, settings.device) for key, call in calls.items()}
        found = interleaved(on_device(settings.device, calls), settings.rounds, warm_ups=0)
        for (precision, name), timing in found.items():
            rows.append(
                {
                    "frames": architecture.frames,
                    "layers": architecture.depth,
                    "precision": precision,
                    "what": name,
                    "time, ms": timing.milliseconds,
                    "× ours": timing.over(found[precision, OURS]),
                    "× ours, CPU": timing.cpu_over(found[precision, OURS]),
                    "memory, MiB": peaks[precision, name] / MEBIBYTE,
                }
            )
        for precision in PRECISIONS:
            ratio = found["float32", PEER].over(found[precision, OURS])
            figures[f"{architecture.frames} frames: peer / ours in {precision}"] = ratio
    return Section(
        tables=[Table("One clip: the forward, and from its attention to relevance", rows)],
        figures=figures,
        notes=[
            "Same weights, clip and threads. Baseline: `TimesformerForVideoClassification`, with "
            "hooks on the softmax of both attentions, and the published rollout.",
            "It multiplies matrices over all tokens, in float32. The space-only rollout, one for "
            "each frame, ignores the attention over time, so it is another result.",
            "Fewer than 12 layers: the depth was cut so that the rounds fit the time.",
        ],
    )


def explanations(
    architecture: Architecture, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """Return ways to explain one clip with the same weights; each returns `b t h w`."""
    theirs = hugging_face_model(architecture).to(device, dtype)
    ours = adopt_model(theirs, device=device, dtype=dtype).model
    clips = random_clips(ours)
    pixels = rearrange(clips, "b c t H W -> b t c H W")
    h, _ = architecture.grid
    dense, spatial = (
        torch.no_grad()(partial(call, theirs, pixels, h)) for call in (by_hooks, in_space_only)
    )

    def explain() -> Tensor:
        return explain_clips(ours, clips).relevance

    return {PEER: dense, SPATIAL: spatial, OURS: explain}


def hugging_face_model(architecture: Architecture) -> nn.Module:
    """Return a model of transformers with random parameters, in evaluation mode."""
    a = architecture
    torch.manual_seed(0)
    config = TimesformerConfig(
        image_size=a.height,
        patch_size=a.patch_height,
        num_frames=a.frames,
        hidden_size=a.dim,
        num_hidden_layers=a.depth,
        num_attention_heads=a.heads,
        intermediate_size=a.mlp_dim,
        attention_type=a.attention_type,
        num_labels=a.classes,
    )
    return TimesformerForVideoClassification(config).eval()


@contextmanager
def hooked(model: nn.Module) -> Iterator[Hooked]:
    """Keep the softmax of every attention of a forward: the input of its dropout."""
    kept = Hooked([], [])
    handles = []
    try:
        for layer in model.timesformer.encoder.layer:
            for attention, target in (
                (layer.temporal_attention, kept.time),
                (layer.attention, kept.space),
            ):
                dropout = attention.attention.attn_drop
                keep = partial(_keep, target)
                handles.append(dropout.register_forward_hook(keep))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def by_hooks(model: nn.Module, pixels: Tensor, h: int) -> Tensor:
    """Explain clips, `b t c H W`, with the published rollout over space and time."""
    with hooked(model) as kept:
        model(pixels)
    b, t = pixels.shape[:2]
    space = [_fused(layer, "(b t) head q k -> b t q k", b=b, t=t) for layer in kept.space]
    time = [_fused(layer, "(b p) head q k -> b p q k", b=b) for layer in kept.time]
    return rearrange(dense_rollout(space, time), "b t (h w) -> b t h w", h=h)


def in_space_only(model: nn.Module, pixels: Tensor, h: int) -> Tensor:
    """Explain clips, `b t c H W`, frame by frame, as vit-explain does for images.

    Source of the recipe: Abnar & Zuidema 2020, with the head-averaged attention and the identity
    in equal parts; only the matrices of one frame are multiplied.
    """
    with hooked(model) as kept:
        model(pixels)
    product: Tensor | None = None
    for layer in kept.space:
        matrix = with_skip(_fused(layer, "f head q k -> f q k"))
        product = matrix if product is None else matrix @ product
    assert product is not None
    t = pixels.shape[1]
    return rearrange(product[:, 0, 1:], "(b t) (h w) -> b t h w", t=t, h=h)


def _keep(target: list[Tensor], module: nn.Module, inputs: Any, output: Tensor) -> None:
    target.append(output)


def _fused(attention: Tensor, pattern: str, **sizes: int) -> Tensor:
    return reduce(attention.float(), pattern, "mean", **sizes)
