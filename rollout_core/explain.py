"""Clips, a model and a method in; relevance and logits out."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rollout_core.capture import capture_attention
from rollout_core.contract import HeadFusion
from rollout_core.errors import InvalidRequest
from rollout_core.rollout import divided_rollout, grouped_rollout
from rollout_core.specs import ModelSpec
from rollout_core.timesformer import TimeSformer


@dataclass(frozen=True)
class Explanation:
    """What the model said of each clip, and what it looked at. Tensors are on the CPU.

    Attributes:
        relevance: `b t h w`, float32: each patch's share of what the classification token is made
            of. It is not normalised further: with the token's own share, a clip sums to 1 (each
            frame does, for space-only attention).
        logits: `b k`, float32.
    """

    relevance: Tensor
    logits: Tensor


@torch.inference_mode()
def explain_clips(
    model: TimeSformer,
    clips: Tensor,
    *,
    head_fusion: HeadFusion = "mean",
    discard_ratio: float = 0.0,
    start_layer: int = 0,
) -> Explanation:
    """Run `model` once on a batch of clips, and roll its attention out to the input.

    Args:
        clips: `b c t H W`, normalised, on the model's device and in its dtype.
        head_fusion: how the heads of a layer become one map.
        discard_ratio: share of the smallest attention entries to drop, 0 ≤ x < 1.
        start_layer: first layer that takes part in the rollout.
    Raises:
        InvalidRequest: a parameter is out of its range for this model.
    """
    depth = model.architecture.depth
    if not 0 <= start_layer < depth:
        raise InvalidRequest(f"start_layer is {start_layer}, but the model has {depth} layers")
    if not 0 <= discard_ratio < 1:
        raise InvalidRequest(f"discard_ratio is {discard_ratio}, not from 0 to below 1")
    with capture_attention(model, head_fusion=head_fusion, start_layer=start_layer) as captured:
        logits = model(clips)
    if captured.time:
        relevance = divided_rollout(captured.groups, captured.time, discard_ratio=discard_ratio)
    else:
        relevance = grouped_rollout(captured.groups, discard_ratio=discard_ratio)
    t, h, w = model.grid_of(clips)
    relevance = rearrange(relevance, "b g n -> b (g n)")
    relevance = rearrange(relevance, "b (t h w) -> b t h w", t=t, h=h, w=w)
    return Explanation(relevance=relevance.cpu(), logits=logits.float().cpu())


def prepare_clips(
    frames: np.ndarray, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Turn decoded frames into a model's input.

    Args:
        frames: `b t H W c`, uint8, RGB, at the model's size.
        spec: tells the channel order, the mean and the standard deviation.
    Returns:
        `b c t H W`, normalised.
    """
    clips = rearrange(torch.from_numpy(frames).to(device), "b t H W c -> b c t H W").float() / 255
    if spec.channel_order == "BGR":
        clips = clips.flip(1)
    return normalize(clips, spec).to(dtype)


def normalize(clips: Tensor, spec: ModelSpec) -> Tensor:
    """Shift and scale clips, `b c t H W` from 0 to 1, as the model was trained."""
    mean, std = (
        rearrange(torch.tensor(values, device=clips.device), "c -> c 1 1 1")
        for values in (spec.mean, spec.std)
    )
    return (clips - mean) / std
