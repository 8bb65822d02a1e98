"""`rollout-explain VIDEO`: one video, no server."""

import re
import sys
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, SettingsConfigDict
from tqdm import tqdm

from rollout_core.contract import RESULT_NAME, ExplainRequest, Method, Queries, Stage
from rollout_core.errors import RolloutError
from rollout_core.model.checkpoints import open_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.pipeline import compare_methods, explain_video

PATCH = re.compile(r"(?:(?P<clip>\d+):)?(?P<frame>\d+):(?P<row>\d+):(?P<column>\d+)")
POINT = re.compile(r"(?P<x>[\d.]+):(?P<y>[\d.]+)@(?P<seconds>[\d.]+)")


class Command(ExplainRequest, BaseSettings):
    """Explain what a video transformer looked at in one video."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="ROLLOUT_",
        cli_prog_name="rollout-explain",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_parse_none_str="null",
    )

    video: CliPositionalArg[Path]
    query: Queries = Field(
        "cls",
        description="Token to explain: cls, a patch [CLIP:]FRAME:ROW:COLUMN counted from 0, or "
        "the patch at a point X:Y@SECONDS of the video. May be repeated; the first one is drawn.",
    )
    compare: tuple[Method, ...] = Field(
        (), description="Also draw the maps of this method, into comparison.png; may be repeated."
    )
    model: str = Field(MOVING_SHAPES.name, description="NAME or NAME=CHECKPOINT.")
    output: Path = Field(
        Path("rollout-output"),
        validation_alias=AliasChoices("o", "output"),
        description="Folder for the results.",
    )
    device: str = Field("auto", description="auto takes the GPU if there is one.")

    @field_validator("query", mode="before")
    @classmethod
    def _read_queries(cls, value: Any) -> Any:
        return list(map(_read_query, value)) if isinstance(value, list) else _read_query(value)

    @model_validator(mode="after")
    def _check_comparison(self) -> Self:
        if self.method in self.compare:
            raise ValueError(f"compare is for methods other than {self.method}")
        return self

    @property
    def request(self) -> ExplainRequest:
        """What is asked of the model, as the service would be asked it."""
        asked = ExplainRequest.model_fields.keys() - {"model"}
        return ExplainRequest(**{name: getattr(self, name) for name in asked})


def main() -> None:
    """Read the command line and explain one video."""
    try:
        command = CliApp.run(Command, cli_args=sys.argv[1:])
        explain(command)
    except ValidationError as error:
        sys.exit(f"rollout-explain: {_first_complaint(error)}")
    except (RolloutError, OSError) as error:
        sys.exit(f"rollout-explain: {error}")


def explain(command: Command) -> None:
    """Explain a video; print what the model said, and where the results are."""
    name, _, checkpoint = command.model.partition("=")
    device = command.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = open_model(name, checkpoint or None, device=device)
    asked = command.video, command.output, command.request, loaded
    with _ProgressBar(leave=False, disable=None) as bar:
        result = explain_video(*asked, progress=bar.show)
        names = [RESULT_NAME, *(artifact.name for artifact in result.artifacts)]
        if command.compare:
            names.append(compare_methods(*asked, command.compare, progress=bar.show).name)
    for prediction in result.predictions:
        print(f"{prediction.probability:7.2%}  {prediction.label}")
    for name in names:
        print(command.output / name)


def _read_query(value: Any) -> Any:
    """Turn a query's short form into its fields."""
    if not isinstance(value, str) or value == "cls":
        return value
    match = PATCH.fullmatch(value) or POINT.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not cls, [CLIP:]FRAME:ROW:COLUMN or X:Y@SECONDS")
    return {name: text for name, text in match.groupdict().items() if text is not None}


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


class _ProgressBar(tqdm):  # type: ignore[type-arg]
    """One bar that begins anew at each stage."""

    _stage: Stage | None = None

    def show(self, stage: Stage, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self.reset(total)
            self.set_description(stage)
        self.update(done - self.n)


if __name__ == "__main__":
    main()
