"""A slow, obvious reference: one clip, with every attention as a dense matrix over all tokens.

The tokens are the copies of the classification token (one, or one per frame for space-only
attention), then the patches, `(t p)`. Only the model's parameters are used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout_core.model.timesformer import Attention, Block, TimeSformer


@dataclass
class DenseStep:
    """One attention and its skip connection over all `n` tokens.

    Attributes:
        attention: `head n n`; the classification token's row is its mean over all frames.
        vectors: `n n c`: the contribution of token j to the output of token i. The residual and
            the biases belong to j = i.
        deviations: the same without biases, for values and residual minus their means.
        outputs: `n c`.
    """

    attention: Tensor
    vectors: Tensor
    deviations: Tensor
    outputs: Tensor


@dataclass
class DenseRun:
    """The steps of a forward of one clip, its logits `k`, and the number of cls copies."""

    steps: list[DenseStep]
    logits: Tensor
    copies: int


def run(model: TimeSformer, clip: Tensor) -> DenseRun:
    """Run a model on one clip, `c t H W`."""
    t, h, w = model.grid_of(clip[None])
    kind = model.architecture.attention_type
    embedded = model.embed(clip[None])[0]  # g n c
    copies = t if kind == "space_only" else 1
    x = torch.cat([embedded[:copies, 0], embedded[:, 1:].flatten(0, 1)])
    frame = torch.cat([torch.arange(copies), torch.arange(t).repeat_interleave(h * w)])
    place = torch.cat([torch.full((copies,), -1), torch.arange(h * w).repeat(t)])
    is_cls = place < 0
    same_frame = [(is_cls | (frame == i)) for i in range(t)]
    groups = {
        "divided_space_time": [seen[:, None] & seen for seen in same_frame],
        "joint_space_time": [torch.ones(len(x), len(x), dtype=torch.bool)],
        "space_only": [frame[:, None] == frame],
    }[kind]
    time = [(place[:, None] == place) & ~is_cls]
    steps = []
    for block in model.layers:
        if kind == "divided_space_time":
            layers = block.temporal_attn, block.temporal_norm1, (block.temporal_fc,)
            steps.append(_mix(x, time, *layers))
            x = steps[-1].outputs
        steps.append(_mix(x, groups, block.attn, block.norm1, ()))
        x = steps[-1].outputs
        x = _mlp(block, x)
    logits = model.head(model.norm(x[:copies].mean(dim=0)))
    return DenseRun(steps, logits, copies)


def product(run: DenseRun, matrix_of: Callable[[DenseStep], Tensor]) -> Tensor:
    """Return the product of the steps' matrices, `n n`, with the first step rightmost."""
    total = torch.eye(len(run.steps[0].outputs))
    for step in run.steps:
        total = matrix_of(step) @ total
    return total


def rollout_matrix(step: DenseStep) -> Tensor:
    """Return half the mean attention plus half the identity."""
    return _rows_to_one(step.attention.mean(dim=0) + torch.eye(len(step.outputs)))


def raw_matrix(step: DenseStep) -> Tensor:
    """Return the mean attention, with 1 on the diagonal for tokens that take no part."""
    attention = step.attention.mean(dim=0)
    return attention + torch.diag((attention.sum(dim=1) == 0).float())


def gradient_matrix(step: DenseStep) -> Tensor:
    """Return the update of Chefer et al.; the attention must have its gradient."""
    weighed = step.attention * step.attention.grad
    return weighed.clamp(min=0).mean(dim=0).detach() + torch.eye(len(step.outputs))


def contribution_matrix(weighting: str) -> Callable[[DenseStep], Tensor]:
    """Return a function for each vector's share of the output; a zero output keeps its token."""

    def matrix_of(step: DenseStep) -> Tensor:
        vectors = step.deviations if weighting == "deviation" else step.vectors
        outputs = vectors.sum(dim=1)
        n = len(outputs)
        shares = torch.zeros(n, n)
        for i in range(n):
            for j in range(n):
                shares[i, j] = _share(weighting, vectors[i, j], outputs[i])
        shares = shares.nan_to_num(0).clamp(min=0)
        return _rows_to_one(shares + torch.diag((shares.sum(dim=1) == 0).float()))

    return matrix_of


def _share(weighting: str, vector: Tensor, output: Tensor) -> Tensor:
    match weighting:
        case "projection" | "deviation":
            return vector @ output / (output @ output)
        case "alti":
            return output.abs().sum() - (output - vector).abs().sum()
        case "l2":
            return (vector @ vector).sqrt()
    raise ValueError(weighting)


def _mix(
    x: Tensor,
    masks: list[Tensor],
    attention: Attention,
    norm: torch.nn.Module,
    then: tuple[torch.nn.Linear, ...],
) -> DenseStep:
    """Attend with each of the masks, `n n`, and average the results over the masks."""
    n, c = x.shape
    q, k, v = attention.qkv(norm(x)).reshape(n, 3, attention.heads, -1).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    softmax = sum(scores.masked_fill(~see, -torch.inf).softmax(-1).nan_to_num(0) for see in masks)
    times = sum(see.any(dim=1).float() for see in masks)
    weights = softmax / times.clamp(min=1)[:, None]
    if weights.requires_grad:
        weights.retain_grad()

    def project(heads: Tensor, *, bias: bool) -> Tensor:
        for layer in (attention.proj, *then):
            heads = torch.nn.functional.linear(heads, layer.weight, layer.bias if bias else None)
        return heads

    def vectors_of(values: Tensor, own: Tensor) -> Tensor:
        moved = weights[..., None] * values[:, None]  # head i j d
        vectors = project(moved.permute(1, 2, 0, 3).reshape(n, n, c), bias=False)
        return vectors + torch.eye(n)[..., None] * own[:, None]

    biases = project(torch.zeros(c), bias=True) * (times > 0)[:, None]
    vectors = vectors_of(v, x + biases)
    # A token that takes part in several frames counts once for each.
    share = times[:, None] / times.sum()
    mean_value, mean_input = (v * share).sum(dim=1, keepdim=True), (x * share).sum(dim=0)
    deviations = vectors_of(v - mean_value, x - mean_input)
    return DenseStep(weights, vectors, deviations, vectors.sum(dim=1))


def _mlp(block: Block, x: Tensor) -> Tensor:
    hidden: Tensor = block.mlp(block.norm2(x))
    return x + hidden


def _rows_to_one(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(dim=1, keepdim=True)
