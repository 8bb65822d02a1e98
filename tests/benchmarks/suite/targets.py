"""What the project wants to reach, and whether a run shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.suite.tables import cell

Figures = Mapping[str, Any]
"""Section, a slash and the name of a figure → its value."""

CHOSEN = "job/base, overlay: precision"
"""The figure that says in which precision a worker runs the base model by default."""


@dataclass(frozen=True)
class Target:
    """A limit for one or several figures; the worst of them counts.

    Attributes:
        figures: names; `{precision}` stands for the one that a worker chooses.
        at_most, at_least: the limit; one of the two is given.
        amx: the limit on a processor with AMX, if that is another one.
    """

    text: str
    figures: tuple[str, ...]
    at_most: float | None = None
    at_least: float | None = None
    amx: float | None = None

    def values(self, figures: Figures) -> list[Any] | None:
        """Return the values, None if one was not measured."""
        names = [name.format(precision=figures.get(CHOSEN)) for name in self.figures]
        found = [figures.get(name) for name in names]
        return None if None in found else found

    def limit(self, instructions: str) -> float:
        """Return the limit on a processor with these instructions."""
        if self.amx is not None and "amx_bf16" in instructions:
            return self.amx
        limit = self.at_least if self.at_most is None else self.at_most
        assert limit is not None
        return limit

    def verdict(self, figures: Figures, instructions: str) -> str:
        """Return "met", "missed" or "not measured"."""
        values = self.values(figures)
        if values is None:
            return "not measured"
        medians = [value if isinstance(value, float | int) else value[0] for value in values]
        limit = self.limit(instructions)
        is_met = min(medians) >= limit if self.at_most is None else max(medians) <= limit
        return "met" if is_met else "missed"


def _captured(model: str) -> tuple[str, ...]:
    return tuple(
        f"forward/{model}, {precision}: captured / plain" for precision in ("float32", "bfloat16")
    )


def _jobs(kind: str, what: str, *models: str) -> tuple[str, ...]:
    return tuple(f"job/{model}, {kind}: {what}" for model in models)


def _card(what: str) -> tuple[str, ...]:
    return tuple(
        f"card/{model}, batch 16: {what}" for model in ("base 8×224", "HR 16×448", "L 96×224")
    )


ON_CPU = (
    Target(
        "precision that a worker chooses / fastest precision: small, base",
        _jobs("overlay", "precision / fastest", "small", "base"),
        at_most=1.05,
    ),
    Target("captured / plain, base: float32, bfloat16", _captured("base 8×224"), at_most=1.03),
    Target("captured / plain, L: float32, bfloat16", _captured("L 96×224"), at_most=1.05),
    Target("captured / plain, HR: float32, bfloat16", _captured("HR 16×448"), at_most=1.08),
    Target(
        "Hugging Face peer / ours by default, 8 frames",
        ("peers/8 frames: peer / ours in {precision}",),
        at_least=2.3,
        amx=4,
    ),
    Target(
        "Hugging Face peer / ours by default, 32 frames",
        ("peers/32 frames: peer / ours in {precision}",),
        at_least=9.5,
        amx=40,
    ),
    Target(
        "overlay / bare re-encode: 720p, 1080p",
        ("videos/720p: overlay / re-encode", "videos/1080p: overlay / re-encode"),
        at_most=1.25,
    ),
    Target(
        "bytes of the overlay / bare re-encode: 720p, 1080p",
        ("videos/720p: bytes / re-encode", "videos/1080p: bytes / re-encode"),
        at_most=1.5,
    ),
    Target(
        "job / floors, overlay: small, base",
        _jobs("overlay", "job / floors", "small", "base"),
        at_most=1.25,
    ),
    Target(
        "job / floors, no overlay: small, base",
        _jobs("no overlay", "job / floors", "small", "base"),
        at_most=1.5,
    ),
    Target(
        "core seconds of a job / of its floors, base, overlay",
        _jobs("overlay", "core seconds of job / floors", "base"),
        at_most=1.15,
    ),
    Target(
        "overhead of the service, p50 in ms: `?wait=`, `Prefer: wait=`, `/events`",
        tuple(f"overhead/`{way}`: p50, ms" for way in ("?wait=", "Prefer: wait=", "/events")),
        at_most=60,
    ),
    Target(
        "peak memory, longest / shortest video, the worst process",
        ("memory/longest / shortest",),
        at_most=1.1,
    ),
    Target("start of a worker, small model, in s", ("start/worker: announced, s",), at_most=3),
)

ON_GPU = (
    Target("captured / plain: base, HR, L", _card("captured / plain"), at_most=1.05),
    Target("rollout / plain: base, HR, L", _card("rollout / plain"), at_most=0.01),
    Target("end to end / plain rate: base, HR, L", _card("end to end / plain rate"), at_least=0.5),
)


def figures_of(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of all sections, by section and name."""
    return {
        f"{name}/{key}": value
        for name, section in sections.items()
        for key, value in section.get("figures", {}).items()
    }


def rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each target: what, limit, each revision's values, the present verdict."""
    targets = ON_CPU if report["device"] == "cpu" else ON_GPU
    instructions = report["machine"]["instructions"]
    by_label = {
        label: figures_of(revision["sections"]) for label, revision in report["revisions"].items()
    }
    judged = by_label.get("now", [*by_label.values()][-1])
    return [
        {
            "what": target.text,
            "target": f"{'≥' if target.at_most is None else '≤'} {target.limit(instructions):g}",
            **{label: _text(target.values(figures)) for label, figures in by_label.items()},
            "verdict": target.verdict(judged, instructions),
        }
        for target in targets
    ]


def _text(values: list[Any] | None) -> str:
    return "–" if values is None else ", ".join(map(cell, values))
