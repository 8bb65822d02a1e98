"""Writes the tables of settings in docs/operations.md. Start it through scripts/settings-table.

The tables stand between two markers. They are made from the settings classes of the service and
the worker, so names, defaults and meanings stand in one place.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
START = "<!-- settings:start -->"
END = "<!-- settings:end -->"
NO_VALUE = "–"


def render_tables() -> str:
    """Return the tables of both commands, as Markdown."""
    tables = (render_table(settings) for settings in (ServiceSettings, WorkerSettings))
    return "\n".join(tables)


def render_table(settings: type[BaseSettings]) -> str:
    """Return a heading with the command's name, and a table with one row for each setting."""
    lines = [
        f"### {settings.model_config['cli_prog_name']}",
        "",
        "| environment variable | flag | default | meaning |",
        "|---|---|---|---|",
        *(_row(settings, name, field) for name, field in settings.model_fields.items()),
    ]
    return "\n".join(lines) + "\n"


def replace_tables(document: str, tables: str) -> str:
    """Return the document with `tables` between its markers.

    Raises:
        ValueError: a marker is missing, or stands there twice.
    """
    if document.count(START) != 1 or document.count(END) != 1:
        raise ValueError(f"the document must have {START} and {END} once each")
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{tables}\n{END}{after}"


def _row(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    variable = f"{settings.model_config['env_prefix']}{name}".upper()
    cells = f"`{variable}`", f"`{_flag(settings, name, field)}`", _default(field), _meaning(field)
    escaped = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {escaped} |"


def _flag(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """Return the flag; one that needs the word `true` says so."""
    flag = f"--{name.replace('_', '-')}"
    needs_value = not settings.model_config.get("cli_implicit_flags")
    return f"{flag} true" if field.annotation is bool and needs_value else flag


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default()
    if value is None:
        return NO_VALUE
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(field: FieldInfo) -> str:
    return " ".join(_sentences(field))


def _sentences(field: FieldInfo) -> Iterator[str]:
    """Yield the choices, if there are any, and the description."""
    if get_origin(field.annotation) is Literal:
        yield f"{' or '.join(f'`{choice}`' for choice in get_args(field.annotation))}."
    if field.description:
        yield field.description


def main() -> None:
    """Rewrite the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replace_tables(text, render_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
