"""Scores of every scene, kept in a file so that an interrupted run can continue."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from torch import Tensor

DECIMALS = 4


@dataclass
class Scores:
    """Scores by row and metric, one for each scene, in their order.

    Attributes:
        about: what was measured; a file about something else is not continued.
    """

    about: dict[str, str | int]
    path: Path | None = None
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None, about: dict[str, str | int]) -> Self:
        """Read the scores at `path`, or start without any; None keeps no file.

        Raises:
            ValueError: the file is about something else.
        """
        if path is None or not path.exists():
            return cls(about, path)
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["about"] != about:
            raise ValueError(f"{path} is about {stored['about']}, not about {about}")
        return cls(about, path, stored["rows"])

    def scenes(self, row: str, metric: str | None = None) -> int:
        """Return on how many scenes a row was measured, by any metric or by the given one."""
        of_row = self.rows.get(row, {})
        counts = [len(values) for name, values in of_row.items() if metric in (None, name)]
        return max(counts, default=0)

    def add(self, row: str, scores: Mapping[str, Tensor]) -> None:
        """Append the scores of the next scenes of a row, `b` for each metric."""
        for metric, values in scores.items():
            rounded = [round(value, DECIMALS) for value in values.tolist()]
            self.rows.setdefault(row, {}).setdefault(metric, []).extend(rounded)

    def forget(self, row: str) -> None:
        """Remove the scores of a row, so that it is measured again."""
        self.rows.pop(row, None)

    def save(self) -> None:
        """Write the file, if one is kept."""
        if self.path is None:
            return
        rows = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(row)}" for name, row in self.rows.items()
        )
        content = f'{{"about": {json.dumps(self.about)}, "rows": {{\n{rows}\n}}}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.write_text(content, encoding="utf-8")
        beside.replace(self.path)
