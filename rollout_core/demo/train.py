"""Trains moving-things from scratch, in pieces: `python -m rollout_core.demo.train STATE`.

All of the training is in one file. SIGTERM ends it after the present step, and the same command
goes on from there. The batch of a step depends on the seed and the number of the step alone.

Training begins with small frames and so with few patches, where most of the learning is cheap, and
ends with frames of full size. Position embeddings are resized in between.

The class of a clip alone teaches a small model little about where to look: after 400 steps it is
right in 0.14 of the clips. So a second head, which is not part of the model, is trained with it:
it tells the class of the act that each patch shows. With that, it is 0.49.
"""

import argparse
import math
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from rollout_core.demo.grounds import Split
from rollout_core.demo.initial import new_model
from rollout_core.demo.layout import NO_RING, STEADY_VIEW, USUAL_VIEW, View
from rollout_core.demo.motions import CLASSES, random_label_pairs, random_labels
from rollout_core.demo.scenes import ON_THING, coverage_of, render
from rollout_core.model.checkpoints import model_name, save_model
from rollout_core.model.specs import MOVING_THINGS, ModelSpec
from rollout_core.model.timesformer import Architecture, TimeSformer
from rollout_core.relevance.explain import normalize

ARCHITECTURE = Architecture(
    attention_type="divided_space_time",
    frames=MOVING_THINGS.frames,
    height=MOVING_THINGS.height,
    width=MOVING_THINGS.width,
    patch_height=MOVING_THINGS.patch_height,
    patch_width=MOVING_THINGS.patch_width,
    dim=128,
    mlp_dim=512,
    depth=MOVING_THINGS.depth,
    heads=4,
    classes=len(CLASSES),
)

BATCH_CLIPS = 32
PEAK_LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
SECOND_MOMENT = 0.98
WARMUP_STEPS = 100
DECAY_SHARE = 0.25
"""Last share of the steps, in which the learning rate falls to 0."""

MAX_GRADIENT_NORM = 1.0
LOG_EVERY_STEPS = 50
SAVE_EVERY_STEPS = 200


@dataclass(frozen=True)
class Mix:
    """What kinds of clips to show.

    Attributes:
        both: share of the clips in which both acts move.
        cued: share of the others in which the one act that moves has a ring, too.
        view: how near the things are, and how the camera moves.
    """

    both: float = 0.5
    cued: float = 0.5
    view: View = USUAL_VIEW


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        steps: of the whole training, for the learning rate.
        clips: of each step.
    """

    steps: int = 20_000
    clips: int = BATCH_CLIPS
    mix: Mix = Mix()


@dataclass(frozen=True)
class Batch:
    """Clips to train on.

    Attributes:
        frames: `b c t H W`. The clips in which both acts move come first.
        labels: `b`. If both acts move, the first's.
        patch_labels: `b t p`, the class of the act that a patch shows, or `len(CLASSES)`: none.
    """

    frames: Tensor
    labels: Tensor
    patch_labels: Tensor


@dataclass
class Training:
    """A training that can be stored and continued.

    Attributes:
        patch_head: tells what a patch shows; used in training alone.
        began: step at which the optimizer began.
        step: number of finished steps.
        seed: of the initial parameters and of all batches.
    """

    model: TimeSformer
    patch_head: nn.Linear
    optimizer: torch.optim.AdamW
    began: int
    step: int
    seed: int

    def save(self, path: Path) -> None:
        """Write everything to one file, atomically."""
        state = {
            "model": self.model.state_dict(),
            "patch_head": self.patch_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "began": self.began,
            "step": self.step,
            "seed": self.seed,
            "size": self.model.architecture.height,
            "depth": self.model.architecture.depth,
        }
        part = path.with_name(f"{path.name}.part")
        torch.save(state, part)
        part.replace(path)


def start(size: int, seed: int, depth: int = ARCHITECTURE.depth) -> Training:
    """Begin a training of `depth` layers on frames of `size` × `size` pixels."""
    architecture = replace(ARCHITECTURE, height=size, width=size, depth=depth)
    model = new_model(architecture, seed).train()
    patch_head = nn.Linear(ARCHITECTURE.dim, len(CLASSES) + 1)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *patch_head.parameters()],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, SECOND_MOMENT),
        weight_decay=WEIGHT_DECAY,
    )
    return Training(model, patch_head, optimizer, began=0, step=0, seed=seed)


def resume(path: Path, size: int) -> Training:
    """Continue a training; if `size` is another one than before, with resized embeddings."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    training = start(size, state["seed"], state["depth"])
    training.began = training.step = state["step"]
    training.patch_head.load_state_dict(state["patch_head"])
    grid = training.model.architecture.grid
    training.model.load_state_dict(
        {
            name: _resized(part, grid) if name == "pos_embed" else part
            for name, part in state["model"].items()
        }
    )
    if state["size"] == size:
        training.optimizer.load_state_dict(state["optimizer"])
        training.began = state["began"]
    return training


def take_step(training: Training, plan: Plan) -> Tensor:
    """Train on a new batch; return the loss and the share of correct answers, `2`."""
    rate = learning_rate(training.step, plan.steps, began=training.began)
    training.optimizer.param_groups[0]["lr"] = rate
    generator = Generator().manual_seed(training.seed * 10_000_000 + training.step)
    model = training.model
    batch = draw_batch(plan.clips, generator, model.architecture.height, "train", plan.mix)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.encode(normalize(batch.frames, MOVING_THINGS))
        logits = model.classify(tokens)
        patch_logits = training.patch_head(model.norm(tokens[:, :, 1:]))
    loss = F.cross_entropy(logits.float(), batch.labels)
    training.optimizer.zero_grad()
    (loss + _patch_loss(patch_logits.float(), batch.patch_labels)).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    training.optimizer.step()
    training.step += 1
    return torch.stack((loss.detach(), (logits.argmax(dim=-1) == batch.labels).float().mean()))


