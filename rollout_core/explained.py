"""Explains a video from Python, with the result in memory: `explain_file` and `load_result`."""

import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rollout_core import archive
from rollout_core.archive import Archive
from rollout_core.command import MissingExtra, describe_errors, name_extra
from rollout_core.contract import (
    ARCHIVE_NAME,
    RESULT_NAME,
    ExplainRequest,
    ExplainResult,
    Prediction,
)
from rollout_core.errors import InvalidRequest
from rollout_core.model.input_settings import InputSettings
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.resolve import check_colormap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rollout_core.model.checkpoints import LoadedModel
    from rollout_core.pipeline import Computed, ProgressCallback


@dataclass(frozen=True, repr=False)
class ExplainedVideo:
    """An explained video: predictions, arrays, frames and pictures.

    Attributes:
        result: as in `result.json`. Its `artifacts` are those of the folder it was loaded from.
        arrays: all arrays of `rollout.npz`; `rollout_core.archive.ARRAYS` describes each.
        frames: uint8 `clip t H W c`, RGB, as the model saw them; None in a loaded result.
    """

    result: ExplainResult
    arrays: Archive
    frames: NDArray[np.uint8] | None = None
    _computed: "Computed | None" = None
    _folder: Path | None = None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The most probable classes, at most five."""
        return self.result.predictions

    @property
    def relevance(self) -> NDArray[np.float32]:
        """Relevance of each patch for the first query, float32 `clip t h w`."""
        return self.arrays.relevance

    @property
    def times_seconds(self) -> NDArray[np.float64]:
        """Time of each frame since the first one of the video, float64 `clip t`."""
        return self.arrays.pts_seconds

    def plot(self, clip: int = 0) -> "Figure":
        """Draw one clip: its frames with the heat map over each, and the predictions.

        A loaded result has no frames, so its heat maps are drawn alone.

        Raises:
            IndexError: there is no such clip.
            ModuleNotFoundError: the extra `media` is not installed.
        """
        with name_extra("plot", "media"):  # matplotlib takes about a second
            from rollout_core.pictures.clip_plot import plot_clip

        return plot_clip(self.result, self.arrays, self.frames, clip)

    def save(self, folder: str | Path) -> ExplainResult:
        """Write the files that the service gives for a job; return the content of `result.json`.

        The pictures are drawn now, so the video must still be where it was.

        Raises:
            RolloutError: the video cannot be read any more.
            OSError: a file cannot be written.
        """
        target = Path(folder).expanduser()
        if self._computed is not None:
            return self._computed.write(target)
        assert self._folder is not None
        target.mkdir(parents=True, exist_ok=True)
        if target.resolve() == self._folder.resolve():
            return self.result
        for name in (RESULT_NAME, *(artifact.name for artifact in self.result.artifacts)):
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, target / name)
        return self.result

    def __repr__(self) -> str:
        clips, frames = self.arrays.pts_seconds.shape
        best = ", ".join(f"{each.label} {each.probability:.0%}" for each in self.predictions[:1])
        length = f"{clips} {'clip' if clips == 1 else 'clips'} of {frames} frames"
        return f"<ExplainedVideo: {best}; {self.result.model}, {length}>"

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows; None, for the text, if none can be drawn."""
        try:
            figure = self.plot()
        except MissingExtra:
            return None
        picture = BytesIO()
        figure.savefig(picture, format="png")
        return picture.getvalue()


def explain_file(
    video: str | Path,
    model: Any = MOVING_THINGS.name,
    *,
    device: str = "auto",
    settings: InputSettings | None = None,
    progress: "ProgressCallback" = lambda *_: None,
    **request: Any,
) -> ExplainedVideo:
    """Explain a video, without a server and without writing files.

    Args:
        video: path of the file.
        model: "moving-things"; the path of a checkpoint, or `hf://` and an id of the hub;
            "NAME=CHECKPOINT" with a name of `rollout_core.model.specs.SPECS`; a `LoadedModel`, as
            `open_model` returns; or a `TimesformerForVideoClassification` of transformers.
        device: a torch device; "auto" for the GPU if there is one. A `LoadedModel` stays where it
            is.
        settings: what is known of the input of your own checkpoint; see `input_settings`.
        progress: called with the stage, its finished steps, and all its steps.
        request: the fields of `ExplainRequest`, as `method="attention", layer=3`.
    Raises:
        FileNotFoundError: there is no such video.
        InvalidRequest: a field of the request is not known or not valid, or does not fit the model.
        CheckpointError: the model cannot be loaded.
        RolloutError: the video cannot be used.
        ModuleNotFoundError: the extra `worker` is not installed.
    """
    path = Path(video).expanduser()
    path.stat()
    parsed = _parse(request)
    if parsed.overlay is not None:
        check_colormap(parsed.overlay.colormap)
    with name_extra("explain_file", "worker"):
        from rollout_core.pipeline import compute

        loaded = _load(model, device, settings)
    computed = compute(path, parsed, loaded, keeps_frames=True, progress=progress)
    return ExplainedVideo(computed.describe(), computed.arrays, computed.frames, _computed=computed)


def load_result(folder: str | Path) -> ExplainedVideo:
    """Read a result: a folder that `save`, `rollout-explain` or `rollout-client` has written.

    Raises:
        FileNotFoundError: `result.json` or `rollout.npz` is missing.
        ValueError: one of them is not valid.
    """
    path = Path(folder).expanduser()
    text = (path / RESULT_NAME).read_bytes()
    result = ExplainResult.model_validate_json(text, extra="ignore")
    for artifact in result.artifacts:
        if Path(artifact.name).name != artifact.name or artifact.name == "..":
            raise ValueError(f"{artifact.name!r} in {RESULT_NAME} is not the name of a file")
    return ExplainedVideo(result, archive.load(path / ARCHIVE_NAME), _folder=path)


def _parse(request: dict[str, Any]) -> ExplainRequest:
    if "model" in request:
        raise InvalidRequest("model is an argument of its own")
    try:
        return ExplainRequest(**request)
    except ValidationError as error:
        raise InvalidRequest(describe_errors(error, ExplainRequest)) from error


def _load(model: Any, device: str, settings: InputSettings | None) -> "LoadedModel":
    """Return the model that the user means.

    Raises:
        CheckpointError: it cannot be loaded.
        TypeError: it is none of the kinds that `explain_file` names.
    """
    from rollout_core.model.checkpoints import (
        LoadedModel,
        adopt_model,
        load_named,
        model_name,
        open_model,
    )
    from rollout_core.model.devices import open_device

    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str):
        return load_named(model, open_device(device), settings)
    if isinstance(model, Path):
        name = model_name(model.name)
        return open_model(name, model, settings=settings, device=open_device(device))
    if type(model).__name__ == "TimesformerForVideoClassification":
        return adopt_model(model, device=open_device(device), settings=settings)
    raise TypeError(
        "model must be a name, a path, a LoadedModel or a TimesformerForVideoClassification, "
        f"not {type(model).__name__}"
    )
