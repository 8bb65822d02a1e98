"""The command `rollout-service`."""

import logging
import signal
import sys
from contextlib import nullcontext
from types import FrameType

from pydantic import ValidationError
from pydantic_settings import CliApp

from rollout_core.errors import RolloutError
from rollout_core.jobs.store import ArtifactStore
from service.auth import ApiKeys
from service.server import serve
from service.settings import Settings
from service.standalone import standalone

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> None:
    """Run the service until it is told to stop."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in ENDING_SIGNALS:
        signal.signal(number, _exit_once)
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        ArtifactStore(settings.data_dir).check_writable()
        if settings.api_keys_file:
            ApiKeys(settings.api_keys_file)
        with standalone(settings) if settings.standalone else nullcontext(settings) as settings:
            serve(settings)
    except ValidationError as error:
        sys.exit(f"rollout-service: {_sum_up(error)}")
    except (OSError, RolloutError) as error:
        sys.exit(f"rollout-service: cannot start: {error}")


def _sum_up(error: ValidationError) -> str:
    """Say in one line which settings are wrong."""
    return "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())


def _exit_once(_: int, __: FrameType | None) -> None:
    """Leave by way of every `finally`, undisturbed by a second signal."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
