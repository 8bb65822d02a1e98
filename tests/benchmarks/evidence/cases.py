"""Clips whose evidence is known: two acts move, and a ring tells whose motion is the class.

Every scene is drawn twice, with the ring around the things of either act. The two clips differ in
the ring alone, so a map that does not follow the model cannot be right for both.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from einops import rearrange, repeat
from torch import Generator, Tensor

from rollout_core.demo.layout import ACTS
from rollout_core.demo.motions import random_label_pairs
from rollout_core.demo.scenes import coverage_of, path, render, touched
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import normalize
from rollout_core.relevance.perturbation import fill_of

Part = Literal["development", "report"]

SEEDS: dict[Part, int] = {"development": 3_000_003, "report": 4_000_037}
"""Of the first batch. What has to be chosen is chosen on "development"; "report" is only measured.

Both are larger than any seed of the training.
"""

SCENES = 2
"""Scenes that are drawn, measured and saved together."""


@dataclass(frozen=True)
class Case:
    """Clips to explain.

    Attributes:
        clips: `b c t H W`, normalised, on the model's device.
        classes: `b r`, the classes to explain.
        seed: of all random numbers.
    """

    model: TimeSformer
    clips: Tensor
    classes: Tensor
    seed: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches, `(t, h, w)`."""
        return self.model.grid_of(self.clips)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return patch_of(self.model)

    def seen_by(self, model: TimeSformer) -> "Case":
        """Return the same clips and classes, for another model."""
        return replace(self, model=model)

    def part(self, clips: slice, classes: slice = slice(None)) -> "Case":
        """Return some of the clips and classes."""
        chosen = self.classes[clips, classes]
        return replace(self, clips=self.clips[clips], classes=chosen, seed=self.seed + clips.start)


@dataclass(frozen=True)
class Scenes:
    """Clips of scenes; the two clips of a scene are neighbours.

    Attributes:
        case: the clips and, for each, the class of the act with the ring, then of the other.
        things, touched, path: `b a t h w`, the covered share of each patch: where the things of
            each act are in this frame; in this or a neighbouring one; in any. The act with the
            ring comes first. The place of the ring counts for both acts in both clips, so that no
            act is larger because it has the ring.
    """

    case: Case
    things: Tensor
    touched: Tensor
    path: Tensor

    @classmethod
    def draw(cls, model: TimeSformer, number: int, part: Part, count: int = SCENES) -> Self:
        """Draw `count` scenes, the ones of batch `number`, with held-out things and grounds."""
        seed = SEEDS[part] + number
        labels = random_label_pairs(count, Generator().manual_seed(seed))
        a = model.architecture
        drawn = [
            render(
                labels,
                Generator().manual_seed(seed),
                frames=a.frames,
                height=a.height,
                width=a.width,
                split="test",
                ringed=torch.full((count,), ringed),
            )
            for ringed in range(ACTS)
        ]
        pixels = rearrange([batch.frames for batch in drawn], "m b c t H W -> (b m) c t H W")
        clips = normalize(pixels, MOVING_THINGS).to(model.cls_token.device)
        classes = rearrange([labels, labels.flip(1)], "m b r -> (b m) r").to(clips.device)
        things, near, anywhere = (
            _covered([of(batch) for batch in drawn], patch_of(model))
            for of in (lambda batch: batch.evidence, touched, path)
        )
        return cls(Case(model, clips, classes, seed * 1000), things, near, anywhere)


def _covered(masks: list[Tensor], patch: tuple[int, int]) -> Tensor:
    """Return the coverage of the clips of scenes, `(b m) a t h w`, the act with the ring first.

    Args:
        masks: `b a t H W`, with the ring around the first act, and around the second.
    """
    either = coverage_of(torch.stack(masks).amax(dim=0), patch)
    return rearrange([either, either.flip(1)], "m b a t h w -> (b m) a t h w")


@torch.inference_mode()
def losses_when_held(scenes: Scenes) -> Tensor:
    """Return how much each class's logit loses while the path of each act is held still, `b r a`.

    A patch is held still by its mean over the frames.
    """
    case = scenes.case
    whole = case.model(case.clips).gather(1, case.classes)
    still = fill_of(case.clips, "still", case.patch)
    held = []
    for act in range(ACTS):
        gone = to_pixels(scenes.path[:, act] > 0, case)
        held.append(case.model(torch.where(gone, still, case.clips)).gather(1, case.classes))
    return (whole[:, :, None] - torch.stack(held, dim=2)).cpu()


@torch.inference_mode()
def losses_without_a_patch(case: Case, batch_clips: int = 16) -> Tensor:
    """Return how much the first class's logit loses while one patch is held still, `b t h w`."""
    t, h, w = case.grid
    patches = torch.eye(t * h * w, dtype=torch.bool).view(-1, t, h, w)
    still = fill_of(case.clips, "still", case.patch)
    losses = []
    for index, k in enumerate(case.classes[:, 0].tolist()):
        clip = case.clips[index : index + 1]
        without = [
            case.model(torch.where(to_pixels(some, case), still[index : index + 1], clip))[:, k]
            for some in patches.split(batch_clips)
        ]
        losses.append(case.model(clip)[:, k] - torch.cat(without))
    return rearrange(torch.stack(losses), "b (t h w) -> b t h w", t=t, h=h, w=w).cpu()


def to_pixels(patches: Tensor, case: Case) -> Tensor:
    """Repeat values of patches, `n t h w`, for their pixels: `n 1 t H W`, on the clips' device."""
    y, x = case.patch
    return repeat(patches, "n t h w -> n 1 t (h y) (w x)", y=y, x=x).to(case.clips.device)


def patch_of(model: TimeSformer) -> tuple[int, int]:
    """Return height and width of a patch, in pixels."""
    return model.architecture.patch_height, model.architecture.patch_width