def learning_rate(step: int, steps: int, *, began: int = 0) -> float:
    """Return the rate: a linear rise, a constant, and a linear fall at the end.

    Args:
        step: number of finished steps.
        steps: of the whole training.
        began: step at which the optimizer began.
    """
    rise = (step - began + 1) / WARMUP_STEPS
    fall = (steps - step) / (DECAY_SHARE * steps)
    return PEAK_LEARNING_RATE * max(0.0, min(1.0, rise, fall))


def draw_batch(
    count: int, generator: Generator, size: int, split: Split, mix: Mix = Mix()
) -> Batch:
    """Return `count` clips of `size` × `size` pixels."""
    pairs = random_label_pairs(round(mix.both * count), generator)
    singles = random_labels(count - len(pairs), generator)
    marked = torch.rand(len(singles), generator=generator) < mix.cued
    draw = partial(
        render, frames=MOVING_THINGS.frames, height=size, width=size, split=split, view=mix.view
    )
    ringed = torch.where(marked, 0, NO_RING)
    two, one = draw(pairs, generator), draw(singles, generator, ringed=ringed)
    return Batch(
        torch.cat((two.frames, one.frames)),
        torch.cat((pairs[:, 0], singles)),
        torch.cat(
            (
                patch_labels(two.evidence, pairs),
                patch_labels(one.evidence[:, None], singles[:, None]),
            )
        ),
    )


def _patch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of patches that show an act, and of the others, each a mean."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    shows = (labels < len(CLASSES)).flatten()
    return losses[shows].sum() / shows.sum().clamp(min=1) + losses[~shows].mean()


def patch_labels(evidence: Tensor, labels: Tensor) -> Tensor:
    """Return the class that each patch shows, `b t p`, or `len(CLASSES)`: none.

    Args:
        evidence: `b a t H W`, where the things of each act are.
        labels: `b a`.
    """
    coverage = coverage_of(evidence, (MOVING_THINGS.patch_height, MOVING_THINGS.patch_width))
    cover, act = rearrange(coverage, "b a t h w -> b a t (h w)").max(dim=1)
    shown = labels.gather(1, act.flatten(1)).view_as(act)
    return torch.where(cover < ON_THING, len(CLASSES), shown)


def spec_of(model: TimeSformer, name: str) -> ModelSpec:
    """Return how to feed a model of this file's kind."""
    a = model.architecture
    changed = {"name": name, "height": a.height, "width": a.width, "depth": a.depth}
    return MOVING_THINGS.model_copy(update=changed)


def _resized(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the embeddings, `1 1+p c`, of a square grid for another grid."""
    side = math.isqrt(positions.shape[1] - 1)
    image = rearrange(positions[:, 1:], "1 (h w) c -> 1 c h w", h=side)
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], rearrange(resized, "1 c h w -> 1 (h w) c")), dim=1)


def main() -> None:
    """Read the command line, train, and write a checkpoint if one is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path, help="the file with the state of the training")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of the whole training")
    parser.add_argument("--until", type=int, help="stop after this step")
    parser.add_argument(
        "--size", type=int, default=MOVING_THINGS.height, help="of the frames, in pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a training that begins")
    parser.add_argument(
        "--depth", type=int, default=MOVING_THINGS.depth, help="of a training that begins"
    )
    parser.add_argument("--clips", type=int, default=Plan.clips, help="of each step")
    parser.add_argument("--both", type=float, default=Mix.both, help="share of two live acts")
    parser.add_argument("--cued", type=float, default=Mix.cued, help="of the rest with a ring")
    parser.add_argument("--steady", action="store_true", help="large things, a still camera")
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    parser.add_argument("--out", type=Path, help="write the model to this checkpoint")
    options = parser.parse_args()
    state: Path = options.state
    training = (
        resume(state, options.size)
        if state.exists()
        else start(options.size, options.seed, options.depth)
    )
    if options.compile:
        for block in training.model.layers:
            block.compile(dynamic=False)
    plan = Plan(
        options.steps,
        options.clips,
        Mix(options.both, options.cued, STEADY_VIEW if options.steady else View()),
    )
    finished = run(training, state, plan, until=options.until or options.steps)
    if finished and options.out:
        model = training.model.eval()
        save_model(options.out, model, spec_of(model, model_name(options.out.name)))


def run(training: Training, path: Path, plan: Plan, until: int) -> bool:
    """Train until a step or SIGTERM, and store the state; return False if a signal ended it."""
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
    figures: list[Tensor] = []
    began = time.monotonic()
    while training.step < until and not asked_to_stop:
        figures.append(take_step(training, plan))
        if training.step % LOG_EVERY_STEPS == 0:
            seconds = (time.monotonic() - began) / len(figures)
            loss, accuracy = torch.stack(figures).mean(dim=0).tolist()
            text = f"step {training.step} loss {loss:.3f} accuracy {accuracy:.3f}"
            print(f"{text}, {seconds:.2f} s a step", flush=True)
            figures, began = [], time.monotonic()
        if training.step % SAVE_EVERY_STEPS == 0:
            training.save(path)
    training.save(path)
    return not asked_to_stop


if __name__ == "__main__":
    main()
