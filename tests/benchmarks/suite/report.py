"""The report of a run, as Markdown."""

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.suite import targets
from tests.benchmarks.suite.sections import TITLES
from tests.benchmarks.suite.tables import markdown

Report = Mapping[str, Any]
"""What `--json` writes.

`command`, `date`, `device`, `scale`, `rounds`, `machine`, and `revisions`: label → `commit` and
`sections`: name → `tables`, `figures`, `notes`, `seconds`, `load`; or `skipped`; or `error`.
"""


def render(report: Report) -> str:
    """Return the whole report."""
    parts = ["# Benchmarks", describe_run(report), "## Targets", target_table(report)]
    for name, title in TITLES.items():
        for label, revision in report["revisions"].items():
            if name in revision["sections"]:
                several = f" ({label})" if len(report["revisions"]) > 1 else ""
                parts += [f"## {title}{several}", describe_section(revision["sections"][name])]
    return "\n\n".join(parts) + "\n"


def target_table(report: Report) -> str:
    """Return the targets with their values and verdicts."""
    return markdown(targets.rows(report))


def describe_run(report: Report) -> str:
    """Return the command, the revisions and the machine."""
    revisions = ", ".join(
        f"{label}: `{revision['commit']}`" for label, revision in report["revisions"].items()
    )
    machine = "; ".join(f"{name} {value}" for name, value in report["machine"].items())
    return (
        f"`{report['command']}`, {report['date']}; {revisions}. {machine}.\n\n"
        f"Medians of {report['rounds']} rounds unless a table says otherwise, with the middle half "
        "of the rounds in parentheses. What is compared runs in turn, and ratios are of the same "
        "round."
    )


def describe_section(section: Mapping[str, Any], level: int = 3) -> str:
    """Return tables and notes of a section, or why there are none."""
    for reason in ("skipped", "error"):
        if reason in section:
            return f"**{reason.capitalize()}:** {section[reason]}"
    parts = [f"- {note}" for note in section["notes"]]
    before, after = section["load"]
    parts.append(f"- Took {section['seconds']:.0f} s; load {before} before, {after} after.")
    tables = [
        f"{'#' * level} {table['title']}\n\n{markdown(table['rows'])}"
        for table in section["tables"]
    ]
    return "\n\n".join([*tables, "\n".join(parts)])
