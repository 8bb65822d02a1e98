"""Models of the published sizes with random parameters, and the attention kernels they may use."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rollout_core.model.timesformer import Architecture, TimeSformer
from tests.benchmarks.suite.timing import Call

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
"""The published base size. All published models have its width, depth and patches."""

TINY = replace(BASE, height=32, width=48, dim=64, mlp_dim=128, depth=2, heads=2, classes=5)
"""For tests."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries, keys and values, each `... head n c`, to outputs, `... head n c`."""


def shaped(frames: int, side: int, depth: int = BASE.depth) -> Architecture:
    """Return the base size with another number of frames and layers, and another side in pixels."""
    return replace(BASE, frames=frames, height=side, width=side, depth=depth)


def random_model(
    architecture: Architecture, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> TimeSformer:
    """Return a model in evaluation mode, without gradients."""
    torch.manual_seed(0)
    model = TimeSformer(architecture).to(device, dtype)
    return model.requires_grad_(False).eval()


def random_clips(model: TimeSformer, batch: int = 1) -> Tensor:
    """Return normalised noise of the model's size, `b c t H W`, on its device in its precision."""
    a, like = model.architecture, model.cls_token
    noise = torch.randn(batch, 3, a.frames, a.height, a.width, generator=_generator())
    return noise.to(like.device, like.dtype)


def write_checkpoint(path: Path, depth: int = BASE.depth) -> Path:
    """Write a random checkpoint of the base size in the published format."""
    state = random_model(shaped(8, 224, depth)).state_dict()
    torch.save({"model_state": {f"model.{name}": part for name, part in state.items()}}, path)
    return path


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with a softmax that is written to memory."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with PyTorch's fused kernel, which takes four axes."""
    return F.scaled_dot_product_attention(*(x.flatten(0, -4) for x in (q, k, v))).view_as(q)


KERNELS: dict[str, Kernel] = {"explicit": explicit, "fused": fused}


@contextmanager
def using_kernel(model: nn.Module, kernel: Kernel) -> Iterator[None]:
    """Let every attention use this kernel in a plain forward, whatever the model would choose."""
    attentions = [module for module in model.modules() if hasattr(module, "qkv")]
    try:
        for module in attentions:
            module.forward = partial(_attend, module, kernel)
        yield
    finally:
        for module in attentions:
            vars(module).pop("forward", None)


def plain_forwards(model: TimeSformer, clips: Tensor) -> dict[str, Call]:
    """Return the plain forwards: the model as it is, and with each kernel everywhere."""

    def run(kernel: Kernel) -> Tensor:
        with using_kernel(model, kernel):
            return model(clips)

    inferring = torch.inference_mode()
    forced = {name: inferring(partial(run, kernel)) for name, kernel in KERNELS.items()}
    return {"as it is": inferring(partial(model, clips))} | forced


def on_device(device: str, calls: Mapping[str, Call]) -> dict[str, Call]:
    """Return the calls so that each ends when its work on the device has ended."""
    if not device.startswith("cuda"):
        return dict(calls)
    return {name: partial(_synchronized, call) for name, call in calls.items()}


def _synchronized(call: Call) -> object:
    result = call()
    torch.cuda.synchronize()
    return result


def _attend(module: nn.Module, kernel: Kernel, x: Tensor) -> Tensor:
    """Do what `Attention.forward` does, for tokens `... n c`."""
    qkv = module.qkv(x).unflatten(-1, (3, module.heads, -1))  # ... n three head c
    q, k, v = rearrange(qkv, "... n three head c -> three ... head n c")
    return module.proj(rearrange(kernel(q, k, v), "... head n c -> ... n (head c)"))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
