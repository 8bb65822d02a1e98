"""Jobs and models as text for people."""

from collections.abc import Iterable, Iterator, Sequence

from rollout_core.client.display import printable
from rollout_core.errors import describe_failure
from rollout_core.jobs.schemas import Job, ServedModel


def job_table(jobs: Sequence[Job]) -> Iterator[str]:
    """Yield a table of jobs."""
    head = ("ID", "STATE", "CREATED (UTC)", "MODEL", "TAG", "FILE")
    return _table([head, *(_job_row(job) for job in jobs)])


def model_table(models: Iterable[ServedModel]) -> Iterator[str]:
    """Yield a table of models."""
    head = ("MODEL", "READY", "CLIP", "CLASSES", "SECONDS PER JOB")
    rows = [
        (
            model.name,
            f"{model.ready} of {model.workers}",
            f"{model.spec.frames} × {model.spec.height} × {model.spec.width}",
            str(model.spec.classes),
            "" if model.seconds_per_job is None else f"{model.seconds_per_job:.1f}",
        )
        for model in models
    ]
    return _table([head, *rows])


def job_lines(job: Job) -> Iterator[str]:
    """Yield what there is to know of a job, a line for each fact."""
    facts = {
        "job": job.id,
        "state": job.state,
        "model": job.model,
        "method": job.request.method,
        "tag": job.tag,
        "file": job.filename,
        "upload": job.upload,
        "created": job.created_at.isoformat(" ", "seconds"),
        "ended": job.ended_at and job.ended_at.isoformat(" ", "seconds"),
        "queue position": job.queue_position,
        "waiting for": job.waiting_for,
        "progress": job.progress
        and f"{job.progress.stage} {job.progress.done} of {job.progress.total}",
        "error": job.error and describe_failure(job.error.title, job.error.detail),
        "files kept until": job.result
        and job.expires_at
        and job.expires_at.isoformat(" ", "seconds"),
    }
    for name, value in facts.items():
        if value is not None:
            yield f"{name + ':':<18}{printable(str(value))}"
    if job.result is not None:
        for prediction in job.result.predictions:
            yield f"{prediction.probability:>16.2%}  {printable(prediction.label)}"
        for warning in job.result.warnings:
            yield f"{'warning:':<18}{printable(warning.detail)}"


def _job_row(job: Job) -> tuple[str, ...]:
    created = job.created_at.strftime("%Y-%m-%d %H:%M:%S")
    return job.id, job.state, created, job.model, job.tag or "", job.filename or ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows with aligned columns."""
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    for row in clean:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
