import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from rollout_core.archive import (
    ARRAYS,
    Archive,
    describe_run,
    load,
    save,
)
from rollout_core.contract import OPTIONS_BY_METHOD, ExplainRequest, PatchQuery
from rollout_core.model.specs import spec_of
from rollout_core.resolve import ResolvedRun

REQUIRED = [name for name, spec in ARRAYS.items() if not spec.optional]
OPTIONAL = [name for name, spec in ARRAYS.items() if spec.optional]
SPEC = spec_of("timesformer-ssv2")
ALWAYS = dict.fromkeys(REQUIRED, np.zeros(1))
PATCH = PatchQuery(clip=1, frame=2, row=3, column=4)


def archive_of(**changes):
    random = np.random.default_rng(0)
    parts = {
        "relevance": random.random((2, 5, 3, 4), np.float32),
        "frame_relevance": random.random((2, 5), np.float32),
        "temporal_rollout": random.random((2, 5, 5), np.float32),
        "pts_seconds": np.linspace(0, 1, 10).reshape(2, 5),
        "frame_index": np.arange(10).reshape(2, 5),
        "crop_xywh": np.array([1, 2, 30, 40]),
        "logits": random.random((2, 7), np.float32),
        "meta": {"model": "m", "note": "naïve · × 1"},
    }
    return Archive(**(parts | changes))


def optional_arrays():
    random = np.random.default_rng(1)
    return {
        "targets": np.array([3, 1]),
        "temporal_rollout": random.random((2, 5, 5), np.float32),
        "query_relevance": random.random((3, 2, 5, 3, 4), np.float32),
        "target_relevance": random.random((4, 2, 5, 3, 4), np.float32),
        "target_classes": np.arange(8).reshape(4, 2),
        "layer_relevance": random.random((2, 6, 5, 3, 4), np.float32),
        "full_rollout": random.random((2, 61, 61)).astype(np.float16),
    }


def test_archive_has_a_field_for_each_array_and_no_other():
    defaults = {field.name: field.default for field in fields(Archive)}
    assert set(defaults) == {*ARRAYS, "meta"}
    assert {name for name, default in defaults.items() if default is None} == set(OPTIONAL)


def test_arrays_have_as_many_axes_as_documented():
    arrays = vars(archive_of(**optional_arrays()))
    assert {name: arrays[name].ndim for name in ARRAYS} == {
        name: len(spec.axes.split()) for name, spec in ARRAYS.items()
    }


