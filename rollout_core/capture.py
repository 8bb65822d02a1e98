"""Record a model's attention while it runs, one head-fused map a layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from einops import reduce
from torch import Tensor

from rollout_core.contract import HeadFusion
from rollout_core.timesformer import Attention, AttentionTap, TimeSformer


@dataclass(frozen=True)
class CapturedAttention:
    """Head-fused attention of a forward, first layer first, in float32.

    Attributes:
        groups: `b g n n` a layer: within each frame for divided (`g = t`, `n = 1 + p`) and
            space-only attention, among all tokens for joint (`g = 1`, `n = 1 + t p`).
        time: `b p t t` a layer, for divided attention; empty for the others.
    """

    groups: list[Tensor] = field(default_factory=list)
    time: list[Tensor] = field(default_factory=list)


@contextmanager
def capture_attention(
    model: TimeSformer, *, head_fusion: HeadFusion = "mean", start_layer: int = 0
) -> Iterator[CapturedAttention]:
    """Capture one forward of `model`, from `start_layer` on.

    Heads are fused as each layer runs, so all heads of all layers are never held together. Rows
    sum to 1 when fused by "mean" only.
    """
    captured = CapturedAttention()
    tapped: list[Attention] = []
    try:
        for block in model.layers[start_layer:]:
            tapped.append(block.attn)
            block.attn.tap = _tap(captured.groups, head_fusion)
            if block.divided:
                tapped.append(block.temporal_attn)
                block.temporal_attn.tap = _tap(captured.time, head_fusion)
        yield captured
    finally:
        for attention in tapped:
            attention.tap = None


def _tap(maps: list[Tensor], head_fusion: HeadFusion) -> AttentionTap:
    def keep(attention: Tensor) -> None:
        maps.append(reduce(attention.float(), "b s head q k -> b s q k", head_fusion))

    return keep
