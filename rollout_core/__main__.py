"""`rollout-explain VIDEO`: explains one video without a server."""

import sys
from pathlib import Path
from typing import ClassVar, Self

from pydantic import AliasChoices, Field, model_validator

from rollout_core.command import (
    importing_much,
    read_settings,
    require_extra,
    require_modules,
    settings_config,
)
from rollout_core.contract import (
    RESULT_NAME,
    ExplainRequest,
    Method,
    Overlay,
    PrecisionChoice,
    Queries,
    Stage,
)
from rollout_core.errors import InvalidRequest, RolloutError
from rollout_core.model.input_settings import InputFlags
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.resolve import check_colormap, with_method

with require_extra("rollout-explain", "worker"):
    from pydantic_settings import BaseSettings, CliPositionalArg, CliToggleFlag, SettingsConfigDict
    from tqdm import tqdm


class Command(InputFlags, ExplainRequest, BaseSettings):
    """Show which parts of a video a video transformer uses for its prediction."""

    model_config = SettingsConfigDict(
        **settings_config("rollout-explain"), cli_parse_none_str="null"
    )

    video: CliPositionalArg[Path]
    query: Queries = Field(
        "cls",
        description="Token to explain: cls, a patch [CLIP:]FRAME:ROW:COLUMN counted from 0, or "
        "the patch at a point X:Y@SECONDS of the video. May be repeated; the first one is drawn.",
    )
    no_overlay: CliToggleFlag[bool] = Field(False, description="Make no overlay video.")
    compare: tuple[Method, ...] = Field(
        (), description="Also draw the maps of this method, into comparison.png; may be repeated."
    )
    model: str = Field(MOVING_THINGS.name, description="NAME, NAME=CHECKPOINT or CHECKPOINT.")
    output: Path = Field(
        Path("rollout-output"),
        validation_alias=AliasChoices("o", "output"),
        description="Folder for the results.",
    )
    device: str = Field("auto", description="auto uses the GPU if there is one.")
    dtype: PrecisionChoice = Field(
        "float32",
        description="Number format of the model. auto measures which is the fastest that agrees "
        "with float32, which takes some forwards.",
    )
    fake: ClassVar[None] = None  # type: ignore[misc]  # no flag: there is no fake engine here

    @model_validator(mode="after")
    def _check_overlay(self) -> Self:
        if self.no_overlay and self.overlay not in (None, Overlay()):
            raise ValueError("no_overlay does not go with settings of the overlay")
        if self.overlay is not None:
            check_colormap(self.overlay.colormap)
        return self

    @model_validator(mode="after")
    def _check_comparison(self) -> Self:
        if self.method in self.compare:
            raise ValueError(f"compare is for methods other than {self.method}")
        for method in self.compare:
            try:
                with_method(self.request, method)
            except InvalidRequest as error:
                raise ValueError(f"compare: {error}") from error
        return self

    @property
    def request(self) -> ExplainRequest:
        """The request that a client would send to the service."""
        names = ExplainRequest.model_fields.keys() - {"model"}
        given = {name: getattr(self, name) for name in names}
        if len(self.targets) == 1:
            given["target"] = self.targets[0]  # a flag that may be repeated gives a list
        return ExplainRequest(**given | ({"overlay": None} if self.no_overlay else {}))


def main() -> None:
    """Read the command line and explain one video."""
    try:
        command = read_settings(Command)
        explain(command)
    except OSError as error:
        name = str(error.filename or "").removeprefix("file:")
        sys.exit(
            f"rollout-explain: {name}: {error.strerror}" if name else f"rollout-explain: {error}"
        )
    except RolloutError as error:
        sys.exit(f"rollout-explain: {error}")


def explain(command: Command) -> None:
    """Explain a video; print the predictions and the paths of the result files."""
    command.video.stat()  # a wrong path is told before torch is imported
    with require_extra("rollout-explain", "worker"), importing_much():
        require_modules("torch", "timm", "einops", "safetensors", "huggingface_hub")

        from rollout_core.model.checkpoints import load_named
        from rollout_core.model.devices import open_device
        from rollout_core.pipeline import compare_methods, explain_video
        from rollout_core.relevance.precision import open_dtype, settle_precision

    device = open_device(command.device)
    dtype = open_dtype(command.dtype, device)
    loaded = load_named(command.model, device, command.input_settings, dtype)
    loaded, _ = settle_precision(loaded, command.dtype)
    arguments = command.video, command.output, command.request, loaded
    with _ProgressBar(leave=False, disable=None) as bar:
        result = explain_video(*arguments, progress=bar.show)
        names = [RESULT_NAME, *(artifact.name for artifact in result.artifacts)]
        if command.compare:
            names.append(compare_methods(*arguments, command.compare, progress=bar.show).name)
    for warning in result.warnings:
        print(f"rollout-explain: {warning.code}: {warning.detail}", file=sys.stderr)
    for prediction in result.predictions:
        print(f"{prediction.probability:7.2%}  {prediction.label}")
    for name in names:
        print(command.output / name)


class _ProgressBar(tqdm):  # type: ignore[type-arg]
    """A progress bar that starts again at each stage."""

    _stage: Stage | None = None

    def show(self, stage: Stage, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self.reset(total)
            self.set_description(stage)
        self.update(done - self.n)


if __name__ == "__main__":
    main()
