"""The arrays of rollout.npz: axes, sums and the model's answer."""

import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollout_core.testing.contract.caller import Caller, Json

Arrays = dict[str, NDArray[Any]]


def arrays_of(caller: Caller, job: Json) -> Arrays:
    content = io.BytesIO(caller.fetch(job, "rollout.npz").body)
    with np.load(content, allow_pickle=False) as found:
        return dict(found)


@pytest.fixture(scope="session")
def arrays(caller: Caller, done: Json) -> Arrays:
    return arrays_of(caller, done)


def grid(served: Json) -> tuple[int, int, int]:
    spec = served["spec"]
    h, w = spec["height"] // spec["patch_height"], spec["width"] // spec["patch_width"]
    return spec["frames"], h, w


def test_arrays_have_the_axes_of_the_model(arrays: Arrays, served: Json) -> None:
    t, h, w = grid(served)
    spec = served["spec"]
    assert arrays["relevance"].shape == (1, t, h, w)
    assert arrays["frame_relevance"].shape == (1, t)
    assert arrays["temporal_rollout"].shape == (1, t, t)
    assert arrays["pts_seconds"].shape == arrays["frame_index"].shape == (1, t)
    assert arrays["logits"].shape == (1, spec["classes"])
    assert arrays["layer_relevance"].shape == (1, spec["depth"], t, h, w)
    assert arrays["crop_xywh"].shape == (4,)


def test_relevance_is_a_share(arrays: Arrays) -> None:
    relevance = arrays["relevance"]
    assert relevance.dtype == np.float32
    assert relevance.min() >= 0
    assert 0 < relevance.sum() <= 1.0001
    shares = relevance.sum(axis=(2, 3)) / relevance.sum()
    np.testing.assert_allclose(arrays["frame_relevance"], shares, atol=1e-5)


def test_frames_follow_each_other_in_time(arrays: Arrays) -> None:
    assert (np.diff(arrays["pts_seconds"]) > 0).all()
    assert (np.diff(arrays["frame_index"]) > 0).all()
    assert arrays["pts_seconds"].min() >= 0


def test_predictions_are_those_of_the_logits(arrays: Arrays, done: Json) -> None:
    logits = arrays["logits"][0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    first = done["result"]["predictions"][0]
    assert first["index"] == probabilities.argmax()
    assert first["probability"] == pytest.approx(probabilities.max(), abs=1e-4)


def test_meta_tells_how_it_was_made(arrays: Arrays, caller: Caller) -> None:
    meta = json.loads(str(arrays["meta"]))
    assert meta["model"] == caller.model
    assert meta["method"]["name"] == "rollout"


def test_tiles_have_one_clip_each(caller: Caller) -> None:
    job = caller.finish(clips="tile")
    clips = job["result"]["clips"]
    assert arrays_of(caller, job)["relevance"].shape[0] == clips >= 1


def test_each_query_has_a_map(caller: Caller) -> None:
    queries = ["cls", {"frame": 1, "row": 0, "column": 1}]
    found = arrays_of(caller, caller.finish(query=queries))
    assert found["query_relevance"].shape == (2, *found["relevance"].shape)
    np.testing.assert_array_equal(found["query_relevance"][0], found["relevance"])


def test_each_target_has_a_map_with_signs(caller: Caller) -> None:
    for method in ("contribution_rollout", "difference"):
        job = caller.finish(method=method, target=[1, "predicted", 0])
        found, best = arrays_of(caller, job), job["result"]["predictions"][0]["index"]
        assert found["target_classes"].tolist() == [[1], [best], [0]]
        assert found["target_relevance"].shape == (3, *found["relevance"].shape)
        np.testing.assert_array_equal(found["target_relevance"][0], found["relevance"])
        assert found["relevance"].min() < 0 < found["relevance"].max()
        positive = found["relevance"].clip(min=0).sum(axis=(2, 3))
        shares = positive / positive.sum()
        np.testing.assert_allclose(found["frame_relevance"], shares, atol=1e-5)
        assert "temporal_rollout" not in found


def test_the_classs_relevance_depends_on_the_class(caller: Caller) -> None:
    method = "gradient_rollout"
    maps = [arrays_of(caller, caller.finish(method=method, target=target)) for target in (0, 1)]
    assert [found["targets"].tolist() for found in maps] == [[0], [1]]
    assert not np.array_equal(maps[0]["relevance"], maps[1]["relevance"])
