"""A worker that chooses its precision tells which, and its answer agrees with float32."""

from pathlib import Path

import numpy as np

from rollout_core import archive
from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.relevance.precision import MAX_MAP_ERROR

MODEL = "moving-things"


def found(system, folder: Path, *flags: str) -> tuple[str, np.ndarray]:
    """Return the precision that a worker with these flags tells, and its map of the sample."""
    worker = system.worker("--model", MODEL, "--device", "cpu", *flags, kept=False)
    try:
        system.await_models(MODEL)
        served = system.client.get("/v1/models").json()["models"]
        (model,) = (each for each in served if each["name"] == MODEL)
        job_id = system.accepted(SAMPLE_PATH.read_bytes(), MODEL, overlay=None)
        assert system.wait(job_id)["state"] == "succeeded"
        artifacts = f"/v1/jobs/{job_id}/artifacts"
        precision = system.client.get(f"{artifacts}/result.json").json()["precision"]
        assert precision in model["precisions"]
        arrays = folder / "rollout.npz"
        arrays.write_bytes(system.client.get(f"{artifacts}/rollout.npz").content)
        return precision, archive.load(arrays).relevance
    finally:
        assert worker.stop() == 0


def test_a_worker_tells_its_precision_and_agrees_with_float32(system, tmp_path):
    precision, expected = found(system, tmp_path, "--dtype", "float32")
    assert precision == "float32"
    precision, relevance = found(system, tmp_path, "--dtype", "auto")
    assert precision in {"float32", "bfloat16"}
    error = np.linalg.norm(relevance - expected) / np.linalg.norm(expected)
    assert error <= MAX_MAP_ERROR
