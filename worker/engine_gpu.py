"""The GPU on which a worker's engine runs: found, claimed, waited for if others have it, measured.

A worker for which there is no GPU waits: it was started once too often (`--scale`), or its
predecessor has not ended yet. To end would not help. Compose would start it again and again, and
the worker would not be there when a GPU becomes free.
"""

import logging
from collections.abc import Callable

from rollout_core.errors import DeviceError
from rollout_core.jobs.redis_records import Gpu
from worker.gpu_choice import candidates
from worker.gpu_claims import Claim, GpuClaims
from worker.gpus import VISIBLE_DEVICES, Nvml, VisibleGpu, measure, visible_gpus

LOOK_SECONDS = 2.0
"""Pause before the next look for a free GPU."""

log = logging.getLogger(__name__)


class EngineGpu:
    """A GPU that this worker has claimed, whatever becomes of its engine."""

    def __init__(self, nvml: Nvml, gpu: VisibleGpu, claim: Claim) -> None:
        """Use this GPU until `release`."""
        self._nvml = nvml
        self._gpu = gpu
        self._claim = claim

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the engine: CUDA shows it no other GPU."""
        return {VISIBLE_DEVICES: self._gpu.uuid}

    def measure(self) -> Gpu | None:
        """Return its name and memory; None if they cannot be read now."""
        return measure(self._nvml, self._gpu.uuid)

    def release(self) -> None:
        """Let other workers have it."""
        self._claim.release()

    def __str__(self) -> str:
        return str(self._gpu)


class GpuSearch:
    """Finds a GPU for this worker and claims it."""

    def __init__(self, nvml: Nvml, claims: GpuClaims, *, wish: str, visible: str | None) -> None:
        """Look for the device `wish`; see `worker.gpu_choice`.

        Args:
            visible: the value of CUDA_VISIBLE_DEVICES; None if it is not set.
        """
        self._nvml = nvml
        self._claims = claims
        self._wish = wish
        self._visible = visible

    def claim(self, *, share: bool, idle: Callable[[], None]) -> EngineGpu | None:
        """Claim a GPU; wait while other workers have all that this one may take.

        Args:
            share: take a GPU that others have, if all are claimed.
            idle: called again and again while all are claimed; each time it pauses.

        Returns:
            None if there is no GPU, and the wish names none.

        Raises:
            DeviceError: the wish names a GPU that is not here.
            OSError: the claims cannot be read or written.
        """
        has_waited = False
        while gpus := self._candidates():
            claim = self._claims.take([gpu.uuid for gpu in gpus], share=share)
            if claim is not None:
                (gpu,) = (gpu for gpu in gpus if gpu.uuid == claim.uuid)
                log.info("claimed %s, %.1f GiB free", gpu, gpu.free_bytes / 2**30)
                return EngineGpu(self._nvml, gpu, claim)
            if not has_waited:
                has_waited = True
                log.warning(
                    "every GPU that this worker may use (%s) is claimed by another worker with the "
                    "same data directory; waiting until one is free. Start fewer workers, or set "
                    "ROLLOUT_SHARE_GPU=true to let several use one",
                    ", ".join(map(str, gpus)),
                )
            idle()
        return None

    def _candidates(self) -> tuple[VisibleGpu, ...]:
        try:
            visible = visible_gpus(self._nvml, self._visible)
        except self._nvml.NVMLError as error:
            raise DeviceError(f"the GPUs cannot be listed: {error}") from error
        return candidates(visible, self._wish)
