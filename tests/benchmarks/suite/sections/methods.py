"""What each method costs, against a plain forward."""

from functools import partial

import torch

from rollout_core.contract import MethodOptions
from rollout_core.model.timesformer import Architecture
from rollout_core.relevance.explain import explain_clips
from tests.benchmarks.suite.models import (
    BASE,
    TINY,
    on_device,
    random_clips,
    random_model,
    shaped,
)
from tests.benchmarks.suite.processes import peak_bytes
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.timing import interleaved

SHAPES: dict[Scale, Architecture] = {"full": BASE, "quick": shaped(8, 224, depth=1), "tiny": TINY}

METHODS = {
    "`attention`": MethodOptions(method="attention"),
    "`rollout`": MethodOptions(method="rollout"),
    **{
        f"`contribution_rollout`, `{weighting}`": MethodOptions(
            method="contribution_rollout", weighting=weighting
        )
        for weighting in ("projection", "deviation")
    },
    "`gradient_rollout`": MethodOptions(method="gradient_rollout"),
    "`difference`": MethodOptions(method="difference"),
}
CLASSES = {"1 target": 1, "8 targets": 8}
PLAIN = "plain forward"


def run(settings: Settings) -> Section:
    """Time every method in float32, and measure its memory."""
    architecture = SHAPES[settings.scale]
    model = random_model(architecture, settings.device)
    clips = random_clips(model)
    calls = {PLAIN: torch.inference_mode()(partial(model, clips))} | {
        name: partial(explain_clips, model, clips, options) for name, options in METHODS.items()
    }
    contributions = MethodOptions(method="contribution_rollout")
    for name, count in CLASSES.items():
        targets = [[*range(min(count, architecture.classes))]]
        call = partial(explain_clips, model, clips, contributions, target=targets)
        calls[f"`contribution_rollout`, {name}"] = call
    calls = on_device(settings.device, calls)
    peaks = {name: peak_bytes(call, settings.device) for name, call in calls.items()}
    found = interleaved(calls, min(settings.rounds, 3), warm_ups=0)
    rows: list[Row] = [
        {
            "method": name,
            "time, ms": timing.milliseconds,
            "× forward": timing.over(found[PLAIN]),
            "memory × forward": peaks[name] / peaks[PLAIN],
        }
        for name, timing in found.items()
    ]
    title = f"One clip of 8 frames at 224×224, {architecture.depth} layers, float32"
    return Section(
        tables=[Table(title, rows)],
        notes=[
            "Baseline: the model's plain forward. Memory is the peak beyond the model and the "
            "clip. Three rounds. `faithfulness` adds 693 forwards to any method."
        ],
    )
