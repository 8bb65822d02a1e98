import json
import subprocess
import sys

import numpy as np
import pytest

from rollout_core.archive import ARRAY_TYPES, OPTIONAL_ARRAY_TYPES, Archive, load, save


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
        "query_relevance": random.random((3, 2, 5, 3, 4), np.float32),
        "layer_relevance": random.random((2, 6, 5, 3, 4), np.float32),
        "full_rollout": random.random((2, 61, 61)).astype(np.float16),
    }


def test_what_is_saved_is_loaded(tmp_path):
    archive = archive_of(**optional_arrays())
    save(tmp_path / "rollout.npz", archive)
    found = load(tmp_path / "rollout.npz")
    for name in ARRAY_TYPES | OPTIONAL_ARRAY_TYPES:
        expected = getattr(archive, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == expected.dtype
    assert found.meta == archive.meta


def test_file_has_the_names_that_were_promised_and_no_pickle(tmp_path):
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


@pytest.mark.parametrize("name", OPTIONAL_ARRAY_TYPES)
def test_what_was_not_asked_for_is_not_in_the_file(tmp_path, name):
    arrays = optional_arrays()
    save(tmp_path / "a.npz", archive_of(**(arrays | {name: None})))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(arrays) - set(file) == {name}
    assert getattr(load(tmp_path / "a.npz"), name) is None


def test_types_are_fixed_whatever_is_given(tmp_path):
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


def test_nothing_is_left_beside_an_archive(tmp_path):
    save(tmp_path / "a.npz", archive_of())
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_pickles_are_not_loaded(tmp_path):
    arrays = {name: np.zeros(1) for name in ARRAY_TYPES if name != "logits"}
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


def test_importing_it_brings_neither_torch_nor_av():
    code = "import rollout_core.results, rollout_core.colormap, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "av", "PIL"}.isdisjoint(run.stdout.split())
