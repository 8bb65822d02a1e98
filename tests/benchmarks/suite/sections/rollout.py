"""The rollout alone: factored against dense, and one row against many."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rollout_core.model.checkpoints import load_model
from rollout_core.relevance.explain import explain_clips
from rollout_core.relevance.rollout import (
    Flow,
    cls_row,
    frame_rows,
    patches_of,
    roll_out,
)
from tests.benchmarks.suite.dense import dense_rollout, layer_matrix, matrix_bytes, with_skip
from tests.benchmarks.suite.models import on_device
from tests.benchmarks.suite.processes import MEBIBYTE, peak_bytes
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.timing import interleaved

LAYERS = 12
REFERENCE = Path(__file__).parents[3] / "rollout_core" / "reference"
MATRICES = 4
"""Matrices over all tokens that the dense rollout holds at a time."""


class Plan(NamedTuple):
    """Frames → in how many rounds the dense rollout is timed; patches of a frame."""

    dense_rounds: dict[int, int]
    patches: int = 14 * 14


PLANS: dict[Scale, Plan] = {
    "full": Plan({8: 7, 16: 7, 32: 5, 64: 1, 96: 1}),
    "quick": Plan({8: 3, 16: 1}),
    "tiny": Plan({2: 2, 4: 1}, patches=6),
}


def run(settings: Settings) -> Section:
    """Compare them for each number of frames."""
    plan = PLANS[settings.scale]
    rows, several = [], []
    with torch.inference_mode():
        for frames, rounds in plan.dense_rounds.items():
            space, time = attention(frames, plan.patches, settings.device)
            flow = Flow([*map(with_skip, space)], [*map(with_skip, time)])
            rows.append(compare(space, time, flow, settings, rounds))
            several.append(compare_rows(flow, frames, settings))
        error = largest_difference(*attention(min(plan.dense_rounds), plan.patches, "cpu"))
    figures = {"factored against dense: largest difference": error}
    for row in several:
        figures[f"{row['frames']} frames: all rows / one row"] = row["all rows / one row"]
    return Section(
        tables=[
            Table("All 12 layers of one clip, frames of 14×14 patches", rows),
            Table("Rows of the temporal rollout: the cls row and one a frame", several),
            Table("Exactness: largest difference from the published code", exactness()),
        ],
        figures=figures,
        notes=[
            "Baseline: the published way, which multiplies matrices over all tokens, layer by "
            f"layer. One layer is timed and multiplied by {LAYERS}. From 64 frames on, it is timed "
            "once.",
            "The attention is given. Both results are the same: they differ by at most "
            f"{error:.1e}.",
        ],
    )


def attention(frames: int, patches: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return random attention of every layer, within frames and over time."""
    generator = torch.Generator().manual_seed(0)

    def layers(*shape: int) -> list[Tensor]:
        logits = (torch.randn(1, *shape, generator=generator) for _ in range(LAYERS))
        return [layer.mul(2).softmax(dim=-1).to(device) for layer in logits]

    return layers(frames, 1 + patches, 1 + patches), layers(patches, frames, frames)


def compare(
    space: list[Tensor], time: list[Tensor], flow: Flow, settings: Settings, rounds: int
) -> Row:
    """Return time and memory of both rollouts for one number of frames."""
    _, frames, tokens, _ = space[0].shape
    factored = partial(factored_rollout, flow)
    calls = on_device(settings.device, {"factored": factored})
    found = interleaved(calls, settings.rounds)["factored"].seconds
    row: dict[str, object] = {
        "frames": frames,
        "tokens": 1 + frames * (tokens - 1),
        "factored, ms": found.scaled(1e3),
        "factored, MiB": peak_bytes(factored, settings.device) / MEBIBYTE,
    }
    matrix = matrix_bytes(frames, tokens - 1)
    if MATRICES * matrix > free_bytes(settings.device):
        needed = f"needs {MATRICES * matrix / 2**30:.1f} GiB"
        return row | {"dense, ms": needed, "dense, MiB": None, "dense / factored": None}
    product = layer_matrix(space[0], time[0])

    def dense_layer() -> Tensor:
        return layer_matrix(space[1], time[1]) @ product

    peak = peak_bytes(dense_layer, settings.device) + matrix
    calls = on_device(settings.device, {"dense": dense_layer})
    dense = interleaved(calls, rounds, warm_ups=0)["dense"].seconds.scaled(LAYERS)
    return row | {
        "dense, ms": dense.scaled(1e3),
        "dense, MiB": peak / MEBIBYTE,
        "dense / factored": dense.median / found.median,
    }


def compare_rows(flow: Flow, frames: int, settings: Settings) -> Row:
    """Return the time for one row, and for the rows of all frames beside it."""
    starts = {"one": cls_row(flow.groups[0]), "every": every_row(flow, frames)}
    calls = {name: partial(last_rows, rows, flow) for name, rows in starts.items()}
    found = interleaved(on_device(settings.device, calls), settings.rounds)
    return {
        "frames": frames,
        "rows": 1 + frames,
        "one row, ms": found["one"].milliseconds,
        "all rows, ms": found["every"].milliseconds,
        "all rows / one row": found["every"].over(found["one"]),
    }


def factored_rollout(flow: Flow) -> Tensor:
    """Return what the classification token gets from each patch, `b t p`."""
    row = last_rows(cls_row(flow.groups[0]), flow)
    return rearrange(patches_of(row), "b 1 (t p) -> b t p", t=flow.groups[0].shape[1])


def every_row(flow: Flow, frames: int) -> Tensor:
    """Return the rows of an explanation, `b 1+t g n`: the cls row, and one for each frame."""
    groups = flow.groups[0]
    return torch.cat([cls_row(groups), frame_rows(groups, t=frames)], dim=1)


def last_rows(rows: Tensor, flow: Flow) -> Tensor:
    """Propagate rows, `b r g n`, to the input."""
    *_, last = roll_out(rows, flow)
    return last


def largest_difference(space: list[Tensor], time: list[Tensor]) -> float:
    """Return the largest absolute difference of the factored and the dense rollout."""
    flow = Flow([*map(with_skip, space)], [*map(with_skip, time)])
    return (factored_rollout(flow) - dense_rollout(space, time)).abs().max().item()


def exactness() -> list[Row]:
    """Compare small models with the stored answers of the published code."""
    rows = []
    for name in ("divided", "joint", "space_only"):
        with np.load(REFERENCE / f"tiny_{name}.npz", allow_pickle=False) as file:
            published = {key: torch.from_numpy(file[key]) for key in file.files}
        model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
        found = explain_clips(model, published["clips"])
        pairs = {"logits": (found.logits, published["logits"])}
        if name == "divided":
            rollout = rearrange(published["rollout_hwt"], "b h w t -> b t h w")
            pairs["relevance"] = found.relevance, rollout
        for what, (ours, theirs) in pairs.items():
            difference = (ours - theirs).abs().max().item()
            rows.append({"model": f"{name}: {what}", "largest difference": difference})
    return rows


def free_bytes(device: str) -> int:
    """Return the memory that can be used now."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise LookupError("MemAvailable")
