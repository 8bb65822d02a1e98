"""The known models: the input that each one expects, and its reported accuracy.

Sources: Bertasius, Wang & Torresani 2021, arXiv:2102.05095, tables 5, 6 and 8, and the model zoo
of its release. Every published model has divided space-time attention, patches of 16×16
pixels, and weights under CC BY-NC 4.0, which forbids commercial use.
"""

from functools import cache
from importlib.resources import files
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout_core.errors import InvalidRequest, UnknownModel
from rollout_core.suggestions import suggest_or_list

PUBLISHED_LICENCE = "CC-BY-NC-4.0"
SAMPLING_RATE_HZ = 30.0
"""Strides are counted in frames at this rate: Kinetics was decoded at 30 frames per second."""

SSV2_CLIP_SECONDS = 4.0
"""About the mean length of a Something-Something video; see `ModelSpec.clip_seconds`."""

Sampling = Literal["uniform", "strided"]
ChannelOrder = Literal["RGB", "BGR"]
Resampling = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Triple = tuple[float, float, float]


class ModelSpec(BaseModel):
    """What input a model expects, which classes it has, and where it comes from.

    Attributes:
        frames: number of frames in a clip.
        stride: distance of frames in `strided` sampling, in frames at `SAMPLING_RATE_HZ`.
        sampling: the sampling used in training; the default for requests.
        clip_seconds: seconds covered by one clip: `frames × stride` at 30 Hz. For a model trained
            on whole videos: their typical length. `clips: "tile"` cuts a span into such pieces.
        height, width: size of the input, in pixels.
        patch_height, patch_width: size of a patch, in pixels.
        depth: number of layers.
        mean, std: normalisation per channel, for pixels scaled to 0 to 1.
        channel_order: order of the channels in the model's input tensor.
        stretch: True: the input shows a frame's full width and height, in another aspect ratio.
            False: the largest centred part with the aspect ratio of the input.
        crop_share: side of the centred part that the input shows, relative to that.
        resample: filter with which a frame is scaled to the input's size, as Pillow names it.
        label_set: name of a file under `labels/`, without suffix; None if there is none.
        labels: the class names themselves, for a model without a file under `labels/`.
        top1: reported accuracy on the data set's validation videos, in percent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = (
        "divided_space_time"
    )
    frames: int
    stride: int = 32
    sampling: Sampling = "strided"
    clip_seconds: float
    height: int = 224
    width: int = 224
    patch_height: int = 16
    patch_width: int = 16
    depth: int = 12
    mean: Triple = (0.45, 0.45, 0.45)
    std: Triple = (0.225, 0.225, 0.225)
    channel_order: ChannelOrder = "RGB"
    stretch: bool = False
    crop_share: float = Field(1.0, gt=0, le=1)
    resample: Resampling = "bilinear"
    label_set: str | None = None
    labels: tuple[str, ...] | None = None
    classes: int
    licence: str = PUBLISHED_LICENCE
    top1: float | None = None

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.labels is not None and len(self.labels) > self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches of a clip, `(t, h, w)`."""
        return self.frames, self.height // self.patch_height, self.width // self.patch_width

    def label(self, index: int) -> str:
        """Return the name of class `index`, or "class N" if its name is not known."""
        return self._names[index] if index < len(self._names) else f"class {index}"

    def class_index(self, target: int | str, *, field: str = "target") -> int:
        """Return the index of a class given as an integer, as digits, or as a label.

        Args:
            field: path of the class in the request.
        Raises:
            InvalidRequest: the model has no such class, or several of this name.
        """
        if isinstance(target, str) and self._names.count(target) > 1:
            twins = [str(index) for index, name in enumerate(self._names) if name == target]
            raise InvalidRequest(
                f"{self.name} has several classes {target!r}; give an index: {', '.join(twins)}",
                field=field,
            )
        index = target if isinstance(target, int) else self._indices.get(target, -1)
        if not 0 <= index < self.classes:
            hint = self._suggest_class(target)
            raise InvalidRequest(
                f"{self.name} has no class {target!r}; it has {self.classes}"
                + (f"; {hint}" if hint else ""),
                field=field,
            )
        return index

    def _suggest_class(self, target: int | str) -> str:
        if isinstance(target, int) or target.isdecimal():
            return f"the indices are 0 to {self.classes - 1}"
        return suggest_or_list(target, self._names, what="the labels are")

    @property
    def _indices(self) -> dict[str, int]:
        """Map digits and labels to indices; a label takes precedence over digits."""
        digits = {str(index): index for index in range(self.classes)}
        return digits | {label: index for index, label in enumerate(self._names)}

    @property
    def _names(self) -> tuple[str, ...]:
        return self.labels or (_label_set(self.label_set) if self.label_set else ())


