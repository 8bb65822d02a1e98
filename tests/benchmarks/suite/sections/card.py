"""Clips a second on a card, its memory, and the share of its matrix rate, for each batch size."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from rollout_core.contract import MethodOptions
from rollout_core.model.specs import spec_of
from rollout_core.model.timesformer import Architecture, TimeSformer
from rollout_core.relevance.explain import explain_clips, prepare_clips
from rollout_core.relevance.methods import watch_forward
from tests.benchmarks.suite.models import (
    BASE,
    TINY,
    on_device,
    plain_forwards,
    random_clips,
    random_model,
    shaped,
)
from tests.benchmarks.suite.processes import MEBIBYTE, peak_bytes
from tests.benchmarks.suite.section import Cell, Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.sections.rollout import every_row, last_rows
from tests.benchmarks.suite.timing import Call, Spread, fastest, interleaved

DTYPE = torch.bfloat16


class Plan(NamedTuple):
    """Model and batch sizes; the side of the matrices whose product gives the card's rate."""

    models: dict[str, Architecture]
    batches: tuple[int, ...]
    side: int


HR, LONG = shaped(16, 448), shaped(96, 224)
PLANS: dict[Scale, Plan] = {
    "full": Plan({"base 8×224": BASE, "HR 16×448": HR, "L 96×224": LONG}, (1, 4, 16, 64), 8192),
    "quick": Plan({"base 8×224": BASE}, (1, 16), 8192),
    "tiny": Plan({"tiny": TINY}, (1, 2), 64),
}


COLUMNS = (
    *("plain, clips/s", "captured / plain", "rollout / plain", "explained / plain"),
    *("end to end, clips/s", "end to end / plain rate", "memory, MiB", "share of matrix rate"),
)


def run(settings: Settings) -> Section:
    """Measure each model with each batch size, in bfloat16."""
    plan = PLANS[settings.scale]
    rate = matrix_rate(plan.side, settings)
    rows: list[Row] = []
    figures: dict[str, float | Spread] = {"matrix rate, TFLOP/s": rate / 1e12}
    for name, architecture in plan.models.items():
        model = random_model(architecture, settings.device, DTYPE)
        for batch in plan.batches:
            try:
                cells = measure(model, batch, rate, settings)
            except torch.OutOfMemoryError:
                cells = dict.fromkeys(COLUMNS) | {"memory, MiB": "out of memory"}
            rows.append({"model": name, "batch": batch} | cells)
            figures |= {f"{name}, batch {batch}: {what}": cells[what] for what in COLUMNS}
    return Section(
        tables=[Table(f"bfloat16; the card multiplies at {rate / 1e12:.1f} TFLOP/s", rows)],
        figures=figures,
        notes=[
            "Baseline: the fastest plain forward. Rollout: of the row of the classification token "
            "and of one row for each frame. End to end: from frames in the host's memory, uint8, "
            "to relevance in the host's memory. Memory: the peak of an explanation.",
            f"The card's rate is that of a product of two {plan.side}×{plan.side} matrices in "
            "bfloat16, measured in this run; the share counts the matrix products of a plain "
            "forward. The dense rollout on this device is in the section on the rollout.",
        ],
    )


def matrix_rate(side: int, settings: Settings) -> float:
    """Return the FLOP a second of a product of square matrices."""
    left, right = torch.randn(2, side, side).to(settings.device, DTYPE)
    calls = on_device(settings.device, {"product": partial(torch.mm, left, right)})
    return 2 * side**3 / min(interleaved(calls, settings.rounds, warm_ups=3)["product"].wall)


def measure(model: TimeSformer, batch: int, rate: float, settings: Settings) -> dict[str, Cell]:
    """Return the cells for one batch size.

    Raises:
        torch.OutOfMemoryError: it does not fit in the card's memory.
    """
    device, calls = settings.device, calls_for(model, batch, settings)
    peak = peak_bytes(calls["explained"], device)
    found = interleaved(on_device(device, calls), settings.rounds)
    plain, whole = found["plain"], found["end to end"]
    flop = batch * forward_flop(model.architecture)
    values: tuple[Cell, ...] = (
        batch / plain.seconds.median,
        found["captured"].over(plain),
        found["rollout"].over(plain),
        found["explained"].over(plain),
        batch / whole.seconds.median,
        plain.over(whole),
        peak / MEBIBYTE,
        flop / rate / plain.seconds.median,
    )
    return dict(zip(COLUMNS, values, strict=True))


def calls_for(model: TimeSformer, batch: int, settings: Settings) -> dict[str, Call]:
    """Return what is timed for one batch size."""
    a, clips = model.architecture, random_clips(model, batch)
    capture = torch.inference_mode()(partial(watch_forward, model, clips, MethodOptions()))
    flow = capture().flow
    rows = every_row(flow, a.frames)
    spec = spec_of("timesformer-k400")
    shape = batch, a.frames, a.height, a.width, 3
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def end_to_end() -> object:
        device = torch.device(settings.device)
        return explain_clips(model, prepare_clips(frames, spec, device=device, dtype=DTYPE))

    plain = on_device(settings.device, plain_forwards(model, clips))
    return {
        "plain": plain[fastest(plain)],
        "captured": capture,
        "rollout": torch.inference_mode()(partial(last_rows, rows, flow)),
        "explained": partial(explain_clips, model, clips),
        "end to end": end_to_end,
    }


def forward_flop(a: Architecture) -> float:
    """Return the FLOP of the matrix products of a plain forward of one clip, divided attention."""
    (h, w), t, c = a.grid, a.frames, a.dim
    patches, in_groups = t * h * w, t * (1 + h * w)
    linear = patches * 5 * c**2 + in_groups * 4 * c**2 + (1 + patches) * 2 * c * a.mlp_dim
    attention = 2 * c * (patches * t + in_groups * (1 + h * w))
    embedding = patches * c * 3 * a.patch_height * a.patch_width
    return 2 * (a.depth * (linear + attention) + embedding)
