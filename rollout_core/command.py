"""What the three commands share: their settings' form, and errors of one line.

Imports nothing outside the base installation, so that a command can say which extra is missing.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from rollout_core.error_texts import explain_errors

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "ROLLOUT_"
"""Prefix of the environment variables; each one sets the same value as its flag."""

UNUSABLE_STATUS = 78
"""Exit status of a command that cannot run with its settings, however often it is started again."""

PACKAGES = ("rollout_core", "service", "worker")

S = TypeVar("S", bound="BaseSettings")


def settings_config(command: str) -> "SettingsConfigDict":
    """Return the configuration of a command's settings: flags, environment, `--help`."""
    return {
        "frozen": True,
        "extra": "ignore",
        "env_prefix": ENV_PREFIX,
        "env_ignore_empty": True,
        "cli_prog_name": command,
        "cli_kebab_case": True,
        "cli_avoid_json": True,
        "cli_hide_none_type": True,
        "cli_implicit_flags": True,
    }


def read_settings(settings: type[S], arguments: Sequence[str] | None = None) -> S:
    """Return the settings that the flags and the environment give.

    Args:
        arguments: the flags; default: the process' own.

    Raises:
        SystemExit: a setting is invalid. The message is one line that names each invalid setting.
    """
    from pydantic_settings import CliApp

    try:
        return CliApp.run(settings, cli_args=list(sys.argv[1:] if arguments is None else arguments))
    except ValidationError as error:
        sys.exit(
            f"{settings.model_config.get('cli_prog_name')}: {describe_errors(error, settings)}"
        )


def describe_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Return in one line which values are invalid, and why."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, fault.path)), fault.message)))
        for fault in explain_errors(error, model)
    )


def make_files_private() -> None:
    """Let only this user read the files that this process and its children create from now on."""
    os.umask(0o077)


@contextmanager
def require_extra(command: str, extra: str) -> Iterator[None]:
    """End the process with one line that names `extra` if an import in the block fails.

    Raises:
        SystemExit: a module of another distribution is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in PACKAGES:
            raise
        sys.exit(
            f"{command} needs the extra '{extra}': pip install 'timesformer-rollout[{extra}]' "
            f"(no module named '{module}')"
        )


def require_modules(*modules: str) -> None:
    """Raise `ModuleNotFoundError` unless all of these are installed; import none of them."""
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"no module named {module!r}", name=module)
