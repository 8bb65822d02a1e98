"""Downloads the files of a result: checked, and resumed where a try before stopped."""

from collections.abc import Callable, Collection
from hashlib import file_digest
from pathlib import Path

from rollout_core.client.bodies import OnBytes
from rollout_core.client.errors import (
    ClientError,
    DamagedTransfer,
    NoResult,
    RolloutConnectionError,
)
from rollout_core.client.sender import Sender, job_path
from rollout_core.client.transport import Call
from rollout_core.jobs.schemas import Job, JobArtifact

Report = Callable[[int], None]
"""Called with the bytes of one file that are there."""


class Downloading:
    """Fetches artifacts into folders."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def download(
        self,
        job: Job,
        folder: Path,
        names: Collection[str] | None = None,
        on_bytes: OnBytes | None = None,
    ) -> tuple[Path, ...]:
        """Write files of a result into a folder; return their paths.

        Args:
            names: of the artifacts; default: all.
            on_bytes: called with the bytes that are there and the bytes in all.

        Raises:
            NoResult: the job has no files.
            ValueError: it has no artifact of that name.
            DamagedTransfer: a file has another digest than the job says.
            RolloutApiError, RolloutConnectionError, OSError: it cannot be fetched or written.
        """
        wanted = _chosen(job, names)
        folder.mkdir(parents=True, exist_ok=True)
        total, done = sum(artifact.bytes for artifact in wanted), 0
        for artifact in wanted:

            def report(received: int, before: int = done) -> None:
                if on_bytes is not None:
                    on_bytes(before + received, total)

            await self._fetch(job, artifact, folder, report)
            done += artifact.bytes
        return tuple(folder / artifact.name for artifact in wanted)

    async def _fetch(self, job: Job, artifact: JobArtifact, folder: Path, report: Report) -> None:
        in_thread = self._sender.driver.in_thread
        target = folder / artifact.name
        if await in_thread(_is_complete, target, artifact):
            report(artifact.bytes)
            return
        part = folder / f".{artifact.name}.{artifact.sha256[:16]}.part"
        failures = 0
        while (there := await in_thread(_size, part)) < artifact.bytes:
            try:
                await self._append(job, artifact, part, there, report)
                failures = 0
            except ClientError as failure:
                failures = 1 if await in_thread(_size, part) > there else failures + 1
                await self._sender.pause(failures, failure)
        if artifact.bytes == 0:
            part.touch()
        if not await in_thread(_is_complete, part, artifact):
            part.unlink()
            raise DamagedTransfer(f"{artifact.name} did not arrive as job {job.id} describes it")
        part.replace(target)

    async def _append(
        self, job: Job, artifact: JobArtifact, part: Path, there: int, report: Report
    ) -> None:
        """Fetch what `part` lacks. An answer that ends early is a broken connection."""
        headers = {"Accept-Encoding": "identity"}
        if there:
            headers |= {"Range": f"bytes={there}-", "If-Range": f'"{artifact.sha256}"'}
        call = Call("GET", job_path(job, "artifacts", artifact.name), headers=headers)
        async with self._sender.stream_file(call) as stream:
            begin = there if stream.status == 206 else 0
            with part.open("r+b" if begin else "wb") as file:
                file.seek(begin)
                async for chunk in stream.chunks():
                    await self._sender.driver.in_thread(file.write, chunk)
                    begin += len(chunk)
                    report(begin)
                    if begin > artifact.bytes:
                        raise DamagedTransfer(f"{artifact.name} is larger than job {job.id} says")
        if begin < artifact.bytes:
            raise RolloutConnectionError(f"{artifact.name} ended early")


def _chosen(job: Job, names: Collection[str] | None) -> tuple[JobArtifact, ...]:
    if job.result is None or not job.result.artifacts:
        raise NoResult(job)
    made = {artifact.name: artifact for artifact in job.result.artifacts}
    for name in made:
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise ClientError(f"{name!r} is not a name for a file")
    for name in names or ():
        if name not in made:
            raise ValueError(f"job {job.id} has no file {name!r}; it has {', '.join(made)}")
    return tuple(made[name] for name in (made if names is None else names))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_complete(path: Path, artifact: JobArtifact) -> bool:
    try:
        if path.stat().st_size != artifact.bytes:
            return False
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == artifact.sha256
    except FileNotFoundError:
        return False
