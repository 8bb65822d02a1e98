"""Writes the tables and plots of a run to docs/performance.md and docs/images."""

import re
from pathlib import Path

from tests.benchmarks.suite import plots
from tests.benchmarks.suite.report import Report, describe_run, describe_section, target_table

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"

LABEL = "now"
"""The revision whose tables are written."""

BLOCK = re.compile(r"(<!-- bench: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A part of the page that is written here: the name of a section, `run` or `targets`."""


def document(report: Report) -> None:
    """Write page and plots. What was not measured stays as it is."""
    PAGE.write_text(fill(PAGE.read_text(), report))
    plots.draw(report["revisions"], IMAGES)


def fill(page: str, report: Report) -> str:
    """Return the page with the parts between the markers replaced."""
    sections = report["revisions"][LABEL]["sections"]

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name == "run":
            text = describe_run(report)
        elif name == "targets":
            text = target_table(report)
        elif name in sections:
            text = describe_section(sections[name])
        else:
            return match[0]
        return f"{begin}\n{text}\n\n{end}"

    return BLOCK.sub(replace, page)
