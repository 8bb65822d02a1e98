"""What the file of a Hugging Face processor says about a model's input, as fields of `ModelSpec`.

A processor scales each frame, crops its centre, multiplies its bytes by a factor, subtracts a mean
and divides by a deviation. Whatever of this a `ModelSpec` cannot express is refused: a setting
that were left out would change the prediction without a word.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout_core.errors import CheckpointError
from rollout_core.model.json_files import read_object

PROCESSOR_FILES = (
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)
"""In the order of transformers: the first one that describes a processor counts."""

MAX_PIXELS = 4096
"""Largest size of a model's input that is believed."""

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Ways to scale a picture, by their number in Pillow."""

_INERT = frozenset(
    """_processor_class _valid_processor_keys _name_or_path device disable_grouping
    do_convert_rgb feature_extractor_type image_processor_type image_seq_length input_data_format
    model_input_names pad_size processor_class return_metadata return_tensors transformers_version
    video_metadata video_processor_type""".split()  # noqa: SIM905
)
"""Settings that cannot change the input: frames are always decoded to RGB, one video at a time."""

_HONOURED = frozenset(
    """crop_size data_format default_to_square do_center_crop do_flip_channel_order do_normalize
    do_rescale do_resize do_sample_frames fps image_mean image_std num_frames offset resample
    rescale_factor size""".split()  # noqa: SIM905
)

_USUAL: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "resample": 2,
    "do_center_crop": True,
    "crop_size": 224,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}
"""What transformers assumes for settings that a processor of these models does not state."""

_NORMALISATION: Mapping[str, Mapping[str, Any]] = {
    "Timesformer": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "VideoMAE": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
}
_KNOWN_TYPE = re.compile(
    r"(Timesformer|VideoMAE)(?:VideoProcessor|ImageProcessor(?:Fast|Pil)?|FeatureExtractor)"
)

log = logging.getLogger(__name__)


def read_processor(folder: Path) -> dict[str, Any]:
    """Return the fields of `ModelSpec` that a folder's processor defines; {} without a processor.

    If several files describe a processor, the first one of `PROCESSOR_FILES` counts. A warning
    says so if another one differs.

    Raises:
        CheckpointError: a file is malformed, or its input cannot be prepared here.
    """
    found = list(_processors(folder))
    if not found:
        return {}
    name, settings = found[0]
    fields = input_of(name, settings)
    for other, values in found[1:]:
        if _input_or_error(other, values) != fields:
            log.warning("%s and %s disagree: %s counts", name, other, name)
    return fields


def input_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `ModelSpec` for a processor's settings.

    Args:
        name: what an error calls the settings.
    Raises:
        CheckpointError: a setting is malformed, unknown, or cannot be honoured.
    """
    return _Processor(name, settings).fields()


