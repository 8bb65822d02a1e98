"""A plain forward against a forward whose attention is captured, and against an explanation."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rollout_core.contract import MethodOptions
from rollout_core.model.timesformer import Architecture, TimeSformer
from rollout_core.relevance.explain import explain_clips
from rollout_core.relevance.methods import watch_forward
from tests.benchmarks.suite.models import (
    BASE,
    KERNELS,
    PRECISIONS,
    TINY,
    on_device,
    plain_forwards,
    random_clips,
    random_model,
    shaped,
)
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.timing import Timing, fastest, interleaved

SHAPES: dict[Scale, dict[str, Architecture]] = {
    "full": {
        "base 8×224": BASE,
        "16×224": shaped(16, 224, depth=2),
        "HR 16×448": shaped(16, 448, depth=1),
        "L 96×224": shaped(96, 224, depth=1),
    },
    "quick": {"base 8×224": shaped(8, 224, depth=1)},
    "tiny": {"base 8×224": TINY},
}
"""On a GPU every model has its full depth."""

SEQUENCES: dict[Scale, dict[str, tuple[int, int]]] = {
    "full": {
        "8 tokens (time)": (196, 8),
        "197 tokens (space)": (8, 197),
        "785 tokens (space, HR)": (4, 785),
        "1,569 tokens (joint)": (1, 1569),
    },
    "quick": {"8 tokens (time)": (196, 8), "197 tokens (space)": (8, 197)},
    "tiny": {"8 tokens (time)": (6, 8)},
}
"""Name → how many sequences, and how many tokens each has."""


class Measured(NamedTuple):
    """One model in one precision."""

    plain: Timing
    captured: Timing
    explained: Timing
    kernel: str


def run(settings: Settings) -> Section:
    """Compare the three for each shape and precision."""
    rows: list[Row] = []
    figures = {}
    for name, architecture in SHAPES[settings.scale].items():
        if settings.device != "cpu":
            architecture = shaped(architecture.frames, architecture.height)
        by_precision = {}
        for precision, dtype in PRECISIONS.items():
            model = random_model(architecture, settings.device, dtype)
            found = by_precision[precision] = measure(model, random_clips(model), settings)
            rows.append(
                {
                    "model": name,
                    "layers": architecture.depth,
                    "precision": precision,
                    "plain, ms": found.plain.milliseconds,
                    "fastest kernel": found.kernel,
                    "captured / plain": found.captured.over(found.plain),
                    "explained / plain": found.explained.over(found.plain),
                    "captured / plain, CPU": found.captured.cpu_over(found.plain),
                    "explained / plain, CPU": found.explained.cpu_over(found.plain),
                }
            )
            figures[f"{name}, {precision}: captured / plain"] = found.captured.over(found.plain)
            figures[f"{name}, {precision}: explained / plain"] = found.explained.over(found.plain)
        slow, fast = (by_precision[precision].plain.seconds.median for precision in PRECISIONS)
        figures[f"{name}: bfloat16 / float32"] = fast / slow
    return Section(
        tables=[
            Table("Capturing against the fastest plain forward", rows),
            Table("One attention: explicit softmax and fused kernel", list(kernels(settings))),
        ],
        figures=figures,
        notes=[
            "Baseline: the fastest plain forward in the same precision: the model as it is, or "
            "with an explicit softmax or the fused kernel everywhere.",
            "Captured: the same forward, keeping each layer's head-averaged attention. Explained: "
            "`explain_clips`, which also rolls the attention out for one query and every frame.",
            "Fewer than 12 layers: the depth was cut so that the rounds fit the time.",
        ],
    )


def measure(model: TimeSformer, clips: Tensor, settings: Settings) -> Measured:
    """Time a plain, a captured and an explained forward in turn."""
    plain = on_device(settings.device, plain_forwards(model, clips))
    kernel = fastest(plain, rounds=1 if settings.scale == "quick" else 2)
    capture = torch.inference_mode()(partial(watch_forward, model, clips, MethodOptions()))
    others = {"captured": capture, "explained": partial(explain_clips, model, clips)}
    calls = {"plain": plain[kernel]} | on_device(settings.device, others)
    return Measured(**interleaved(calls, settings.rounds), kernel=kernel)


@torch.inference_mode()
def kernels(settings: Settings) -> list[Row]:
    """Time both kernels for sequences of each length, in each precision."""
    rows = []
    for name, (sequences, tokens) in SEQUENCES[settings.scale].items():
        for precision, dtype in PRECISIONS.items():
            q, k, v = torch.randn(3, sequences, 12, tokens, 64).to(settings.device, dtype)
            calls = {label: partial(kernel, q, k, v) for label, kernel in KERNELS.items()}
            found = interleaved(on_device(settings.device, calls), settings.rounds)
            rows.append(
                {
                    "sequence": name,
                    "precision": precision,
                    "explicit, ms": found["explicit"].milliseconds,
                    "fused / explicit": found["fused"].over(found["explicit"]),
                }
            )
    return rows
