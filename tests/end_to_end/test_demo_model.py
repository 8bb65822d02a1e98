"""The real engine over HTTP: its results are those of the model on the same frames."""

import io
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollout_core import archive
from rollout_core.contract import ExplainRequest, PatchQuery
from rollout_core.model.checkpoints import open_model
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.faithfulness import FILLS
from rollout_core.resolve import explained_classes
from rollout_core.result import top_predictions
from rollout_core.video import sampling
from rollout_core.video.clips import Limits, crop_of, probe, read_clips

DEMO = Path(str(files("rollout_core") / "demo"))
PATCH = PatchQuery(frame=2, row=3, column=5)
REQUESTS: list[dict[str, Any]] = [
    {"head_fusion": "max", "discard_ratio": 0.1, "start_layer": 1},
    {"method": "attention", "layer": 2, "per_layer": True},
    {
        "method": "gradient_rollout",
        "target": "a thing swings",
        "query": ["cls", PATCH.model_dump()],
    },
    {"method": "contribution_rollout", "full_rollout": True},
    {
        "method": "contribution_rollout",
        "target": ["a thing swings", "predicted", "a thing moves left"],
        "per_layer": True,
    },
    {"method": "difference", "target": ["predicted", "a thing rises"], "per_layer": True},
    {"method": "contribution_rollout", "weighting": "deviation"},
    {"method": "contribution_rollout", "weighting": "projection", "start_layer": 1},
]

OF_TARGETS = ("target_relevance", "target_classes")
"""Arrays whose first axis is the target in the file, and the clip in an explanation."""


@pytest.fixture(scope="module")
def worker(system):
    worker = system.worker("--engine", "torch", "--model", "moving-things", "--device", "cpu")
    try:
        system.await_models("moving-things")
        yield worker
    finally:
        assert worker.stop() == 0


def explain(system, **request: Any) -> dict[str, Any]:
    sample = (DEMO / "sample.mp4").read_bytes()
    job_id = system.accepted(sample, "moving-things", overlay=None, **request)
    job = system.wait(job_id, seconds=300)
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture(scope="module", params=REQUESTS, ids=lambda wanted: "-".join(map(str, wanted)))
def asked(system, worker, request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request and its job."""
    return request.param, explain(system, **request.param)


@pytest.fixture(scope="module")
def loaded():
    return open_model("moving-things", device="cpu", dtype=torch.float32)


def test_the_sample_clip_is_recognised(asked):
    label = (DEMO / "sample.label").read_text().strip()
    assert asked[1]["result"]["predictions"][0]["label"] == label


def test_the_result_equals_the_models_on_the_same_frames(system, asked, loaded, tmp_path):
    request, job = asked
    content = system.client.get(f"/v1/jobs/{job['id']}/artifacts/rollout.npz").content
    path = tmp_path / "rollout.npz"
    path.write_bytes(content)
    found = archive.load(path)
    expected = explain_in_process(loaded, DEMO / "sample.mp4", request)
    for name, tensor in vars(expected).items():
        if tensor is not None and name != "query_relevance":
            of_clips = tensor.numpy()
            stored = of_clips.swapaxes(0, 1) if name in OF_TARGETS else of_clips
            np.testing.assert_allclose(getattr(found, name), stored, atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(found.relevance, expected.relevance.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        found.frame_relevance, expected.frame_relevance.numpy(), atol=1e-5, rtol=0
    )
    assert found.meta["checkpoint_sha256"] == loaded.sha256
    predictions = top_predictions(expected.logits.numpy(), loaded.spec)
    assert [item["label"] for item in job["result"]["predictions"]] == [
        prediction.label for prediction in predictions
    ]


def test_the_archive_can_be_read_without_this_project(system, asked):
    content = system.client.get(f"/v1/jobs/{asked[1]['id']}/artifacts/rollout.npz").content
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        relevance, seconds = found["relevance"], found["pts_seconds"]
    assert relevance.shape == (1, 8, 14, 14)
    assert seconds.shape == (1, 8)
    assert (relevance.sum(axis=(1, 2, 3)) > 0).all()


def test_the_best_map_is_more_faithful_than_a_random_one(system, worker):
    job = explain(system, method="contribution_rollout", faithfulness=True)
    folder = f"/v1/jobs/{job['id']}/artifacts"
    measured = system.client.get(f"{folder}/result.json").json()["faithfulness"]
    assert measured["target"]["label"] == (DEMO / "sample.label").read_text().strip()
    assert [fill["fill"] for fill in measured["fills"]] == list(FILLS)
    deletions = [fill["deletion"] for fill in measured["fills"]]
    most_first, at_random = (
        sum(scores[name] for scores in deletions) for name in ("most_first", "random_mean")
    )
    assert most_first < at_random
    picture = system.client.get(f"{folder}/faithfulness.png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")


def explain_in_process(loaded, path: Path, wanted: dict[str, Any]) -> Explanation:
    """Decode and explain in this process, without the worker."""
    spec, limits = loaded.spec, Limits()
    request = ExplainRequest.model_validate(wanted)
    info = probe(path, limits)
    plan = sampling.plan(info.duration_seconds, request, spec)
    size = {"height": spec.height, "width": spec.width}
    crop = crop_of(info, **size)
    clips = read_clips(path, plan, crop, **size, limits=limits)
    frames = np.stack([clip.frames for clip in clips])
    return explain_clips(
        loaded.model,
        prepare_clips(frames, spec, device=torch.device("cpu"), dtype=torch.float32),
        request.method_options,
        target=[explained_classes(request, spec)] if request.target is not None else None,
        queries=request.queries,
    )
