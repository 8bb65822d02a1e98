"""A folder of this machine for files that arrive: they are moved from it, or removed."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout_core.jobs.disk import list_folder
from rollout_core.jobs.watch import Watch


class Spool:
    """Temporary folders below one folder."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Use the folder `root`, which exists."""
        self.root = root
        self._watch = Watch(clock)

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Yield a new folder. It is removed at the end unless it was moved."""
        folder = self.root / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_stale(self, age_seconds: float) -> None:
        """Remove folders that did not change while this object looked on.

        Only the time between calls counts, by the monotonic clock: other clocks may jump.

        Args:
            age_seconds: of the first call that saw such a folder as it is now.
        """
        self._watch.begin()
        for folder in self.root.iterdir():
            state = _state(folder, *list_folder(folder))
            if state and self._watch.seconds(folder.name, state) >= age_seconds:
                shutil.rmtree(folder, ignore_errors=True)


def _state(*paths: Path) -> str | None:
    """Return what changes when one of these files or folders does; None if one is missing."""
    try:
        found = [path.lstat() for path in paths]
    except FileNotFoundError:
        return None
    return repr([(status.st_ino, status.st_size, status.st_mtime_ns) for status in found])
