"""What a section gets and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.benchmarks.suite.timing import Spread

Scale = Literal["full", "quick", "tiny"]
"""How much is measured: everything, a part of it in three minutes, or next to nothing in tests."""

ROUNDS: dict[Scale, int] = {"full": 7, "quick": 3, "tiny": 1}

Cell = str | int | float | Spread | None
Row = Mapping[str, Cell]
"""Heading of a column → cell. All rows of a table have the same columns."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and on which device of torch."""

    scale: Scale = "full"
    device: str = "cpu"

    @property
    def rounds(self) -> int:
        """How often each call is timed."""
        return ROUNDS[self.scale]

    @property
    def warm_ups(self) -> int:
        """Rounds before, which do not count."""
        return 0 if self.scale == "tiny" else 1


@dataclass(frozen=True)
class Table:
    """Rows below a title."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Section:
    """The measurements of a section.

    Attributes:
        figures: name → value, for the targets and the plots.
        notes: what a reader has to know: what the baseline is, what was cut.
    """

    tables: Sequence[Table]
    figures: Mapping[str, str | float | Spread] = field(default_factory=dict)
    notes: Sequence[str] = ()
