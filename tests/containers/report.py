"""The checks as they are made, and the report of them."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.containers.images import MEGABYTE, Built
from tests.containers.site import Site


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is so, and what was found."""

    phase: str
    what: str
    passed: bool
    seconds: float
    found: str


@dataclass
class Report:
    """Collects checks, images, memory and notes."""

    checks: list[Check] = field(default_factory=list)
    images: list[Built] = field(default_factory=list)
    memory: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    phase: str = ""

    def begin(self, phase: str) -> None:
        """Begin a group of checks."""
        self.phase = phase
        print(f"\n{phase}", flush=True)

    def check(self, what: str, function: Callable[..., object], *arguments: object) -> None:
        """Make one check; a failure of any kind is written down, and the next one follows."""
        begun = time.monotonic()
        try:
            found, passed = str(function(*arguments) or ""), True
        except Exception as error:
            found, passed = f"{type(error).__name__}: {error}".strip(), False
        seconds = time.monotonic() - begun
        self.checks.append(Check(self.phase, what, passed, seconds, found))
        print(f"  {'ok  ' if passed else 'FAIL'} {seconds:6.1f} s  {what}: {found}", flush=True)

    @property
    def failures(self) -> int:
        """How many checks failed."""
        return sum(not check.passed for check in self.checks)

    def write(self, site: Site) -> str:
        """Return the report as Markdown."""
        parts = (self._head(site), self._images(), self._memory(), self._checks())
        return "\n".join((*parts, ""))

    def _head(self, site: Site) -> str:
        engine = site.docker("version", "--format", "{{.Server.Version}}")
        compose = site.docker("compose", "version", "--short")
        flags = (flag for flag in sys.argv[1:] if flag in ("--own-engine", "--fresh"))
        command = " ".join(("scripts/containers", *flags))
        kernel = platform.release().partition("-")[0]
        passed = f"{len(self.checks) - self.failures} of {len(self.checks)} checks passed"
        return "\n".join(
            (
                "# The containers, built and run",
                "",
                f"`{command}`: {passed}. {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, "
                f"Linux {kernel}, Docker {engine}, Compose {compose}. "
                "The Dockerfile and the compose files were used as they are.",
                *(("", *(f"- {note}" for note in self.notes)) if self.notes else ()),
                "",
            )
        )

    def _images(self) -> str:
        rows = (
            f"| {image.name} | {image.size_bytes / MEGABYTE:,.0f} MB | {image.seconds:.0f} s "
            f"| {image.packages} |"
            for image in self.images
        )
        return _table("## Images", ("image", "size", "build", "packages in its SBOM"), rows)

    def _memory(self) -> str:
        rows = (
            f"| {profile} | {service} | {used} |"
            for profile, services in self.memory
            for service, used in services.items()
        )
        return _table(
            "## Memory after jobs with the sample clip", ("profile", "container", "in use"), rows
        )

    def _checks(self) -> str:
        rows = (
            f"| {check.phase} | {check.what} | {'passed' if check.passed else '**failed**'} "
            f"| {check.seconds:.1f} s | {_cell(check.found)} |"
            for check in self.checks
        )
        return _table("## Checks", ("with", "check", "", "took", "found"), rows)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[str]) -> str:
    head = (title, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|")
    return "\n".join((*head, *rows, ""))


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
