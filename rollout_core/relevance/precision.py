"""The number format in which a model computes: one that is named, or measured on the model.

"auto" compares the formats of the device with float32, on the model that is served and a clip: a
faster one is used only if it predicts the same class and its rollout is nearly the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from timeit import timeit
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rollout_core.contract import Precision, PrecisionChoice
from rollout_core.errors import DeviceError, OutOfMemory
from rollout_core.model.checkpoints import LoadedModel
from rollout_core.model.devices import first_line, free_memory
from rollout_core.model.specs import ModelSpec
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips

DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

ON_CUDA: tuple[Precision, ...] = ("float32", "tf32", "bfloat16", "float16")
ELSEWHERE: tuple[Precision, ...] = ("float32", "bfloat16")
"""On a CPU, float16 is many times slower than float32."""

MAX_MAP_ERROR = 0.02
"""Largest L2 norm of the difference to the map of float32, by the norm of that map.

A choice, not a derivation. In bfloat16 `moving-things` differs by 0.003 on its sample, by 0.004 on
noise, and by 0.003 on a blank clip; a random model of the published size differs by 0.0002.
"""

MAX_TIE = 0.02
"""Another class does not count as another one if float32 finds it almost as probable."""

MIN_SPEEDUP = 1.05
CLEAR_SPEEDUP = 1.5
"""Of a call. It needs no second one if the calls take long."""

HOPELESS_SLOWDOWN = 1.5
PRODUCT_SLOWDOWN, PRODUCT_ROUNDS = 2.0, 5

MIN_ROUNDS, MAX_ROUNDS = 2, 7
ROUNDS_SECONDS = 0.4
"""How long a comparison takes: a small model has many rounds, and a large one `MIN_ROUNDS`."""

Clock = Callable[[], float]


class Trial(Protocol):
    """A model in one precision, which explains the same clips at each call."""

    def __call__(self) -> Explanation:
        """Return the explanation, whose tensors are on the CPU: it is computed."""


AnyTrial = TypeVar("AnyTrial", bound=Trial)


@dataclass(frozen=True)
class Measurement:
    """What was found of one precision.

    Attributes:
        seconds: median time to explain the clips; None if it was not measured to the end.
        refusal: why it is not used; empty if it may be.
    """

    precision: Precision
    seconds: float | None = None
    refusal: str = ""

    def __str__(self) -> str:
        found = [] if self.seconds is None else [f"{1000 * self.seconds:.0f} ms"]
        return f"{self.precision} {', '.join([*found, *filter(None, [self.refusal])])}"


def open_dtype(choice: PrecisionChoice, device: torch.device) -> torch.dtype:
    """Return the format of the parameters to load; for "auto" float32, which is measured first.

    Raises:
        DeviceError: the device does not compute in this precision.
    """
    if choice == "auto":
        return torch.float32
    if choice not in (known := _precisions(device)):
        raise DeviceError(f"{choice} is not for the device {device}; write {', '.join(known)}")
    return DTYPES[choice]


def precision_of(model: TimeSformer) -> Precision | None:
    """Return the precision in which a model computes now; None for another format."""
    parameter = next(model.parameters())
    if parameter.dtype == torch.float32 and parameter.is_cuda:
        return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return next((name for name, dtype in DTYPES.items() if dtype == parameter.dtype), None)


def settle_precision(
    loaded: LoadedModel, choice: PrecisionChoice, clips: int = 1
) -> tuple[LoadedModel, str]:
    """Return the model in the precision that is chosen, and a line about what was measured.

    TF32 is a setting of PyTorch: it holds for all models of this process.

    Args:
        loaded: the model, with parameters of the format that `open_dtype` returns.
        clips: number of clips in a batch, for the measurement.
    Raises:
        OutOfMemory: not even one clip fits in memory in float32.
    """
    device = next(loaded.model.parameters()).device
    if choice == "tf32":
        _use_tf32(True)
    if choice != "auto":
        return loaded, choice
    while True:
        try:
            best, measured = choose(_precisions(device), _trials(loaded, clips))
            break
        except torch.OutOfMemoryError:
            pass  # The traceback holds tensors; they are freed after this block.
        free_memory()
        if clips == 1:
            raise OutOfMemory(f"one clip of {loaded.spec.frames} frames does not fit on {device}")
        clips = 1
    if device.type == "cuda":
        _use_tf32(best.precision == "tf32")
    model, report = best.model, f"{best.precision}; measured: {'; '.join(map(str, measured))}"
    return replace(loaded, model=model), report


def choose(
    precisions: Sequence[Precision],
    open_trial: Callable[[Precision], AnyTrial],
    clock: Clock = time.perf_counter,
) -> tuple[AnyTrial, list[Measurement]]:
    """Return the fastest trial that agrees with the first, and what was found of each.

    One that is less than 5 % faster than the first does not count as faster. At most three models
    are in memory: the first, the best until now, and the one that is measured.

    Raises:
        RuntimeError: the first precision cannot be used.
    """
    first, *others = precisions
    reference = open_trial(first)
    expected, seconds = _timed(reference, clock)
    best, best_speedup = reference, MIN_SPEEDUP
    measured = [Measurement(first, seconds)]
    for precision in others:
        trial, found, speedup = None, Measurement(precision), 0.0
        try:
            trial = open_trial(precision)
            explanation, first_seconds = _timed(trial, clock)
            found = replace(found, refusal=_disagreement(explanation, expected))
            if not found.refusal:
                theirs, ours = _race(reference, trial, (seconds, first_seconds), clock)
                speedup = theirs / ours
                measured[0] = replace(measured[0], seconds=theirs)
                refusal = "" if speedup >= MIN_SPEEDUP else "not faster"
                found = replace(found, seconds=ours, refusal=refusal)
        except (MemoryError, torch.OutOfMemoryError):
            found = replace(found, refusal="does not fit in memory")
        except RuntimeError as error:  # an operation that this device has not, or has slowly
            found = replace(found, refusal=first_line(error))
        measured.append(found)
        if trial is not None and speedup >= best_speedup:
            best, best_speedup = trial, speedup
        del trial
        free_memory()
    return best, measured


def map_error(found: Explanation, expected: Explanation) -> float:
    """Return the L2 norm of the difference of two maps, by the norm of the expected one."""
    difference = (found.relevance - expected.relevance).norm()
    return float(difference / expected.relevance.norm())


def measuring_clip(spec: ModelSpec) -> NDArray[np.uint8]:
    """Return a clip to measure with, uint8 `1 t H W c`: a moving disc on waves, with noise."""
    clip = np.empty((1, spec.frames, spec.height, spec.width, 3), np.uint8)
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : spec.height * 1j, 0 : 1 : spec.width * 1j]
    for index, moment in enumerate(np.linspace(0, 1, spec.frames)):
        phases = 2 * np.pi * ((2 * x + y + moment)[..., np.newaxis] + np.arange(3) / 3)
        frame = 128 + 77 * np.sin(phases)
        frame[(x - 0.2 - 0.6 * moment) ** 2 + (y - 0.5) ** 2 < 0.03] = (230, 51, 26)
        frame += generator.normal(0, 13, frame.shape)
        clip[0, index] = frame.clip(0, 255)
    return clip


@dataclass(frozen=True)
class _ModelTrial:
    """A `Trial` of a real model."""

    precision: Precision
    model: TimeSformer
    frames: NDArray[np.uint8]
    spec: ModelSpec

    def __call__(self) -> Explanation:
        like = next(self.model.parameters())
        if like.is_cuda:
            _use_tf32(self.precision == "tf32")
        clips = prepare_clips(self.frames, self.spec, device=like.device, dtype=like.dtype)
        return explain_clips(self.model, clips)


def _trials(loaded: LoadedModel, clips: int) -> Callable[[Precision], _ModelTrial]:
    frames = np.repeat(measuring_clip(loaded.spec), clips, axis=0)

    def open_trial(precision: Precision) -> _ModelTrial:
        dtype = DTYPES[precision]
        if dtype != torch.float32 and not next(loaded.model.parameters()).is_cuda:
            _require_fast_products(dtype, loaded.model)
        model = _converted(loaded.model, dtype)
        return _ModelTrial(precision, model, frames, loaded.spec)

    return open_trial


def _require_fast_products(dtype: torch.dtype, model: TimeSformer) -> None:
    """Raise `RuntimeError` if this CPU multiplies matrices far more slowly than in float32.

    Where it has no instructions for a format, a whole forward could take minutes.
    """
    width = model.architecture.dim
    seconds = {}
    for each in (torch.float32, dtype):
        matrix = torch.ones(width, width, dtype=each)
        product = partial(torch.mm, matrix, matrix)
        seconds[each] = min(timeit(product, number=1) for _ in range(PRODUCT_ROUNDS))
    if seconds[dtype] > PRODUCT_SLOWDOWN * seconds[torch.float32]:
        raise RuntimeError("matrix products are slower")


def _converted(model: TimeSformer, dtype: torch.dtype) -> TimeSformer:
    """Return a copy in another format, or the model itself, which is in float32."""
    if dtype == torch.float32:
        return model
    with torch.device("meta"):
        copy = TimeSformer(model.architecture)
    parameters = {name: value.to(dtype) for name, value in model.state_dict().items()}
    copy.load_state_dict(parameters, assign=True)
    return copy.requires_grad_(False).eval()


def _disagreement(found: Explanation, expected: Explanation) -> str:
    """Return in what an explanation differs too much, or an empty text."""
    if not found.logits.isfinite().all():
        return "has infinite logits"
    probabilities = expected.logits.float().softmax(-1)
    predicted = probabilities.gather(-1, found.logits.argmax(-1, keepdim=True))
    if (probabilities.amax(-1, keepdim=True) - predicted).max() > MAX_TIE:
        return "predicts another class"
    error = map_error(found, expected)
    return "" if error <= MAX_MAP_ERROR else f"its map differs by {error:.1%}"


def _race(
    reference: Trial, trial: Trial, first: tuple[float, float], clock: Clock
) -> tuple[float, float]:
    """Return the median seconds of both, timed in turns.

    Args:
        first: seconds of the first call of each. They count only if there is no other: a first call
            is a slow one.
    """
    theirs, ours = first
    takes_long = theirs + ours > ROUNDS_SECONDS
    if ours > HOPELESS_SLOWDOWN * theirs or (takes_long and theirs > CLEAR_SPEEDUP * ours):
        return first
    rounds: list[tuple[float, float]] = []
    while len(rounds) < MIN_ROUNDS or (
        len(rounds) < MAX_ROUNDS and sum(map(sum, rounds)) < ROUNDS_SECONDS
    ):
        rounds.append((_timed(reference, clock)[1], _timed(trial, clock)[1]))
    return median(each[0] for each in rounds), median(each[1] for each in rounds)


def _timed(trial: Trial, clock: Clock) -> tuple[Explanation, float]:
    began = clock()
    explanation = trial()
    return explanation, clock() - began


def _precisions(device: torch.device) -> tuple[Precision, ...]:
    return ON_CUDA if device.type == "cuda" else ELSEWHERE


def _use_tf32(is_used: bool) -> None:
    torch.set_float32_matmul_precision("high" if is_used else "highest")
