"""Class contributions: what each patch adds to the logit of a class.

The classification token after the last layer, c, is a sum: its embedding, and what the MLP and the
attention of each layer add to it. The final layer norm is linear in c once its standard deviation σ
is known, and the head is linear too. So the logit of a class, relative to the mean of all logits,
is ⟨u, c⟩ and a constant, with

    u = centre(γ ⊙ (w_class − mean_k w_k) / σ)

where γ is the gain of the norm, w_k are the rows of the head, and `centre` subtracts the mean over
the channels. Against another class, its w takes the place of the mean of all. In layer l, patch j
of frame f thus adds directly

    r[f, j] = 1/g Σ_heads α[f, cls, j] ⟨u W_h, v_j⟩

where g is the number of groups, α and v are attention and values within the group, and W_h is the
part of the output projection for a head. Each r is rolled down from its layer to the input by the
contribution maps of the layers below, and all are added up. Signs are kept. What the token's own
key, the MLPs, the biases and the embedding add stays with the token.

Source: ALTI-Logit, Ferrando, Gállego, Tsiamas & Costa-jussà 2023, arXiv:2305.12535, for language
models; here for divided, joint and space-only attention.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from rollout_core.contract import ClassChoice, Weighting
from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.contributions import contribution_shares, raw_shares
from rollout_core.relevance.rollout import Flow
from rollout_core.relevance.targets import Targets, choose_classes


@dataclass(frozen=True)
class ClassContributions:
    """What the patches add to the logits of some classes.

    Attributes:
        flow: the contribution maps from the first layer that is included.
        direct: one `b r g n` per layer of `flow`: what each token adds directly to the logit of
            each of the `r` classes, where it enters the attention within groups. 0 for token 0.
        logits: `b k`.
        targets: `b r`, int64: the classes.
        kept: `b r`: the rest of each logit, relative to the mean of all logits or to that of
            `against`, which stays with the classification token.
    """

    flow: Flow
    direct: list[Tensor]
    logits: Tensor
    targets: Tensor
    kept: Tensor


def class_contributions(
    model: TimeSformer,
    clips: Tensor,
    targets: Targets | None,
    *,
    against: ClassChoice | None = None,
    weighting: Weighting = "projection",
    is_signed: bool = True,
    start_layer: int = 0,
) -> ClassContributions:
    """Run `model` once, and split the logits of classes among the patches.

    Memory holds the maps, and one product of attention and values for each layer.

    Args:
        clips: `b c t H W`.
        targets: default: the predicted class.
        against: class of each clip that takes the place of the mean of all classes.
        weighting: of the contribution maps.
        is_signed: keep negative shares in the maps; else set them to 0 and renormalise the rows.
    """
    shares = raw_shares if is_signed else contribution_shares
    flow, weighted = Flow(), []

    def keep(step: AttentionStep) -> None:
        flow.add(step.axis, shares(step, weighting))
        if step.axis == "group":
            # What each token sends to token 0: `b g n (head d)`.
            sent = step.attention[:, :, :, 0, :, None] * step.values
            weighted.append(rearrange(sent, "b g head n d -> b g n (head d)"))

    with watch(model.layers[start_layer:], keep):
        tokens = model.encode(clips)
    logits = model.classify(tokens).float()
    chosen = choose_classes(targets, logits)
    weight = model.head.weight.float()
    base, base_logit = weight.mean(dim=0), logits.mean(dim=1, keepdim=True)
    if against is not None:
        other = choose_classes([[against]] * len(clips), logits)  # b 1
        base, base_logit = weight[other], logits.gather(1, other)
    directions = _directions(model, tokens, weight[chosen] - base)
    direct = [
        _direct(sent, directions @ block.attn.proj.weight.float())
        for sent, block in zip(weighted, model.layers[start_layer:], strict=True)
    ]
    added = sum(reduce(rows, "b r g n -> b r", "sum") for rows in direct)
    kept = logits.gather(1, chosen) - base_logit - added
    return ClassContributions(flow, direct, logits, chosen, kept)


def _directions(model: TimeSformer, tokens: Tensor, rows: Tensor) -> Tensor:
    """Return u, `b r c`, for the last layer's tokens, `b g n c`, and rows of w, `b r c`."""
    cls = reduce(tokens[:, :, 0].float(), "b g c -> b c", "mean")
    deviation = (cls.var(dim=-1, correction=0) + model.norm.eps).sqrt()
    scaled = model.norm.weight.float() * rows
    centred = scaled - scaled.mean(dim=-1, keepdim=True)
    return centred / rearrange(deviation, "b -> b 1 1")


def _direct(sent: Tensor, projected: Tensor) -> Tensor:
    """Return r, `b r g n`, for what is sent, `b g n c`, and u W, `b r c`."""
    rows = torch.einsum("b g n c, b r c -> b r g n", sent.float(), projected) / sent.shape[1]
    rows[..., 0] = 0
    return rows
