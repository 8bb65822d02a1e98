"""The rows of the evidence table: all methods that make a map of a clip.

Maps are `b r t h w`, one for each class. For a map without a class `r` is 1.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from captum.attr import IntegratedGradients
from einops import rearrange, reduce, repeat
from torch import Generator, Tensor

from rollout_core.contract import MethodOptions
from rollout_core.relevance.explain import explain_clips
from rollout_core.relevance.perturbation import fill_of
from tests.benchmarks.evidence import black_boxes
from tests.benchmarks.evidence.cases import Case
from tests.benchmarks.evidence.propagation import propagated
from tests.benchmarks.evidence.weightings import WEIGHTINGS, Weigh, contribution_map

Group = Literal["baselines", "published", "ours", "black boxes"]

BACKWARD = 2
"""Cost of a backward pass, in forwards."""

CENTER_WIDTH = 0.5
"""Standard deviation of the centre prior, in half-heights of a frame."""

GRADIENT_STEPS = 32
"""Of the path of integrated gradients."""

DEAR_FORWARDS = 50
BLACK_BOX_FORWARDS = 1000
LIME_SEGMENTS = 64


@dataclass(frozen=True)
class Row:
    """A way to make maps.

    Attributes:
        explain: returns the maps of a case, `b r t h w`, on the CPU.
        forwards: what one map costs.
        knows_class: whether it makes a map for each class.
    """

    name: str
    group: Group
    forwards: float
    explain: Callable[[Case], Tensor]
    knows_class: bool = True

    @property
    def is_dear(self) -> bool:
        """Whether a map costs so much that few are made."""
        return self.forwards > DEAR_FORWARDS


def explained(case: Case, **options: object) -> Tensor:
    """Return the maps of a method without a class."""
    how = MethodOptions.model_validate(options)
    return explain_clips(case.model, case.clips, how).relevance[:, None]


def explained_classes(case: Case, **options: object) -> Tensor:
    """Return the maps of a method that explains several classes at once."""
    how = MethodOptions.model_validate(options)
    found = explain_clips(case.model, case.clips, how, target=case.classes.tolist())
    if found.target_relevance is None:
        return found.relevance[:, None]
    return found.target_relevance


def gradient_rollout(case: Case) -> Tensor:
    how = MethodOptions(method="gradient_rollout")
    return _of_each_class(
        explain_clips(case.model, case.clips, how, target=each.tolist()).relevance
        for each in case.classes.unbind(dim=1)
    )


def random(case: Case) -> Tensor:
    return torch.rand(len(case.clips), 1, *case.grid, generator=Generator().manual_seed(case.seed))


def uniform(case: Case) -> Tensor:
    return torch.ones(len(case.clips), 1, *case.grid)


def center_prior(case: Case) -> Tensor:
    """Return a Gaussian around the centre of every frame."""
    t, h, w = case.grid
    height, width = case.clips.shape[-2:]
    y = (torch.arange(h) + 0.5) * 2 / h - 1
    x = ((torch.arange(w) + 0.5) * 2 / w - 1) * width / height
    prior = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * CENTER_WIDTH**2))
    return repeat(prior, "h w -> b 1 t h w", b=len(case.clips), t=t)


def frame_differences(case: Case) -> Tensor:
    """Return how much each patch differs from the frame before and after, without a model."""
    steps = case.clips.diff(dim=2).abs().cpu()
    none = torch.zeros_like(steps[:, :, :1])
    change = torch.cat([none, steps], dim=2) + torch.cat([steps, none], dim=2)
    return _by_patch(change, case)[:, None]


def gradient_times_input(case: Case) -> Tensor:
    """Sum over each patch: pixels times the gradient of the class's logit."""
    clips = case.clips.clone().requires_grad_()
    logits = case.model(clips)
    maps = []
    for each in case.classes.unbind(dim=1):
        logit = logits.gather(1, each[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, clips, retain_graph=True)
        maps.append(_by_patch(gradient * case.clips, case))
    return _of_each_class(maps)


def integrated_gradients(case: Case) -> Tensor:
    """Return captum's integrated gradients from a grey clip. Sundararajan, Taly & Yan 2017."""
    method = IntegratedGradients(case.model)
    attributed = partial(
        method.attribute, case.clips, n_steps=GRADIENT_STEPS, internal_batch_size=8
    )
    return _of_each_class(
        _by_patch(attributed(target=each).float(), case) for each in case.classes.unbind(dim=1)
    )


def occlusion(case: Case) -> Tensor:
    blurred = fill_of(case.clips, "blur", case.patch)

    def explain(one: Case, clip: Tensor, hidden: Tensor) -> Tensor:
        cuboids = black_boxes.sliding_cuboids(one.grid, BLACK_BOX_FORWARDS - 1)
        return black_boxes.occlusion(_logits_of(one), clip, hidden, cuboids)

    return _one_by_one(case, explain, blurred)


def video_lime(case: Case) -> Tensor:
    grey = fill_of(case.clips, "mean", case.patch)

    def explain(one: Case, clip: Tensor, hidden: Tensor) -> Tensor:
        generator = Generator().manual_seed(one.seed)
        relevance = black_boxes.lime(
            _logits_of(one),
            clip,
            hidden,
            black_boxes.tube_segments(clip, LIME_SEGMENTS, generator),
            forwards=BLACK_BOX_FORWARDS,
            generator=generator,
        )
        return _by_patch(relevance[:, None], one)  # the classes as clips of one channel

    return _one_by_one(case, explain, grey)


def weighed(case: Case, weigh: Weigh) -> Tensor:
    return contribution_map(case.model, case.clips, weigh)[:, None]


def _one_by_one(
    case: Case, explain: Callable[[Case, Tensor, Tensor], Tensor], replacement: Tensor
) -> Tensor:
    """Explain each clip with a function of the clip and its replacement, `1 c t H W`."""
    ones = [case.part(slice(index, index + 1)) for index in range(len(case.clips))]
    with torch.inference_mode():
        return torch.stack(
            [
                explain(one, one.clips, hidden[None])
                for one, hidden in zip(ones, replacement, strict=True)
            ]
        )


def _logits_of(case: Case) -> black_boxes.Answer:
    """Return what tells the logits of a clip's classes for changed clips: `n c t H W` to `n r`."""
    (classes,) = case.classes

    def answer(clips: Tensor) -> Tensor:
        return case.model(clips)[:, classes].float()

    return answer


def _by_patch(pixels: Tensor, case: Case) -> Tensor:
    """Sum over channels and the pixels of each patch: `b c t H W` to `b t h w`, on the CPU."""
    y, x = case.patch
    return reduce(pixels.detach(), "b c t (h y) (w x) -> b t h w", "sum", y=y, x=x).cpu()


def _of_each_class(maps: Iterable[Tensor]) -> Tensor:
    return rearrange(list(maps), "r b t h w -> b r t h w")


def _blind(name: str, group: Group, forwards: float, explain: Callable[[Case], Tensor]) -> Row:
    return Row(name, group, forwards, explain, knows_class=False)


ROWS = (
    _blind("random", "baselines", 0, random),
    _blind("uniform", "baselines", 0, uniform),
    _blind("centre prior", "baselines", 0, center_prior),
    _blind("frame differences", "baselines", 0, frame_differences),
    _blind("attention, last layer", "published", 1, partial(explained, method="attention")),
    _blind("rollout", "published", 1, explained),
    *(
        _blind(f"contributions, {name}", "published", 1, partial(weighed, weigh=weigh))
        for name, weigh in WEIGHTINGS.items()
    ),
    Row("gradient × input", "published", 1 + BACKWARD, gradient_times_input),
    Row(
        "integrated gradients",
        "published",
        GRADIENT_STEPS * (1 + BACKWARD),
        integrated_gradients,
    ),
    Row(
        "CP-LRP",
        "published",
        1 + BACKWARD,
        lambda case: propagated(case.model, case.clips, case.classes),
    ),
    Row("gradient_rollout", "published", 1 + BACKWARD, gradient_rollout),
    *(
        _blind(
            f"contribution_rollout, {weighting}",
            "ours",
            1,
            partial(explained, method="contribution_rollout", weighting=weighting),
        )
        for weighting in ("deviation", "projection")
    ),
    *(
        Row(
            f"class contributions, {weighting}",
            "ours",
            1,
            partial(explained_classes, method="contribution_rollout", weighting=weighting),
        )
        for weighting in ("projection", "deviation")
    ),
    *(
        Row(
            f"difference, {reference}",
            "ours",
            6,
            partial(explained_classes, method="difference", reference=reference),
        )
        for reference in ("still", "blur", "mean")
    ),
    Row("occlusion", "black boxes", BLACK_BOX_FORWARDS, occlusion),
    Row("Video-LIME", "black boxes", BLACK_BOX_FORWARDS, video_lime),
)


def by_name(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
