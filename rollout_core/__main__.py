"""`rollout-explain VIDEO`: one video, no server."""

import sys
from pathlib import Path

import torch
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, SettingsConfigDict
from tqdm import tqdm

from rollout_core.checkpoints import open_model
from rollout_core.contract import RESULT_NAME, ExplainRequest, Stage
from rollout_core.errors import RolloutError
from rollout_core.pipeline import explain_video
from rollout_core.specs import MOVING_SHAPES


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
        cli_parse_none_str="null",
    )

    video: CliPositionalArg[Path]
    model: str = Field(MOVING_SHAPES.name, description="NAME or NAME=CHECKPOINT.")
    output: Path = Field(
        Path("rollout-output"),
        validation_alias=AliasChoices("o", "output"),
        description="Folder for the results.",
    )
    device: str = Field("auto", description="auto takes the GPU if there is one.")

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
        first = error.errors()[0]
        sys.exit(f"rollout-explain: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (RolloutError, OSError) as error:
        sys.exit(f"rollout-explain: {error}")


def explain(command: Command) -> None:
    """Explain a video; print what the model said, and where the results are."""
    name, _, checkpoint = command.model.partition("=")
    device = command.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = open_model(name, checkpoint or None, device=device)
    with _ProgressBar(leave=False, disable=None) as bar:
        result = explain_video(
            command.video, command.output, command.request, loaded, progress=bar.show
        )
    for prediction in result.predictions:
        print(f"{prediction.probability:7.2%}  {prediction.label}")
    for name in (RESULT_NAME, *(artifact.name for artifact in result.artifacts)):
        print(command.output / name)


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
