"""The real engine, once: what comes back over HTTP is what the model says of these frames."""

import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from rollout_core import archive, sampling, video
from rollout_core.checkpoints import open_model
from rollout_core.contract import ExplainRequest
from rollout_core.explain import explain_clips, prepare_clips
from rollout_core.predictions import top_predictions

DEMO = Path(str(files("rollout_core") / "demo"))
REQUEST = {"clips": "one", "head_fusion": "max", "discard_ratio": 0.1, "start_layer": 1}


@pytest.fixture(scope="module")
def job(house):
    worker = house.worker("--engine", "torch", "--model", "moving-shapes", "--device", "cpu")
    try:
        house.await_models("moving-shapes")
        sample = (DEMO / "sample.mp4").read_bytes()
        yield house.wait(house.accepted(sample, "moving-shapes", **REQUEST))
    finally:
        assert worker.stop() == 0


@pytest.fixture(scope="module")
def loaded():
    return open_model("moving-shapes", device="cpu", dtype=torch.float32)


def test_the_sample_clip_is_recognised(job):
    assert job["state"] == "succeeded", job
    label = (DEMO / "sample.label").read_text().strip()
    assert job["result"]["predictions"][0]["label"] == label


def test_the_answer_is_the_models_own_on_the_same_frames(house, job, loaded, tmp_path):
    content = house.client.get(f"/v1/jobs/{job['id']}/artifacts/rollout.npz").content
    path = tmp_path / "rollout.npz"
    path.write_bytes(content)
    found = archive.load(path)
    expected = explained_here(loaded, DEMO / "sample.mp4")
    np.testing.assert_allclose(found.relevance, expected.relevance.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.logits, expected.logits.numpy(), atol=1e-5, rtol=1e-5)
    assert found.meta["checkpoint_sha256"] == loaded.sha256
    predictions = top_predictions(expected.logits.numpy(), loaded.spec)
    assert [item["label"] for item in job["result"]["predictions"]] == [
        prediction.label for prediction in predictions
    ]


def test_the_archive_can_be_read_without_this_project(house, job):
    content = house.client.get(f"/v1/jobs/{job['id']}/artifacts/rollout.npz").content
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        share = found["relevance"].sum(axis=(1, 2, 3))
    assert ((share > 0) & (share <= 1 + 1e-5)).all()


def explained_here(loaded, path: Path):
    """Decode and explain in this process, with nothing of the worker in between."""
    spec, limits = loaded.spec, video.Limits()
    request = ExplainRequest.model_validate(REQUEST)
    info = video.probe(path, limits)
    plan = sampling.plan(info.duration_seconds, request, spec)
    size = {"height": spec.height, "width": spec.width}
    crop = video.crop_of(info, **size)
    clips = video.read_clips(path, plan, crop, **size, limits=limits)
    frames = np.stack([clip.frames for clip in clips])
    return explain_clips(
        loaded.model,
        prepare_clips(frames, spec, device=torch.device("cpu"), dtype=torch.float32),
        head_fusion=request.head_fusion,
        discard_ratio=request.discard_ratio,
        start_layer=request.start_layer,
    )