def test_loaded_archive_equals_the_saved_one(tmp_path):
    archive = archive_of(**optional_arrays())
    save(tmp_path / "rollout.npz", archive)
    found = load(tmp_path / "rollout.npz")
    for name in ARRAYS:
        expected = getattr(archive, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == expected.dtype
    assert found.meta == archive.meta


def test_file_has_the_documented_names_and_no_pickle(tmp_path):
    save(tmp_path / "rollout.npz", archive_of())
    with np.load(tmp_path / "rollout.npz", allow_pickle=False) as file:
        assert set(file) == {
            "relevance",
            "frame_relevance",
            "temporal_rollout",
            "pts_seconds",
            "frame_index",
            "crop_xywh",
            "logits",
            "meta",
        }
        assert all(file[name].dtype != object for name in file)
        assert json.loads(str(file["meta"]))["model"] == "m"


@pytest.mark.parametrize("name", OPTIONAL)
def test_array_that_is_none_is_not_in_the_file(tmp_path, name):
    arrays = optional_arrays()
    save(tmp_path / "a.npz", archive_of(**(arrays | {name: None})))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(arrays) - set(file) == {name}
    assert getattr(load(tmp_path / "a.npz"), name) is None


def test_arrays_are_saved_in_their_documented_dtype(tmp_path):
    relevance = np.ones((1, 2, 3, 4), np.float64)
    full = np.ones((1, 25, 25), np.float32)
    changes = {"relevance": relevance, "crop_xywh": (1, 2, 3, 4), "full_rollout": full}
    save(tmp_path / "a.npz", archive_of(**changes))
    found = load(tmp_path / "a.npz")
    assert found.relevance.dtype == np.float32
    assert found.full_rollout.dtype == np.float16
    assert found.crop_xywh.dtype == np.int64


def test_archive_is_compressed(tmp_path):
    save(tmp_path / "a.npz", archive_of(relevance=np.zeros((8, 8, 64, 64), np.float32)))
    assert (tmp_path / "a.npz").stat().st_size < 20_000


def test_no_other_file_is_left_after_a_save(tmp_path):
    save(tmp_path / "a.npz", archive_of())
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_pickles_are_not_loaded(tmp_path):
    arrays = {name: np.zeros(1) for name in REQUIRED if name != "logits"}
    hostile = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", meta=np.array("{}"), logits=hostile, **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        load(tmp_path / "a.npz")


def test_archive_without_a_required_array_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", meta=np.array("{}"))
    with pytest.raises(KeyError):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_archive_is_refused(tmp_path, share):
    path = tmp_path / "a.npz"
    save(path, archive_of())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a complete archive"):
        load(path)


def test_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a complete archive"):
        load(tmp_path / "a.npy")


def test_import_loads_neither_torch_nor_av():
    code = "import rollout_core.result, rollout_core.pictures.heat, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "av", "PIL"}.isdisjoint(run.stdout.split())


def run(request: dict[str, Any], **changes: Any) -> ResolvedRun:
    facts: dict[str, Any] = {
        "checkpoint_sha256": "ab" * 32,
        "crop": (1, 2, 30, 40),
        "sampling": "uniform",
        "start_seconds": 0.0,
        "end_seconds": 4.0,
        "queries": ("cls",),
    }
    return ResolvedRun(
        spec=SPEC, request=ExplainRequest.model_validate(request), **(facts | changes)
    )


def describe(
    request: dict[str, Any] | None = None, *, arrays: Any = ALWAYS, **changes: Any
) -> dict[str, Any]:
    return describe_run(run(request or {}, **changes), arrays)


def test_resolved_request_has_all_defaults_filled_in():
    asked = {"model": "x", "start_seconds": 1.0, "discard_ratio": 0.5}
    resolved = run(asked, start_seconds=1.0).resolved_request
    assert (resolved.model, resolved.sampling) == (SPEC.name, "uniform")
    assert (resolved.start_seconds, resolved.end_seconds) == (1.0, 4.0)
    assert (resolved.discard_ratio, resolved.layer) == (0.5, None)


@pytest.mark.parametrize(("layer", "resolved"), [(None, 11), (0, 0), (5, 5)])
def test_default_layer_of_attention_is_the_last(layer: int | None, resolved: int):
    asked = {"method": "attention", "layer": layer}
    assert run(asked).resolved_request.layer == resolved
    assert describe(asked)["method"]["layer"] == resolved


def test_metadata_describes_the_run():
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


def test_metadata_has_the_options_that_the_method_uses_and_no_others():
    rollout = describe({"head_fusion": "max", "discard_ratio": 0.25, "start_layer": 3})["method"]
    assert "before the residual" in rollout.pop("discard")
    assert rollout == {
        "name": "rollout",
        "head_fusion": "max",
        "discard_ratio": 0.25,
        "start_layer": 3,
        "full_rollout": False,
    }
    contribution = describe({"method": "contribution_rollout", "weighting": "deviation"})["method"]
    assert contribution == {
        "name": "contribution_rollout",
        "weighting": "deviation",
        "start_layer": 0,
        "target": None,
        "against": None,
        "full_rollout": False,
    }


@pytest.mark.parametrize("method", OPTIONS_BY_METHOD)
def test_every_method_can_be_described(method: str):
    found = describe({"method": method})["method"]
    assert found["name"] == method
    assert ("discard" in found) == (method == "rollout")


def test_metadata_has_the_label_of_each_clips_target():
    arrays = ALWAYS | {"targets": np.array([173, 0])}
    found = describe({"method": "gradient_rollout"}, arrays=arrays)
    assert found["targets"] == [SPEC.label(173), "Approaching something with your camera"]


def test_metadata_has_the_axes_of_the_arrays_that_are_present():
    assert set(describe()["axes"]) == set(REQUIRED)
    arrays = ALWAYS | {"full_rollout": np.zeros(1)}
    assert set(describe(arrays=arrays)["axes"]) == {*REQUIRED, "full_rollout"}


def test_metadata_has_the_normalisation_of_each_array_of_relevance():
    everything = dict.fromkeys(ARRAYS, np.zeros(1))
    scales = describe(arrays=everything)["normalisation"]
    assert set(scales) == {
        *("relevance", "query_relevance", "target_relevance", "layer_relevance", "full_rollout"),
        *("temporal_rollout", "frame_relevance", "pictures"),
    }
    assert "sums to 1" in scales["relevance"]
    assert "sums to 1" in scales["frame_relevance"]
    assert "minimum and maximum" in scales["pictures"]
    assert set(describe()["normalisation"]) == {"relevance", "frame_relevance", "pictures"}


@pytest.mark.parametrize(
    "asked", [{"method": "gradient_rollout"}, {"method": "attention", "head_fusion": "max"}]
)
def test_no_sum_is_documented_where_it_is_not_fixed(asked: dict[str, Any]):
    scales = describe(asked, arrays=ALWAYS | {"temporal_rollout": np.zeros(1)})["normalisation"]
    assert "sums to 1" not in scales["relevance"] + scales["temporal_rollout"]
    assert "sums to 1" in scales["frame_relevance"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "contribution_rollout", "target": 3}, "relative to the mean of all logits"),
        ({"method": "difference"}, "the target's logit minus that of its reference"),
    ],
)
def test_maps_of_classes_are_said_to_have_signs(asked: dict[str, Any], words: str):
    scales = describe(asked, arrays=ALWAYS | {"target_relevance": np.zeros(1)})["normalisation"]
    for name in ("relevance", "target_relevance"):
        assert "with signs" in scales[name]
        assert words in scales[name]


def test_metadata_has_the_stride_of_strided_sampling():
    assert describe(sampling="strided")["sampling"]["stride"] == SPEC.stride


def test_metadata_is_json():
    arrays = ALWAYS | {"targets": np.array([1])}
    asked = {"method": "gradient_rollout", "overlay": None}
    found = describe(asked, arrays=arrays, checkpoint_sha256=None, queries=(PATCH,))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_metadata_has_the_installed_versions():
    versions = describe()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]


def test_missing_package_has_no_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout_core.archive.RECORDED_PACKAGES", ("numpy", "no-such-distribution"))
    assert set(describe()["versions"]) == {"python", "numpy"}