def spec_of(name: str) -> ModelSpec:
    """Return the spec of a model in `SPECS`.

    Raises:
        UnknownModel: `SPECS` has no such name.
    """
    try:
        return SPECS[name]
    except KeyError:
        raise UnknownModel(f"no model is named {name!r}; known: {', '.join(SPECS)}") from None


@cache
def _label_set(name: str) -> tuple[str, ...]:
    text = files("rollout_core").joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _strided(
    name: str,
    *,
    classes: int,
    frames: int = 8,
    stride: int = 32,
    size: int = 224,
    label_set: str | None = None,
    top1: float | None = None,
) -> ModelSpec:
    """Return the spec of a model trained on clips of equally spaced frames of longer videos."""
    return ModelSpec(
        name=name,
        frames=frames,
        stride=stride,
        clip_seconds=frames * stride / SAMPLING_RATE_HZ,
        height=size,
        width=size,
        classes=classes,
        label_set=label_set,
        top1=top1,
    )


def _ssv2(name: str, *, frames: int, size: int, top1: float) -> ModelSpec:
    """Return the spec of a Something-Something model: uniform sampling, channels in BGR order."""
    return ModelSpec(
        name=name,
        frames=frames,
        sampling="uniform",
        clip_seconds=SSV2_CLIP_SECONDS,
        height=size,
        width=size,
        channel_order="BGR",
        classes=174,
        label_set="something_something_v2",
        top1=top1,
    )


MOVING_THINGS = ModelSpec(
    name="moving-things",
    frames=8,
    sampling="uniform",
    clip_seconds=10.0,
    height=112,
    width=112,
    patch_height=8,
    patch_width=8,
    depth=4,
    classes=12,
    labels=(
        "a thing moves left",
        "a thing moves right",
        "a thing rises",
        "a thing falls",
        "a thing approaches",
        "a thing moves away",
        "a thing swings",
        "two things meet",
        "two things part",
        "a thing passes another",
        "a thing is covered by another",
        "a thing appears from behind another",
    ),
    licence="Apache-2.0",
)

_K400 = "kinetics400"
SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        MOVING_THINGS,
        _strided("timesformer-k400", classes=400, label_set=_K400, top1=77.9),
        _strided(
            "timesformer-hr-k400",
            classes=400,
            frames=16,
            stride=16,
            size=448,
            label_set=_K400,
            top1=79.6,
        ),
        _strided(
            "timesformer-l-k400", classes=400, frames=96, stride=4, label_set=_K400, top1=80.6
        ),
        _strided("timesformer-k600", classes=600, top1=79.1),
        _strided("timesformer-hr-k600", classes=600, frames=16, stride=16, size=448, top1=81.8),
        _strided("timesformer-l-k600", classes=600, frames=96, stride=4, top1=82.2),
        _ssv2("timesformer-ssv2", frames=8, size=224, top1=59.1),
        _ssv2("timesformer-hr-ssv2", frames=16, size=448, top1=61.8),
        _ssv2("timesformer-l-ssv2", frames=64, size=224, top1=62.0),
        _strided("timesformer-howto100m-8", classes=1059, frames=8),
        _strided("timesformer-howto100m-32", classes=1059, frames=32),
        _strided("timesformer-howto100m-64", classes=1059, frames=64, size=448),
        _strided("timesformer-howto100m-96", classes=1059, frames=96),
    )
}
