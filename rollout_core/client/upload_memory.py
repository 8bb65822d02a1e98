"""Remembers where the upload of a file began, so that a later call can go on with it."""

import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rollout_core.client.bodies import Video

KEPT_SECONDS = 7 * 86_400.0
"""Notes that are older than this are removed. The service keeps no upload as long."""


def cache_folder() -> Path:
    """Return the folder of this user for data that may be lost."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "timesformer-rollout" / "uploads"


@dataclass(frozen=True)
class UploadMemory:
    """One small file for each upload, named by a digest of the file's path, size, time and server.

    A memory that cannot be written remembers nothing; the upload itself does not fail.
    """

    folder: Path
    server_url: str

    def recall(self, video: Video) -> str | None:
        """Return the id of the upload of this file, if one began."""
        note = self._note(video)
        if note is None:
            return None
        try:
            found = json.loads(note.read_bytes())["upload"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(found)

    def remember(self, video: Video, upload_id: str) -> None:
        """Keep the id of the upload of this file. Open files are not remembered."""
        note = self._note(video)
        if note is None:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._forget_old_ones()
            beside = note.with_name(f".{note.name}.{secrets.token_hex(4)}")
            beside.write_text(json.dumps({"upload": upload_id, "server": self.server_url}))
            beside.replace(note)

    def forget(self, video: Video) -> None:
        """Drop what is kept of this file."""
        note = self._note(video)
        if note is not None:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def _note(self, video: Video) -> Path | None:
        if video.path is None:
            return None
        status = os.fstat(video.file.fileno())
        facts = (self.server_url, str(video.path.resolve()), status.st_size, status.st_mtime_ns)
        return self.folder / f"{sha256(json.dumps(facts).encode()).hexdigest()}.json"

    def _forget_old_ones(self) -> None:
        for note in self.folder.iterdir():
            if note.stat().st_mtime < time.time() - KEPT_SECONDS:
                note.unlink(missing_ok=True)
