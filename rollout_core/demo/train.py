"""Trains the moving-shapes model from scratch: `python -m rollout_core.demo.train`.

Every batch is newly generated, so the logged accuracy is measured on unseen clips.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, nn
from tqdm import trange

from rollout_core.demo import initial
from rollout_core.demo.shapes import CLASSES, ClipBatch, random_labels, render
from rollout_core.model.checkpoints import save_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.model.timesformer import Architecture, TimeSformer
from rollout_core.relevance.explain import normalize

ARCHITECTURE = Architecture(
    attention_type="divided_space_time",
    frames=MOVING_SHAPES.frames,
    height=MOVING_SHAPES.height,
    width=MOVING_SHAPES.width,
    patch_height=8,
    patch_width=8,
    dim=128,
    mlp_dim=512,
    depth=4,
    heads=4,
    classes=len(CLASSES),
)
CHECKPOINT_PATH = Path(__file__).with_name("moving-shapes.safetensors")

BATCH_CLIPS = 32
PEAK_LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARMUP_SHARE = 0.1
MAX_GRADIENT_NORM = 1.0
LOG_EVERY_STEPS = 100


def new_model(seed: int) -> TimeSformer:
    """Return an initialised model."""
    return initial.new_model(ARCHITECTURE, seed)


def train(*, steps: int, seed: int, device: str, out: Path) -> None:
    """Train for `steps` batches and write the checkpoint to `out`, also at every log line."""
    model = new_model(seed).to(device).train()
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=steps, pct_start=WARMUP_SHARE
    )
    correct = 0
    progress = trange(1, steps + 1, desc="training", unit="step")
    for step in progress:
        batch = draw_clips(BATCH_CLIPS, generator, device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = model(normalize(batch.frames, MOVING_SHAPES))
        loss = F.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        correct += int((logits.argmax(dim=-1) == batch.labels).sum())
        if step % LOG_EVERY_STEPS == 0:
            accuracy = correct / (LOG_EVERY_STEPS * BATCH_CLIPS)
            progress.write(f"step {step} loss {loss.item():.3f} accuracy {accuracy:.3f}")
            correct = 0
            save_model(out, model, MOVING_SHAPES)
    save_model(out, model, MOVING_SHAPES)


def draw_clips(count: int, generator: Generator, device: str = "cpu") -> ClipBatch:
    """Render `count` new clips in the model's input size."""
    return render(
        random_labels(count, generator).to(device),
        generator,
        frames=MOVING_SHAPES.frames,
        height=MOVING_SHAPES.height,
        width=MOVING_SHAPES.width,
    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m rollout_core.demo.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=CHECKPOINT_PATH)
    options = parser.parse_args()
    train(steps=options.steps, seed=options.seed, device=options.device, out=options.out)


if __name__ == "__main__":
    main()
