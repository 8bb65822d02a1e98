"""Working folders of attempts on this machine, for a store whose files are elsewhere.

<job id>/<n>-<token>/         the files of attempt n
<job id>/<n>-<token>.upload/  its copy of the job's video
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from rollout_core.jobs.disk import PRIVATE, list_folder

ATTEMPT = re.compile(r"([0-9]+)(-[0-9a-f]+)?")
"""Name of an attempt: its number, and the token of its claim if it has one."""


def attempt_name(attempt: int, token: str | None) -> str:
    """Return the name of an attempt."""
    return str(attempt) if token is None else f"{attempt}-{token}"


def attempt_number(name: str) -> int | None:
    """Return the number of an attempt by its name, None if it is not such a name."""
    match = ATTEMPT.fullmatch(name)
    return int(match[1]) if match else None


class LocalAttempts:
    """The working folders below one folder."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`, which is created if it is missing."""
        self._root = root
        root.mkdir(mode=PRIVATE, exist_ok=True)

    def folder(self, job_id: str, name: str) -> Path:
        """Return the folder of an attempt."""
        return self._root / job_id / name

    def begin(self, job_id: str, name: str) -> Path:
        """Create the empty folder of an attempt; remove those of older attempts of the job."""
        number = attempt_number(name) or 0
        for folder in list_folder(self._root / job_id):
            other = attempt_number(folder.name)
            if folder.name == name or (other is not None and other < number):
                self.remove(job_id, folder.name)
        folder = self.folder(job_id, name)
        folder.parent.mkdir(mode=PRIVATE, exist_ok=True)
        folder.mkdir(mode=PRIVATE)
        return folder

    def make_upload_folder(self, attempt_folder: Path) -> Path:
        """Create the empty folder for an attempt's copy of the video."""
        folder = _upload_folder(attempt_folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=PRIVATE)
        return folder

    def remove(self, job_id: str, name: str) -> None:
        """Remove the folders of one attempt."""
        folder = self.folder(job_id, name)
        for path in (folder, _upload_folder(folder)):
            shutil.rmtree(path, ignore_errors=True)

    def remove_all(self, job_id: str) -> None:
        """Remove the folders of all attempts of a job."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def remove_ended(self, is_open: Callable[[str], bool]) -> None:
        """Remove what workers that were killed have left of jobs that are not open any more."""
        for folder in list_folder(self._root):
            if not is_open(folder.name):
                self.remove_all(folder.name)


def _upload_folder(attempt_folder: Path) -> Path:
    return attempt_folder.with_name(f"{attempt_folder.name}.upload")
