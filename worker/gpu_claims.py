"""Claims on GPUs: of the workers that share a store, each has a GPU for itself unless told.

A claim is a lock (`flock`) on a file that is named by the UUID of the GPU. The worker holds it, not
its engine: so it outlives an engine that is started again, and the kernel ends it with the worker,
however that ends. No child inherits it: Python closes it in every program that it starts.

    gpus/choosing          locked for a moment by the worker that counts and claims
    gpus/<uuid>.<n>        locked by the worker that has the GPU; above 0: beside others

The files stay: removing one that another process is about to lock would let two have it.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

PRIVATE = 0o700
PRIVATE_FILE = 0o600

log = logging.getLogger(__name__)


class Claim:
    """A claim on a GPU, until `release` or the end of this process."""

    def __init__(self, uuid: str, descriptor: int) -> None:
        """Hold the lock of this open file."""
        self.uuid = uuid
        self._descriptor = descriptor

    def release(self) -> None:
        """Let other workers have the GPU. The second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class GpuClaims:
    """The claims of all workers that share a folder."""

    def __init__(self, folder: Path) -> None:
        """Keep the locks in `folder`, which is created if it is missing."""
        self._folder = folder

    def take(self, uuids: Sequence[str], *, share: bool = False) -> Claim | None:
        """Claim the least claimed of these GPUs, of several the first.

        Args:
            share: take one that others have claimed, if there is no other.

        Returns:
            None if all are claimed, and `share` is false.

        Raises:
            OSError: the folder cannot be written, or its file system has no locks. A worker that
                shares needs none, and gets the first.
        """
        try:
            return self._take(uuids, share=share)
        except OSError as error:
            if not share or not uuids:
                raise
            log.warning("%s; other workers do not see that this one uses %s", error, uuids[0])
            return Claim(uuids[0], -1)

    def _take(self, uuids: Sequence[str], *, share: bool) -> Claim | None:
        with self._choosing():
            claims = {uuid: sum(map(self._is_locked, self._files(uuid))) for uuid in uuids}
            least = min(claims, key=lambda uuid: claims[uuid], default=None)
            if least is None or (claims[least] and not share):
                return None
            return self._claim(least)

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """Keep others from choosing meanwhile, so that what was counted stays true."""
        self._folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        descriptor = _open(self._folder / "choosing")
        try:
            _lock(descriptor, self._folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _claim(self, uuid: str) -> Claim:
        """Lock the first file of a GPU that no other process has locked."""
        for number in count():
            descriptor = _open(path := self._folder / f"{_file_name(uuid)}.{number}")
            if _lock(descriptor, path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return Claim(uuid, descriptor)
            os.close(descriptor)
        raise AssertionError("unreachable")

    def _files(self, uuid: str) -> list[Path]:
        return list(self._folder.glob(f"{_file_name(uuid)}.*"))

    def _is_locked(self, path: Path) -> bool:
        descriptor = _open(path)
        try:
            return not _lock(descriptor, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)


def _lock(descriptor: int, path: Path, kind: int) -> bool:
    """Lock a file until it is closed; return False if another process has it."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            error.errno, f"GPUs cannot be claimed: {error.strerror}", str(path)
        ) from error
    return True


def _file_name(uuid: str) -> str:
    """Return the UUID; that of a slice has slashes with drivers before release 470."""
    return uuid.replace("/", "_")
