"""Relevance of a difference: what in a clip made its logit differ from that of a reference?

Clip and reference run forward together. The difference of their logits is then traced back, layer
by layer, by the secants of each operation (`secants`). At the patch embeddings, the relevance of a
patch is its difference times its multiplier, summed over the channels. All relevance sums to
logit(clip) − logit(reference), whatever the distance between both. It is signed: what is negative
lowered the logit.

If the reference shows the mean frame of the clip at all times, this answers what the motion did.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from rollout_core.model.timesformer import Block, TimeSformer, average_cls
from rollout_core.relevance import secants
from rollout_core.relevance.rollout import patches_of
from rollout_core.relevance.secants import Pull
from rollout_core.relevance.targets import Targets, choose_classes


@dataclass(frozen=True)
class Difference:
    """What separates clips from their references.

    Attributes:
        relevance: `b r t h w`, float32, for each of the `r` classes; sums to the target's logit
            minus its reference logit.
        layer_relevance: `b l t h w`, float32: of the first class, for the tokens that enter each
            layer. With that of the classification token, it has the same sum.
        logits, reference_logits: `b k`, float32.
        targets: `b r`, int64: the classes.
    """

    relevance: Tensor
    layer_relevance: Tensor
    logits: Tensor
    reference_logits: Tensor
    targets: Tensor


@torch.no_grad()
def explain_difference(
    model: TimeSformer,
    clips: Tensor,
    references: Tensor,
    targets: Targets | None = None,
) -> Difference:
    """Trace the difference of logits back to the patches.

    Memory holds the input tokens of each layer, and what one layer computes. All classes share the
    forward and the secants.

    Args:
        clips, references: `b c t H W`, normalised; `perturbation.fill_of` makes references.
        targets: default: the predicted class.
    """
    grid = model.grid_of(clips)
    embedded = model.embed(torch.cat([clips, references])).float()
    inputs = [embedded]
    for block in model.layers:
        inputs.append(_through(block, inputs[-1])[0])
    logits, pull = _classify(model, inputs.pop())
    ours, theirs = logits.chunk(2)
    chosen = choose_classes(targets, ours)
    multipliers = pull(F.one_hot(chosen.T, ours.shape[1]).float())  # r b g n c
    by_layer = []
    for block in reversed(model.layers):
        pair = inputs.pop()
        _, pull = _through(block, pair)
        multipliers = pull(multipliers)
        by_layer.append(_relevance(pair, multipliers, grid))
    relevance, layers = by_layer[-1], torch.stack([of[:, 0] for of in by_layer[::-1]], dim=1)
    return Difference(relevance, layers, ours, theirs, chosen)


def _relevance(pair: Tensor, multipliers: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Return the relevance, `b r t h w`, of tokens `b g n c` with multipliers `r b g n c`."""
    t, h, w = grid
    of_tokens = torch.einsum("b g n c, r b g n c -> b r g n", secants.difference(pair), multipliers)
    return rearrange(patches_of(of_tokens), "b r (t h w) -> b r t h w", t=t, h=h, w=w)


def _through(block: Block, pair: Tensor) -> tuple[Tensor, Pull]:
    """Run a layer on `b g n c`."""
    pulls: list[Pull] = []
    if block.divided:
        pair, pull = _over_time(block, pair)
        pulls.append(pull)
    for part in (_within_groups, _mlp):
        pair, pull = part(block, pair)
        pulls.append(pull)

    def pull_all(multipliers: Tensor) -> Tensor:
        for pull in reversed(pulls):
            multipliers = pull(multipliers)
        return multipliers

    return pair, pull_all


def _over_time(block: Block, pair: Tensor) -> tuple[Tensor, Pull]:
    """Attend among the patches of each location; the classification token takes no part."""
    patches = rearrange(pair[:, :, 1:], "b t p c -> b p t c")
    normed, pull_norm = secants.layer_norm(block.temporal_norm1, patches)
    mixed, pull_attention = secants.attention(block.temporal_attn, normed)
    update, pull_fc = secants.linear(block.temporal_fc, mixed)

    def pull(multipliers: Tensor) -> Tensor:
        of_patches = rearrange(multipliers[..., 1:, :], "... t p c -> ... p t c")
        of_patches = of_patches + pull_norm(pull_attention(pull_fc(of_patches)))
        return _with_cls(multipliers, of_patches)

    return _with_cls(pair, patches + update), pull


def _with_cls(tokens: Tensor, patches: Tensor) -> Tensor:
    """Replace the patches of `... t n c` by `... p t c`."""
    return torch.cat([tokens[..., :1, :], rearrange(patches, "... p t c -> ... t p c")], dim=-2)


def _within_groups(block: Block, pair: Tensor) -> tuple[Tensor, Pull]:
    """Attend among the tokens of each group."""
    normed, pull_norm = secants.layer_norm(block.norm1, pair)
    update, pull_attention = secants.attention(block.attn, normed)
    # The mean over the copies of the classification token is its own transpose.
    share = average_cls if block.divided else _unchanged
    return pair + share(update), lambda m: m + pull_norm(pull_attention(share(m)))


def _unchanged(tokens: Tensor) -> Tensor:
    return tokens


def _mlp(block: Block, pair: Tensor) -> tuple[Tensor, Pull]:
    normed, pull_norm = secants.layer_norm(block.norm2, pair)
    first, second = (cast(nn.Linear, layer) for layer in (block.mlp.fc1, block.mlp.fc2))
    hidden, pull_first = secants.linear(first, normed)
    active, pull_gelu = secants.gelu(hidden)
    update, pull_second = secants.linear(second, active)
    return pair + update, lambda m: m + pull_norm(pull_first(pull_gelu(pull_second(m))))


def _classify(model: TimeSformer, pair: Tensor) -> tuple[Tensor, Pull]:
    """Return logits, `b k`, for the last layer's tokens, `b g n c`."""
    cls = reduce(pair[:, :, 0], "b g c -> b c", "mean")
    normed, pull_norm = secants.layer_norm(model.norm, cls)
    logits, pull_head = secants.linear(model.head, normed)

    def pull(multipliers: Tensor) -> Tensor:
        b, g, n, c = pair.shape
        tokens = multipliers.new_zeros(len(multipliers), b // 2, g, n, c)
        tokens[..., 0, :] = repeat(pull_norm(pull_head(multipliers)), "r b c -> r b g c", g=g) / g
        return tokens

    return logits, pull
