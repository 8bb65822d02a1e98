"""Results that answer a new job at once: those of equal jobs of the same owner.

    answers/<2 digits>/<key>/<job id>    an empty file for each job with this answer key

The names alone say little: whether a job's result can be used is read from the job itself. So the
files may be late, or left over by a process that was killed; one that cannot be used any more is
removed when it is found.
"""

import json
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version

from rollout_core.contract import ExplainRequest, ExplainResult
from rollout_core.errors import UnknownFormat
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import ModelSpec

LOOK_LIMIT = 100
"""Jobs of one key that are looked at for an answer: so many may wait that have none yet."""


class Answers:
    """The results of one store, by answer key."""

    def __init__(self, store: ArtifactStore) -> None:
        """Use the small files of a store."""
        self._store = store
        self._files = store.small_files

    def add(self, key: str, job_id: str) -> None:
        """Note that a job has or will have the answer of a key."""
        self._files.add(f"{_folder(key)}/{job_id}", flush=False)

    def remove(self, key: str, job_id: str) -> None:
        """Forget a job that has no answer any more."""
        self._files.remove(f"{_folder(key)}/{job_id}", prune=True)

    def find(self, key: str, *, owner: str | None, checkpoint_sha256: str | None) -> str | None:
        """Return the id of a job whose result can be used, or None.

        A result counts whatever its precision: workers use only those that agree with float32.

        Args:
            checkpoint_sha256: of the checkpoint that workers serve now. None never matches.
        """
        if checkpoint_sha256 is None:
            return None
        for job_id in self._files.names(_folder(key))[:LOOK_LIMIT]:
            with suppress(UnknownFormat):
                if self._can_answer(key, job_id, owner, checkpoint_sha256):
                    return job_id
        return None

    def _can_answer(self, key: str, job_id: str, owner: str | None, checkpoint: str) -> bool:
        ticket = self._store.ticket(job_id)
        if ticket is None or self._store.has_expired(job_id):
            self.remove(key, job_id)
            return False
        if not self._store.has_ended(job_id):
            return False
        result = self._store.result(job_id)
        if result is None:
            self.remove(key, job_id)
            return False
        is_ours = _is_of(ticket, owner) and result.checkpoint_sha256 == checkpoint
        return is_ours and self._is_complete(job_id, result)

    def _is_complete(self, job_id: str, result: ExplainResult) -> bool:
        """Return whether all files of a result are there, in the size that they should have."""
        for artifact in result.artifacts:
            file = self._store.artifact(job_id, artifact.name)
            if file is None or file.size != artifact.bytes:
                return False
        return True


def answer_key(
    request: ExplainRequest, spec: ModelSpec, *, upload_sha256: str, owner: str | None
) -> str:
    """Return a key that is equal for jobs whose results must be equal.

    The checkpoint is not part of it: which one is served may change while a job waits, and its
    result tells which one was used. The engine need not be: each has its own digests.
    """
    parts = {
        "owner": owner,
        "upload": upload_sha256,
        "version": version("timesformer-rollout"),
        "model": spec.model_dump(mode="json"),
        "request": resolved(request, spec).model_dump(mode="json"),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resolved(request: ExplainRequest, spec: ModelSpec) -> ExplainRequest:
    """Return the request with the defaults that the model gives filled in."""
    changes: dict[str, object] = {
        "model": spec.name,
        "sampling": request.sampling or spec.sampling,
    }
    if request.method == "attention" and request.layer is None:
        changes["layer"] = spec.depth - 1
    return request.model_copy(update=changes)


def _is_of(ticket: Ticket, owner: str | None) -> bool:
    return ticket.owner == owner


def _folder(key: str) -> str:
    return f"answers/{key[:2]}/{key}"
