"""Measure time and memory of each method at the published base size, against a plain forward.

    python -m tests.benchmarks.methods [--device cuda] [--dtype bfloat16] [--runs 5]
                                       [--attention-type joint_space_time]

One clip, 8 frames of 224×224. Times are medians; the methods run in turn, so that other load on the
machine affects all of them. Memory is the peak beyond the model and the clip: resident pages on a
CPU, tensors on a GPU.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from rollout_core.contract import MethodOptions
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import explain_clips
from tests.benchmarks.attention import BASE

METHODS = {
    "attention": MethodOptions(method="attention"),
    "rollout": MethodOptions(method="rollout"),
    "projection": MethodOptions(method="contribution_rollout", weighting="projection"),
    "deviation": MethodOptions(method="contribution_rollout", weighting="deviation"),
    "l2": MethodOptions(method="contribution_rollout", weighting="l2"),
    "alti": MethodOptions(method="contribution_rollout", weighting="alti"),
    "gradient_rollout": MethodOptions(method="gradient_rollout"),
}
MEBIBYTE = 2**20


def seconds_of(call: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes_of(call: Callable[[], object], device: str) -> int:
    """Return the peak memory of a call beyond the memory in use before it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    ctypes.CDLL(None).malloc_trim(0)  # return what earlier calls have freed
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak of resident pages
    held = _status("VmRSS")
    call()
    return _status("VmHWM") - held


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attention-type", default=BASE.attention_type)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    device, dtype = options.device, getattr(torch, options.dtype)
    torch.manual_seed(0)
    model = TimeSformer(replace(BASE, attention_type=options.attention_type))
    model = model.to(device, dtype).requires_grad_(False).eval()
    clips = torch.randn(1, 3, BASE.frames, BASE.height, BASE.width).to(device, dtype)
    forward = torch.inference_mode()(partial(model, clips))
    calls = {"forward": forward} | {
        name: partial(explain_clips, model, clips, chosen) for name, chosen in METHODS.items()
    }
    peaks = {name: peak_bytes_of(call, device) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.runs):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, device))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name in calls:
        print(
            f"{name:<18}{medians[name] * 1e3:9.1f} ms × {medians[name] / medians['forward']:5.2f}"
            f"{peaks[name] / MEBIBYTE:9.0f} MiB × {peaks[name] / peaks['forward']:5.2f}"
        )


if __name__ == "__main__":
    main()
