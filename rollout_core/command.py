"""What the three commands share: their settings' form, and errors of one line.

Imports nothing outside the base installation, so that a command can say which extra is missing.
"""

import atexit
import gc
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from rollout_core.error_texts import explain_errors
from rollout_core.logs import tell
from rollout_core.variables import ENV_PREFIX, unknown_variables

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings, SettingsConfigDict

UNUSABLE_STATUS = 78
"""Exit status of a command that cannot run with its settings, however often it is started again."""

PACKAGES = ("rollout_core", "service", "worker")

_REPEATED = re.compile(r"tuple\[(.*),\.\.\.\]")
_WORD_OR_CHOICES = re.compile(r"\w+|\{[\w,]+\}")
_NO_DEFAULT = re.compile(r" ?\(default: (?:None|null|\(\))\)$")
"""Parts of the help that pydantic-settings writes."""

S = TypeVar("S", bound="BaseSettings")


def settings_config(command: str) -> "SettingsConfigDict":
    """Return the configuration of a command's settings: flags, environment, `--help`."""
    return {
        "frozen": True,
        "hide_input_in_errors": True,
        "extra": "ignore",
        "env_prefix": ENV_PREFIX,
        "env_ignore_empty": True,
        "cli_prog_name": command,
        "cli_kebab_case": True,
        "cli_avoid_json": True,
        "cli_hide_none_type": True,
        "cli_implicit_flags": True,
    }


def read_settings(
    settings: type[S],
    arguments: Sequence[str] | None = None,
    prepare: Callable[[S], None] = lambda _: None,
) -> S:
    """Return the settings that the flags and the environment give.

    Tells unknown variables, see `tell_unknown_variables`.

    Args:
        arguments: the flags; default: the process' own.
        prepare: gets the settings before anything is told.

    Raises:
        SystemExit: a setting is invalid. The message is one line that names each invalid setting.
    """
    from pydantic_settings import CliApp, CliSettingsSource

    source = CliSettingsSource[Any](settings)
    _tidy_help(source.root_parser)
    command = settings.model_config.get("cli_prog_name")
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        found = CliApp.run(settings, cli_args=given, cli_settings_source=source)
    except ValidationError as error:
        sys.exit(f"{command}: {describe_errors(error, settings)}")
    prepare(found)
    tell_unknown_variables(str(command), settings.model_fields)
    return found


def tell_unknown_variables(command: str, settings: Iterable[str]) -> None:
    """Tell each variable with our prefix that no command knows.

    Args:
        settings: names of the settings of `command`, without the prefix.
    """
    for text in unknown_variables(os.environ, settings):
        tell(command, text)


def _tidy_help(parser: ArgumentParser) -> None:
    """Write in `--help` the names of values instead of Python types, and no empty defaults."""
    for action in parser._actions:
        if isinstance(action.metavar, str):
            action.metavar = _metavar(action.metavar, action.dest)
        if action.help is not None:
            action.help = _NO_DEFAULT.sub("", action.help)


def _metavar(text: str, dest: str) -> str:
    """Return a word or the choices that stand for a value; else the name of the setting."""
    text = _REPEATED.sub(r"\1", text)
    is_plain = _WORD_OR_CHOICES.fullmatch(text) and text != "{int,str}"
    return text if is_plain else dest.rpartition(".")[2].upper()


def describe_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Return in one line which values are invalid, and why."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, fault.path)), fault.message)))
        for fault in explain_errors(error, model)
    )


def make_files_private() -> None:
    """Let only this user read the files that this process and its children create from now on."""
    os.umask(0o077)


class MissingExtra(ModuleNotFoundError):
    """A package is not installed. The message names the extra that has it."""


@contextmanager
def name_extra(user: str, extra: str) -> Iterator[None]:
    """Say that `user` needs `extra` if an import in the block fails.

    Raises:
        MissingExtra: a module of another distribution is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in PACKAGES or isinstance(error, MissingExtra):
            raise
        raise MissingExtra(
            f"{user} needs the extra '{extra}': pip install 'timesformer-rollout[{extra}]' "
            f"(no module named '{module}')",
            name=error.name,
        ) from error


@contextmanager
def require_extra(command: str, extra: str) -> Iterator[None]:
    """End the process with one line that names `extra` if an import in the block fails.

    Raises:
        SystemExit: a module of another distribution is not installed.
    """
    try:
        with name_extra(command, extra):
            yield
    except MissingExtra as error:
        sys.exit(str(error))


@contextmanager
def importing_much() -> Iterator[None]:
    """Collect no garbage in the block, and look at what is there now only when the process ends.

    Imports make many objects, and all of them stay. Looking through them again and again takes a
    quarter of the time that the imports of torch and timm take.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # else extension modules that count what they free complain


def require_modules(*modules: str) -> None:
    """Raise `ModuleNotFoundError` unless all of these are installed; import none of them."""
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"no module named {module!r}", name=module)
