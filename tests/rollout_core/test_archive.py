import json
import subprocess
import sys

import numpy as np
import pytest

from rollout_core.archive import Archive, Run, describe_run, load, save
from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.specs import spec_of

SPEC = spec_of("timesformer-ssv2")
CROP = (1, 2, 30, 40)


def archive_of(**changes):
    random = np.random.default_rng(0)
    parts = {
        "relevance": random.random((2, 5, 3, 4), np.float32),
        "pts_seconds": np.linspace(0, 1, 10).reshape(2, 5),
        "frame_index": np.arange(10).reshape(2, 5),
        "crop_xywh": np.array([1, 2, 30, 40]),
        "logits": random.random((2, 7), np.float32),
        "meta": {"model": "m", "note": "naïve · × 1"},
    }
    return Archive(**(parts | changes))


def describe(request=None, **changes):
    facts = {
        "checkpoint_sha256": "ab" * 32,
        "sampling": "uniform",
        "start_seconds": 0.0,
        "end_seconds": 4.0,
    }
    return describe_run(
        Run(spec=SPEC, request=request or ExplainRequest(), crop=CROP, **(facts | changes))
    )


def test_what_is_saved_is_loaded(tmp_path):
    archive = archive_of()
    save(tmp_path / "rollout.npz", archive)
    found = load(tmp_path / "rollout.npz")
    for name in ("relevance", "pts_seconds", "frame_index", "crop_xywh", "logits"):
        expected = getattr(archive, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == expected.dtype
    assert found.meta == archive.meta


def test_file_has_the_names_that_were_promised_and_no_pickle(tmp_path):
    save(tmp_path / "rollout.npz", archive_of())
    with np.load(tmp_path / "rollout.npz", allow_pickle=False) as file:
        assert set(file) == {
            "relevance",
            "pts_seconds",
            "frame_index",
            "crop_xywh",
            "logits",
            "meta",
        }
        assert all(file[name].dtype != object for name in file)
        assert json.loads(str(file["meta"]))["model"] == "m"


def test_types_are_fixed_whatever_is_given(tmp_path):
    relevance = np.ones((1, 2, 3, 4), np.float64)
    save(tmp_path / "a.npz", archive_of(relevance=relevance, crop_xywh=(1, 2, 3, 4)))
    found = load(tmp_path / "a.npz")
    assert found.relevance.dtype == np.float32
    assert found.crop_xywh.dtype == np.int64


def test_archive_is_compressed(tmp_path):
    save(tmp_path / "a.npz", archive_of(relevance=np.zeros((8, 8, 64, 64), np.float32)))
    assert (tmp_path / "a.npz").stat().st_size < 20_000


def test_nothing_is_left_beside_an_archive(tmp_path):
    save(tmp_path / "a.npz", archive_of())
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_pickles_are_not_loaded(tmp_path):
    arrays = {
        name: np.zeros(1) for name in ("relevance", "pts_seconds", "frame_index", "crop_xywh")
    }
    hostile = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", meta=np.array("{}"), logits=hostile, **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        load(tmp_path / "a.npz")


def test_incomplete_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", meta=np.array("{}"))
    with pytest.raises(KeyError):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_an_archive_cut_short_is_refused(tmp_path, share):
    path = tmp_path / "a.npz"
    save(path, archive_of())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="no whole archive"):
        load(path)


def test_a_bare_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match="no whole archive"):
        load(tmp_path / "a.npy")


def test_run_is_described_in_full():
    request = ExplainRequest(
        head_fusion="max",
        discard_ratio=0.25,
        start_layer=3,
        clips="tile",
        overlay=Overlay(colormap="magma"),
    )
    found = describe(request)
    assert found["model"] == "timesformer-ssv2"
    assert found["checkpoint_sha256"] == "ab" * 32
    assert found["method"] == {
        "name": "rollout",
        "head_fusion": "max",
        "discard_ratio": 0.25,
        "start_layer": 3,
    }
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
    assert found["normalisation"]["relevance"].startswith("none")
    assert "minimum and maximum" in found["normalisation"]["pictures"]


def test_stride_is_told_where_it_was_used():
    assert describe(sampling="strided")["sampling"]["stride"] == SPEC.stride


def test_description_is_json(tmp_path):
    meta = describe(ExplainRequest(overlay=None), checkpoint_sha256=None)
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta
    save(tmp_path / "a.npz", archive_of(meta=meta))
    assert load(tmp_path / "a.npz").meta == meta


def test_versions_are_of_what_is_installed():
    versions = describe()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]


def test_a_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr("rollout_core.archive.VERSIONED", ("numpy", "no-such-distribution"))
    assert set(describe()["versions"]) == {"python", "numpy"}


def test_importing_it_brings_neither_torch_nor_av():
    code = "import rollout_core.archive, rollout_core.colormap, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "av", "PIL"}.isdisjoint(run.stdout.split())
