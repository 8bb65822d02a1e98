"""The rows of the evidence table: all methods that make a map of a clip.

Start layers count from 0, as in a request.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from einops import reduce, repeat
from torch import Generator, Tensor

from rollout_core.contract import MethodOptions
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import explain_clips
from rollout_core.relevance.perturbation import fill_of
from tests.benchmarks import blackbox
from tests.benchmarks.weightings import WEIGHTINGS, Weigh, contribution_map

Group = Literal["baselines", "published", "ours", "black boxes"]

BACKWARD = 2
"""Cost of a backward pass, in forwards."""

CENTER_WIDTH = 0.5
"""Standard deviation of the centre prior, in half-heights of a frame."""

OCCLUSION_FORWARDS = 1 + 7**3  # of a grid of 8 × 8 × 8 patches
LIME_FORWARDS = 1000
LIME_SEGMENTS = 64


@dataclass(frozen=True)
class Case:
    """Clips to explain.

    Attributes:
        clips: `b c t H W`, normalised, on the model's device.
        targets: `b`, the class to explain.
        seed: of all random numbers.
    """

    model: TimeSformer
    clips: Tensor
    targets: Tensor
    seed: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches, `(t, h, w)`."""
        return self.model.grid_of(self.clips)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        a = self.model.architecture
        return a.patch_height, a.patch_width

    def aimed_at(self, targets: Tensor) -> "Case":
        """Return the same clips with other classes to explain, `b`."""
        return replace(self, targets=targets.to(self.targets.device))

    def seen_by(self, model: TimeSformer) -> "Case":
        """Return the same clips and classes, for another model."""
        return replace(self, model=model)

    def probability(self, clips: Tensor) -> Tensor:
        """Return the probability of the first clip's class for other clips, `n c t H W`: `n`."""
        return self.model(clips).float().softmax(dim=1)[:, self.targets[0]]


@dataclass(frozen=True)
class Competitor:
    """A row: `explain` returns maps, `b t h w`, on the CPU, for `forwards` per clip."""

    name: str
    group: Group
    forwards: int
    explain: Callable[[Case], Tensor]


def explained(case: Case, *, target: list[int] | None = None, **options: object) -> Tensor:
    how = MethodOptions.model_validate(options)
    return explain_clips(case.model, case.clips, how, target=target).relevance


def gradient_rollout(case: Case) -> Tensor:
    return explained(case, method="gradient_rollout", target=case.targets.tolist())


def random(case: Case) -> Tensor:
    return torch.rand(len(case.clips), *case.grid, generator=Generator().manual_seed(case.seed))


def uniform(case: Case) -> Tensor:
    return torch.ones(len(case.clips), *case.grid)


def center_prior(case: Case) -> Tensor:
    """Return a Gaussian around the centre of every frame."""
    t, h, w = case.grid
    height, width = case.clips.shape[-2:]
    y = (torch.arange(h) + 0.5) * 2 / h - 1
    x = ((torch.arange(w) + 0.5) * 2 / w - 1) * width / height
    prior = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * CENTER_WIDTH**2))
    return repeat(prior, "h w -> b t h w", b=len(case.clips), t=t)


def gradient_times_input(case: Case) -> Tensor:
    """Sum over each patch: pixels times the gradient of the class's logit."""
    clips = case.clips.clone().requires_grad_()
    logits = case.model(clips).gather(1, case.targets[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), clips)
    y, x = case.patch
    return reduce(gradient * case.clips, "b c t (h y) (w x) -> b t h w", "sum", y=y, x=x).cpu()


def one_by_one(explain: Callable[[Case], Tensor]) -> Callable[[Case], Tensor]:
    """Explain a batch with a function that returns the map, `t h w`, of a single clip."""

    @torch.inference_mode()
    def each(case: Case) -> Tensor:
        singles = (
            replace(
                case,
                clips=case.clips[index : index + 1],
                targets=case.targets[index : index + 1],
                seed=case.seed + index,
            )
            for index in range(len(case.clips))
        )
        return torch.stack([explain(single) for single in singles])

    return each


@one_by_one
def occlusion(case: Case) -> Tensor:
    blurred = fill_of(case.clips, "blur", case.patch)
    return blackbox.occlusion(case.probability, case.clips, blurred, case.grid)


@one_by_one
def video_lime(case: Case) -> Tensor:
    generator = Generator().manual_seed(case.seed)
    relevance = blackbox.lime(
        case.probability,
        case.clips,
        fill_of(case.clips, "mean", case.patch),
        blackbox.tube_segments(case.clips, LIME_SEGMENTS, generator),
        forwards=LIME_FORWARDS,
        generator=generator,
    )
    y, x = case.patch
    return reduce(relevance, "t (h y) (w x) -> t h w", "mean", y=y, x=x)


def _rollouts() -> tuple[Competitor, ...]:
    def row(name: str, **options: object) -> Competitor:
        return Competitor(name, "published", 1, partial(explained, **options))

    return (
        row("attention, last layer", method="attention"),
        row("rollout"),
        row("rollout, head_fusion max", head_fusion="max"),
        row("rollout, discard_ratio 0.9", discard_ratio=0.9),
        *(row(f"rollout, start_layer {n}", start_layer=n) for n in (1, 2, 3)),
    )


def weighed(case: Case, weigh: Weigh) -> Tensor:
    return contribution_map(case.model, case.clips, weigh)


def _contribution_rollouts() -> tuple[Competitor, ...]:
    explains: dict[str, Callable[[Case], Tensor]] = {
        name: partial(weighed, weigh=weigh) for name, weigh in WEIGHTINGS.items()
    } | {
        weighting: partial(explained, method="contribution_rollout", weighting=weighting)
        for weighting in ("projection", "deviation")
    }
    return tuple(
        Competitor(f"contribution_rollout, {name}", "ours", 1, explain)
        for name, explain in explains.items()
    )


COMPETITORS = (
    Competitor("random", "baselines", 0, random),
    Competitor("uniform", "baselines", 0, uniform),
    Competitor("centre prior", "baselines", 0, center_prior),
    *_rollouts(),
    Competitor("gradient × input", "published", 1 + BACKWARD, gradient_times_input),
    Competitor("gradient_rollout", "published", 1 + BACKWARD, gradient_rollout),
    *_contribution_rollouts(),
    Competitor("occlusion, 2×2×2 patches", "black boxes", OCCLUSION_FORWARDS, occlusion),
    Competitor("Video-LIME", "black boxes", LIME_FORWARDS, video_lime),
)


def by_name(name: str) -> Competitor:
    return next(competitor for competitor in COMPETITORS if competitor.name == name)