def _processors(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the settings of each processor that a folder describes, in the order of precedence."""
    nested, *plain = PROCESSOR_FILES
    parts = read_object(folder / nested) if (folder / nested).is_file() else {}
    for part in ("video_processor", "image_processor"):
        if isinstance(parts.get(part), Mapping):
            yield f"{part} in {nested}", parts[part]
        if part == "video_processor":
            for file in plain[:1]:
                yield from _plain(folder / file)
    for file in plain[1:]:
        yield from _plain(folder / file)


def _plain(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_file():
        yield path.name, read_object(path)


def _input_or_error(name: str, settings: Mapping[str, Any]) -> object:
    try:
        return input_of(name, settings)
    except CheckpointError as error:
        return error


class _Processor:
    """The settings of a processor, with the defaults of its type."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._said = {key: value for key, value in settings.items() if value is not None}
        self._defaults = self._defaults_of_type()
        for key, value in self._said.items():
            if key not in _HONOURED | _INERT and value is not False:
                raise self._refusal(key, "this setting is not known")

    def fields(self) -> dict[str, Any]:
        """Return the fields of `ModelSpec`."""
        self._check_frames()
        if self._said.get("data_format", "channels_first") != "channels_first":
            raise self._refusal("data_format", "only channels_first is possible")
        flipped = self._flag("do_flip_channel_order", default=False)
        return (
            self._geometry() | self._normalisation() | ({"channel_order": "BGR"} if flipped else {})
        )

    def _defaults_of_type(self) -> Mapping[str, Any]:
        names = (
            "video_processor_type",
            "image_processor_type",
            "feature_extractor_type",
        )
        kind = next((str(self._said[name]) for name in names if name in self._said), None)
        if kind is None:
            return _USUAL
        match = _KNOWN_TYPE.fullmatch(kind)
        # The defaults of other types differ, so such a file must state every setting.
        return {**_USUAL, **_NORMALISATION[match[1]]} if match else {}

    def _check_frames(self) -> None:
        """Refuse a processor that samples frames: a request chooses the moments."""
        if self._flag("do_sample_frames", default=False):
            raise self._refusal("do_sample_frames", "the request chooses the frames")

    def _geometry(self) -> dict[str, Any]:
        """Return the input size, and which part of a frame it shows."""
        if not self._flag("do_resize"):
            raise self._refusal("do_resize", "frames of any size must become the model's input")
        scaled = self._size("size", square=self._flag("default_to_square", default=False))
        stretch = len(scaled) == 2
        height, width = scaled if stretch else (scaled[0], scaled[0])
        crops = None if "crop_size" in self._said else False
        if self._flag("do_center_crop", default=crops):
            crop = self._size("crop_size", square=True)
            if len(crop) != 2:
                raise self._refusal("crop_size", "it needs a height and a width")
        elif stretch:
            crop = scaled
        else:
            raise self._refusal("size", "without a crop, each video gets another input size")
        if crop[0] != crop[1]:
            raise self._refusal("crop_size", "only a square input is possible")
        if crop[0] > min(height, width):
            raise self._refusal("crop_size", "it is larger than the scaled frame")
        if height != width:
            raise self._refusal("size", "a crop of it would have another shape")
        return {
            "height": crop[0],
            "width": crop[1],
            "stretch": stretch,
            "crop_share": crop[0] / height,
            "resample": self._resample(),
        }

    def _resample(self) -> str:
        number = self._get("resample")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 6:
            raise self._refusal("resample", "it is no number of a Pillow filter, 0 to 5")
        return RESAMPLING[number]

    def _normalisation(self) -> dict[str, Any]:
        """Return mean and deviation for pixels from 0 to 1, with the factor and offset in them."""
        gain, shift = 255.0, 0.0
        if self._flag("do_rescale"):
            factor = self._number("rescale_factor", self._get("rescale_factor"))
            if factor <= 0:
                raise self._refusal("rescale_factor", "it must be positive")
            gain = 1.0 if math.isclose(factor * 255, 1, rel_tol=1e-6) else factor * 255
            shift = 1.0 if self._flag("offset", default=False) else 0.0
        mean: Sequence[float] = (0.0, 0.0, 0.0)
        std: Sequence[float] = (1.0, 1.0, 1.0)
        if self._flag("do_normalize"):
            mean, std = self._triple("image_mean"), self._triple("image_std")
            if min(std) <= 0:
                raise self._refusal("image_std", "it must be positive")
        return {
            "mean": tuple((value + shift) / gain for value in mean),
            "std": tuple(value / gain for value in std),
        }

    def _size(self, name: str, *, square: bool) -> tuple[int, ...]:
        """Return `(height, width)` or `(shortest_edge,)`, in pixels."""
        value = self._get(name)
        if isinstance(value, int):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, list) and len(value) == 2:
            value = dict(zip(("height", "width"), value, strict=True))
        if not isinstance(value, Mapping):
            raise self._refusal(name, "it is no size")
        sizes = {key: size for key, size in value.items() if size is not None}
        if set(sizes) not in ({"shortest_edge"}, {"height", "width"}):
            raise self._refusal(name, "only shortest_edge, or height and width, are possible")
        for size in sizes.values():
            if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_PIXELS:
                raise self._refusal(name, f"sizes are whole numbers from 1 to {MAX_PIXELS}")
        return tuple(sizes[key] for key in ("height", "width", "shortest_edge") if key in sizes)

    def _triple(self, name: str) -> tuple[float, ...]:
        value = self._get(name)
        values = value if isinstance(value, list) else [value] * 3
        if len(values) != 3:
            raise self._refusal(name, "it needs one number for each of three channels")
        return tuple(self._number(name, number) for number in values)

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refusal(name, "it is no number")
        if not math.isfinite(value):
            raise self._refusal(name, "it is not finite")
        return float(value)

    def _flag(self, name: str, *, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._refusal(name, "it is neither true nor false")
        return value

    def _get(self, name: str, default: Any = None) -> Any:
        value = self._said.get(name, self._defaults.get(name, default))
        if value is None:
            raise CheckpointError(f"{self._name} does not state {name}")
        return value

    def _refusal(self, name: str, reason: str) -> CheckpointError:
        value = self._said.get(name, self._defaults.get(name))
        return CheckpointError(f"{self._name}: {name} is {value!r}; {reason}")
