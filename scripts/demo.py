"""The client behind scripts/demo: one video through a service of its own, results in demo-output/.

Start it through scripts/demo, which makes the environment first. It reaches the service through
`RolloutClient` alone, so it is also an example of its use.
"""
# ruff: noqa: T201 (a program for people prints)

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rollout_core.client import ClientError, NoResult, RolloutApiError, RolloutClient
from rollout_core.errors import describe_failure
from rollout_core.jobs.schemas import Job

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "rollout_core" / "demo" / "sample.mp4"
OUTPUT = ROOT / "demo-output"
NAMES = ("result.json", "rollout.npz", "overlay.mp4", "sheet.png")

START_SECONDS = 180
STOP_SECONDS = 60
POLL_SECONDS = 0.2
# Nothing of this is drawn where standard error is no terminal.
BAR = "  {desc:<8}{percentage:3.0f}% |{bar:30}| {n_fmt}/{total_fmt} [{elapsed}]"


class DemoError(Exception):
    """What stops the demo; the message is all that is shown."""


class StageBars:
    """A progress bar for each stage of a job, one below the other."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar of the present stage; a new stage fills the bar of the one before."""
        if stage != self._stage:
            self.close(full=True)
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total, bar_format=BAR, disable=None)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def close(self, *, full: bool) -> None:
        """Leave the present bar as it is, or `full`."""
        if self._bar is not None:
            self._bar.update((self._bar.total or 0) - self._bar.n if full else 0)
            self._bar.close()


@contextmanager
def standalone_service(folder: Path) -> Iterator[str]:
    """Run a service with its data in `folder`; yield its URL once a worker is ready."""
    command = (sys.executable, "-m", "service", "--standalone", "--port", "0", "--data-dir")
    output, log = folder / "output", folder / "log"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(  # its own session: Ctrl-C reaches it through us, once
            (*command, str(folder / "data")),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        yield _wait_until_ready(process, output, log)
    finally:
        _stop(process)


def follow(client: RolloutClient, job: Job) -> Job:
    """Show the progress of a job, a bar for each stage; return the job when it has ended."""
    bars = StageBars()
    try:
        for event in client.events(job):
            job = event.job or job
            if event.progress is not None:
                bars.show(**event.progress.model_dump())
    finally:
        bars.close(full=job.state == "succeeded")
    if job.state != "succeeded":
        reason = (
            describe_failure(job.error.title, job.error.detail)
            if job.error
            else "no reason was given"
        )
        raise DemoError(f"the job has {job.state}: {reason}".rstrip())
    return job


def report(job: Job) -> None:
    """Print the predictions and where the files are."""
    if job.result is None:
        raise NoResult(job)
    print("\nTop predictions")
    for prediction in job.result.predictions:
        print(f"  {prediction.probability:7.2%}  {prediction.label}")
    print("\nFiles")
    for name in NAMES:
        print(f"  {OUTPUT / name}  ({(OUTPUT / name).stat().st_size:,} bytes)")


def check_sample(job: Job) -> None:
    """Refuse a result for the sample clip whose first prediction is not the clip's class."""
    expected = SAMPLE.with_suffix(".label").read_text(encoding="utf-8").strip()
    if job.result is None:
        raise NoResult(job)
    found = job.result.predictions[0].label
    if found != expected:
        raise DemoError(f"the sample clip shows {expected!r}, but the model predicts {found!r}")


def run(video: Path) -> None:
    """Explain one video, from the start of the service to its end."""
    if not video.is_file():
        raise DemoError(f"there is no file {video}")
    OUTPUT.mkdir(exist_ok=True)
    for name in NAMES:
        (OUTPUT / name).unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="rollout-demo-") as folder,
        standalone_service(Path(folder)) as url,
        RolloutClient(url, cache=Path(folder) / "cache") as client,
    ):
        print(f"Explaining {video}", flush=True)
        job = follow(client, client.submit(video))
        client.download(job, OUTPUT, NAMES)
    report(job)
    if video == SAMPLE:
        check_sample(job)


def main() -> int:
    """Run the demo; return its exit status."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print("usage: scripts/demo [VIDEO]", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(Path(sys.argv[1]) if len(sys.argv) == 2 else SAMPLE)
    except RolloutApiError as error:
        print(f"demo: the service refused: {error}", file=sys.stderr)
        return 1
    except (DemoError, ClientError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def _wait_until_ready(process: subprocess.Popen[bytes], output: Path, log: Path) -> str:
    """Return the service's URL when it listens and a worker is ready."""
    begun = time.monotonic()
    url = None
    text = "Starting the service and a worker"
    with tqdm(bar_format="{desc} [{elapsed}]", desc=text, disable=None) as clock:
        while time.monotonic() - begun < START_SECONDS:
            if process.poll() is not None:
                raise DemoError(f"the service did not start: {_last_line(log)}")
            url = url or _url(output)
            if url and _has_ready_worker(url):
                return url
            time.sleep(POLL_SECONDS)
            clock.update()
    raise DemoError(f"no worker was ready in {START_SECONDS} s: {_last_line(log)}")


def _has_ready_worker(url: str) -> bool:
    with RolloutClient(url) as client:
        return any(model.ready for model in client.models())


def _url(output: Path) -> str | None:
    """Return the last word of the line that the service prints when it listens."""
    for line in output.read_text(errors="replace").splitlines(keepends=True):
        if line.endswith("\n") and line.split()[-1:] and line.split()[-1].startswith("http://"):
            return line.split()[-1]
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the service to end, wait, and leave nothing of it behind."""
    for impatience in (signal.SIGINT, signal.SIGTERM):
        signal.signal(impatience, signal.SIG_IGN)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
