"""Measure the error of the factored rollout, and its speed against the dense one.

    python -m tests.benchmarks.rollout [--device cuda] [--runs 5]

Errors are the largest absolute differences from the published code's results. Times are medians of
one run at the published base size (12 layers, 8 frames of 14 × 14 patches), for the rollout alone.
The dense baseline multiplies (1 + p t)² matrices, layer by layer.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rollout_core.model.checkpoints import load_model
from rollout_core.relevance.explain import explain_clips
from rollout_core.relevance.methods import capture_flow, fuse_heads
from rollout_core.relevance.rollout import Flow, add_skip, cls_row, patches_of, roll_out

REFERENCE = Path(__file__).parent.parent / "rollout_core" / "reference"
LAYERS, FRAMES, PATCHES = 12, 8, 14 * 14


def exactness() -> None:
    """Print the largest differences from the published results."""
    for name in ("divided", "joint", "space_only"):
        with np.load(REFERENCE / f"tiny_{name}.npz", allow_pickle=False) as file:
            published = {key: torch.from_numpy(file[key]) for key in file.files}
        model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
        explanation = explain_clips(model, published["clips"])
        report(f"{name}: logits", explanation.logits, published["logits"])
        if name != "divided":
            continue
        mean = partial(fuse_heads, head_fusion="mean")
        with torch.inference_mode(), capture_flow(model, mean) as flow:
            model(published["clips"])
        space = rearrange(torch.stack(flow.groups), "l b t q k -> l (b t) q k")
        time_ = rearrange(torch.stack(flow.time), "l b p q k -> l (b p) q k")
        report(f"{name}: space attention", space, published["space_attention"])
        report(f"{name}: time attention", time_, published["time_attention"])
        rollout = rearrange(published["rollout_hwt"], "b h w t -> b t h w")
        report(f"{name}: relevance", explanation.relevance, rollout)


def report(name: str, ours: Tensor, theirs: Tensor) -> None:
    print(f"{name:<28}{(ours - theirs).abs().max():.1e}")


def speed(device: str, runs: int) -> None:
    """Print the ratio of the dense time to the factored time, and the difference of the results."""
    generator = torch.Generator().manual_seed(0)

    def attention(*shape: int) -> list[Tensor]:
        logits = torch.randn(LAYERS, 1, *shape, generator=generator)
        return list(logits.mul(2).softmax(dim=-1).to(device))

    space = attention(FRAMES, 1 + PATCHES, 1 + PATCHES)
    times = attention(PATCHES, FRAMES, FRAMES)
    factored, dense = factored_rollout(space, times), dense_rollout(space, times)
    factored_seconds = median(lambda: factored_rollout(space, times), runs, device)
    dense_seconds = median(lambda: dense_rollout(space, times), runs, device)
    print(f"base size: factored against dense {(factored - dense).abs().max():.1e} apart")
    print(
        f"base size on {device}: dense {dense_seconds * 1e3:.1f} ms, "
        f"factored {factored_seconds * 1e3:.2f} ms, ratio {dense_seconds / factored_seconds:.0f}"
    )


def factored_rollout(space: list[Tensor], times: list[Tensor]) -> Tensor:
    """Roll the cls token's row back through every layer: `b t p`."""
    flow = Flow([add_skip(layer) for layer in space], [add_skip(layer) for layer in times])
    *_, row = roll_out(cls_row(space[0]), flow)
    return rearrange(patches_of(row), "b 1 (t p) -> b t p", t=FRAMES)


def dense_rollout(space: list[Tensor], times: list[Tensor]) -> Tensor:
    """Multiply the matrices of all layers over all tokens, `(1 + t p)²`."""
    product: Tensor | None = None
    for layer_space, layer_time in zip(space, times, strict=True):
        matrix = dense_layer(mixed(layer_space), mixed(layer_time))
        product = matrix if product is None else matrix @ product
    assert product is not None
    return rearrange(product[:, 0, 1:], "b (t p) -> b t p", t=FRAMES)


def dense_layer(space: Tensor, times: Tensor) -> Tensor:
    flow = torch.einsum("b i p q, b q i j -> b i p j q", space[..., 1:], times)
    to_patches = rearrange(flow, "b i p j q -> b i p (j q)")
    to_cls = space[..., :1]
    rows = torch.cat([to_cls, to_patches], dim=-1)  # b i 1+p 1+(j q)
    cls = rows[:, :, 0].mean(dim=1, keepdim=True)
    return torch.cat([cls, rearrange(rows[:, :, 1:], "b i p n -> b (i p) n")], dim=1)


def mixed(attention: Tensor) -> Tensor:
    return (attention + torch.eye(attention.shape[-1], device=attention.device)) / 2


def median(call: Callable[[], Tensor], runs: int, device: str) -> float:
    """Return the median duration of `runs` calls, in seconds, after one to warm up."""
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    exactness()
    with torch.inference_mode():
        speed(options.device, options.runs)


if __name__ == "__main__":
    main()
