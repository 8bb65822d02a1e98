import json
import sys
from typing import Any

import numpy as np
import pytest

from rollout_core.archive import ARRAY_TYPES, OPTIONAL_ARRAY_TYPES
from rollout_core.contract import METHOD_OPTIONS, ExplainRequest, PatchQuery
from rollout_core.run import AXES, Run, describe_run
from rollout_core.specs import spec_of

SPEC = spec_of("timesformer-ssv2")
ALWAYS = dict.fromkeys(ARRAY_TYPES, np.zeros(1))
PATCH = PatchQuery(clip=1, frame=2, row=3, column=4)


def run(request: dict[str, Any], **changes: Any) -> Run:
    facts: dict[str, Any] = {
        "checkpoint_sha256": "ab" * 32,
        "crop": (1, 2, 30, 40),
        "sampling": "uniform",
        "start_seconds": 0.0,
        "end_seconds": 4.0,
        "queries": ("cls",),
    }
    return Run(spec=SPEC, request=ExplainRequest.model_validate(request), **(facts | changes))


def describe(
    request: dict[str, Any] | None = None, *, arrays: Any = ALWAYS, **changes: Any
) -> dict[str, Any]:
    return describe_run(run(request or {}, **changes), arrays)


def test_the_resolved_request_has_every_default_filled_in():
    asked = {"model": "x", "start_seconds": 1.0, "discard_ratio": 0.5}
    resolved = run(asked, start_seconds=1.0).resolved_request
    assert (resolved.model, resolved.sampling) == (SPEC.name, "uniform")
    assert (resolved.start_seconds, resolved.end_seconds) == (1.0, 4.0)
    assert (resolved.discard_ratio, resolved.layer) == (0.5, None)


@pytest.mark.parametrize(("layer", "resolved"), [(None, 11), (0, 0), (5, 5)])
def test_the_layer_of_attention_is_the_last_unless_told(layer: int | None, resolved: int):
    asked = {"method": "attention", "layer": layer}
    assert run(asked).resolved_request.layer == resolved
    assert describe(asked)["method"]["layer"] == resolved


def test_a_run_is_described_in_full():
    found = describe({"clips": "tile", "overlay": {"colormap": "magma"}}, queries=("cls", PATCH))
    assert found["model"] == "timesformer-ssv2"
    assert found["checkpoint_sha256"] == "ab" * 32
    assert found["sampling"] == {
        "name": "uniform",
        "clips": "tile",
        "frames": 8,
        "stride": None,
        "start_seconds": 0.0,
        "end_seconds": 4.0,
    }
    assert found["input"]["channel_order"] == "BGR"
    assert found["overlay"]["colormap"] == "magma"
    assert found["queries"] == ["cls", {"clip": 1, "frame": 2, "row": 3, "column": 4}]
    assert found["targets"] is None


def test_a_method_is_told_with_the_options_that_it_takes_and_no_other():
    rollout = describe({"head_fusion": "max", "discard_ratio": 0.25, "start_layer": 3})["method"]
    assert "before the residual" in rollout.pop("discard")
    assert rollout == {
        "name": "rollout",
        "head_fusion": "max",
        "discard_ratio": 0.25,
        "start_layer": 3,
        "full_rollout": False,
    }
    contribution = describe({"method": "contribution_rollout", "weighting": "alti"})["method"]
    assert contribution == {
        "name": "contribution_rollout",
        "weighting": "alti",
        "start_layer": 0,
        "full_rollout": False,
    }


@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_every_method_can_be_described(method: str):
    found = describe({"method": method})["method"]
    assert found["name"] == method
    assert ("discard" in found) == (method == "rollout")


def test_targets_are_named_clip_by_clip():
    arrays = ALWAYS | {"targets": np.array([173, 0])}
    found = describe({"method": "gradient_rollout"}, arrays=arrays)
    assert found["targets"] == [SPEC.label(173), "Approaching something with your camera"]


def test_axes_are_those_of_the_arrays_that_are_there():
    assert set(describe()["axes"]) == set(ARRAY_TYPES)
    arrays = ALWAYS | {"full_rollout": np.zeros(1)}
    assert set(describe(arrays=arrays)["axes"]) == {*ARRAY_TYPES, "full_rollout"}
    assert set(AXES) == {*ARRAY_TYPES, *OPTIONAL_ARRAY_TYPES}


def test_normalisation_is_told_of_every_array_of_relevance():
    everything = dict.fromkeys((*ARRAY_TYPES, *OPTIONAL_ARRAY_TYPES), np.zeros(1))
    scales = describe(arrays=everything)["normalisation"]
    assert set(scales) == {
        *("relevance", "query_relevance", "layer_relevance", "full_rollout"),
        *("temporal_rollout", "frame_relevance", "pictures"),
    }
    assert "sums to 1" in scales["relevance"]
    assert "sums to 1" in scales["frame_relevance"]
    assert "minimum and maximum" in scales["pictures"]
    assert set(describe()["normalisation"]) == set(scales) - {
        *("query_relevance", "layer_relevance", "full_rollout"),
    }


@pytest.mark.parametrize(
    "asked", [{"method": "gradient_rollout"}, {"method": "attention", "head_fusion": "max"}]
)
def test_what_has_no_fixed_sum_promises_none(asked: dict[str, Any]):
    scales = describe(asked)["normalisation"]
    assert "sums to 1" not in scales["relevance"] + scales["temporal_rollout"]
    assert "sums to 1" in scales["frame_relevance"]


def test_stride_is_told_where_it_was_used():
    assert describe(sampling="strided")["sampling"]["stride"] == SPEC.stride


def test_a_description_is_json():
    arrays = ALWAYS | {"targets": np.array([1])}
    asked = {"method": "gradient_rollout", "overlay": None}
    found = describe(asked, arrays=arrays, checkpoint_sha256=None, queries=(PATCH,))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_versions_are_of_what_is_installed():
    versions = describe()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]


def test_a_missing_package_has_no_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout_core.run.VERSIONED", ("numpy", "no-such-distribution"))
    assert set(describe()["versions"]) == {"python", "numpy"}
