"""What a user says about the input of a checkpoint: by flags, or in a JSON file beside it.

A checkpoint often does not say how frames become its input, nor what its classes are called. For
`best.pyth` this file is `best.rollout.json`; for the folder `best` it is `best.rollout.json` beside
the folder. It holds any of the fields of `InputSettings`. A flag counts more than the file, and the
file more than the checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from rollout_core.errors import CheckpointError
from rollout_core.model.json_files import read_object
from rollout_core.model.specs import (
    SAMPLING_RATE_HZ,
    ChannelOrder,
    ModelSpec,
    Resampling,
    Sampling,
    Triple,
)

SUFFIX = ".rollout.json"


def _positive(values: Triple) -> Triple:
    if min(values) <= 0:
        raise ValueError("a deviation must be greater than 0")
    return values


class InputSettings(BaseModel):
    """The content of the file. Each field is one of `ModelSpec`, or `heads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] | Path | None = Field(
        None, description="The class names, or the path of a text file with one per line."
    )
    mean: Triple | None = None
    std: Annotated[Triple, AfterValidator(_positive)] | None = None
    channel_order: ChannelOrder | None = None
    frames: int | None = Field(None, ge=1)
    stride: int | None = Field(None, ge=1)
    sampling: Sampling | None = None
    clip_seconds: float | None = Field(None, gt=0)
    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    stretch: bool | None = None
    crop_share: float | None = Field(None, gt=0, le=1)
    resample: Resampling | None = None
    licence: str | None = None
    heads: int | None = Field(
        None, ge=1, description="Attention heads, if the checkpoint does not state them."
    )

    def over(self, other: Self) -> Self:
        """Return these settings, completed by those of `other`."""
        return other.model_copy(update=self.model_dump(exclude_none=True))

    def apply(self, spec: ModelSpec) -> Mapping[str, Any]:
        """Return the fields of a spec, with these settings in place of its own.

        Raises:
            CheckpointError: the file of labels cannot be read, or names too many classes.
        """
        own = self.model_dump(exclude_none=True, exclude={"heads", "labels"})
        if self.labels is not None:
            own |= {"labels": self._read_labels(), "label_set": None}
        if self.stride is not None:
            own.setdefault("sampling", "strided")
        if {"stride", "frames"} & own.keys():
            frames, stride = own.get("frames", spec.frames), own.get("stride", spec.stride)
            own.setdefault("clip_seconds", frames * stride / SAMPLING_RATE_HZ)
        return spec.model_dump() | own

    def _read_labels(self) -> tuple[str, ...]:
        if not isinstance(self.labels, Path):
            return self.labels or ()
        try:
            return tuple(self.labels.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise CheckpointError(f"{self.labels}: {reason}") from error


class InputFlags(BaseModel):
    """The settings that commands offer as flags. One that is None is left as it is."""

    labels: Path | None = Field(
        None, description="Text file with one class name per line, in the order of the classes."
    )
    mean: str | None = Field(
        None, description="Mean of the channels, for pixels scaled to 0 to 1: R,G,B."
    )
    std: str | None = Field(None, description="Standard deviation of the channels, as mean.")
    stride: int | None = Field(
        None, ge=1, description="Distance of a clip's frames, in frames at 30 per second."
    )
    channel_order: ChannelOrder | None = Field(
        None, description="Order of the channels that the model was trained with."
    )

    @field_validator("mean", "std")
    @classmethod
    def _check_numbers(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            try:
                InputSettings.model_validate({str(info.field_name): text.split(",")})
            except ValidationError as error:
                raise ValueError("give three numbers, as 0.45,0.45,0.45") from error
        return text

    @property
    def input_settings(self) -> InputSettings:
        """These flags as settings."""
        given = {name: getattr(self, name) for name in InputFlags.model_fields}
        for name in ("mean", "std"):
            given[name] = given[name] and given[name].split(",")
        return InputSettings.model_validate(given)


def read_settings_beside(source: Path) -> InputSettings:
    """Return what the file beside a checkpoint says; nothing if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or is not valid.
    """
    stem = source.name if source.is_dir() else source.stem
    path = source.absolute().with_name(stem + SUFFIX)
    if not path.exists():
        return InputSettings()
    try:
        found = InputSettings.model_validate(read_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        raise CheckpointError(f"{path}: {place}: {first['msg']}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if isinstance(found.labels, Path):
        return found.model_copy(update={"labels": path.parent / found.labels})
    return found
