"""Compare the speed of attention with an explicit softmax and with the fused kernel.

    python -m tests.benchmarks.attention [--device cuda] [--dtype bfloat16] [--runs 5]

Prints medians of one run: the forward of each attention of the published base size, and a whole
forward with and without capture and rollout. `timesformer.Attention` follows the result.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from rollout_core.model.timesformer import Architecture, TimeSformer
from rollout_core.relevance.explain import explain_clips
from tests.benchmarks.rollout import median

BASE = Architecture(
    attention_type="divided_space_time",
    frames=8,
    height=224,
    width=224,
    patch_height=16,
    patch_width=16,
    dim=768,
    mlp_dim=3072,
    depth=12,
    heads=12,
    classes=400,
)
HEAD_DIM = 64
SEQUENCES = {
    "time, 8 tokens": (196, 8),
    "space, 197 tokens": (8, 197),
    "joint, 1569 tokens": (1, 1569),
}


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * HEAD_DIM**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    device, dtype = options.device, getattr(torch, options.dtype)
    with torch.inference_mode():
        for name, (sequences, tokens) in SEQUENCES.items():
            q, k, v = torch.randn(3, sequences, BASE.heads, tokens, HEAD_DIM).to(device, dtype)
            plain = median(lambda: explicit(q, k, v), options.runs, device)  # noqa: B023
            fused = median(
                lambda: F.scaled_dot_product_attention(q, k, v),  # noqa: B023
                options.runs,
                device,
            )
            print(
                f"{name:<20}explicit {plain * 1e3:8.2f} ms   fused {fused * 1e3:8.2f} ms   "
                f"fused/explicit {fused / plain:.2f}"
            )
        model = TimeSformer(BASE).to(device, dtype).eval()
        clips = torch.randn(1, 3, 8, 224, 224).to(device, dtype)
        forward = median(lambda: model(clips), options.runs, device)
        explained = median(lambda: explain_clips(model, clips).logits, options.runs, device)
        print(
            f"{'base, one clip':<20}forward {forward * 1e3:8.1f} ms   explained "
            f"{explained * 1e3:8.1f} ms   explained/forward {explained / forward:.2f}"
        )


if __name__ == "__main__":
    main()
