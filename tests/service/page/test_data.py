"""The arithmetic of the page, in Node, gives what the product computes in Python."""

import json
from pathlib import Path

import numpy as np
import pytest

from rollout_core.explained import explain_file
from rollout_core.model.checkpoints import load_named
from rollout_core.model.devices import open_device
from rollout_core.pictures.heat import heat_track, rgb_table
from scripts.page_colormaps import NAMES
from tests.system.node import check_node_tests

HERE = Path(__file__).parent
SAMPLE = Path(__file__).parents[3] / "rollout_core" / "demo" / "sample.mp4"
PATCHES = [(0, 0, 0), (3, 4, 5), (7, 2, 1)]
SECONDS = [-1.0, 0.0, 0.11, 1.234, 4.0, 7.77, 9.5, 60.0]

REQUESTS = {
    "rollout": {"full_rollout": True},
    "contribution_rollout": {"method": "contribution_rollout", "full_rollout": True},
    "attention": {"method": "attention"},
    "tile": {"clips": "tile", "sampling": "strided"},
    "repeated_frames": {"end_seconds": 0.2, "full_rollout": True},
}
"""Results by name. The span of `repeated_frames` has fewer frames than a clip."""


def track_of(relevance, arrays):
    """Return a heat track, and its maps at some times, as JSON."""
    track = heat_track(relevance, pts_seconds=arrays.pts_seconds, frame_index=arrays.frame_index)
    return {
        "frame_index": track.frame_index.tolist(),
        "times": track.pts_seconds.tolist(),
        "shares": track.share.tolist(),
        "heat": track.heat.ravel().tolist(),
        "at": [
            {"seconds": seconds, "map": track.at(seconds).ravel().tolist()} for seconds in SECONDS
        ],
    }


def patches_of(model, request):
    """Return what the service answers to a query for each patch: relevance, and the heat track."""
    queries = [{"frame": t, "row": h, "column": w} for t, h, w in PATCHES]
    asked = {name: value for name, value in request.items() if name != "full_rollout"}
    arrays = explain_file(SAMPLE, model, query=queries, **asked).arrays
    return [
        query | {"relevance": relevance.ravel().tolist(), "track": track_of(relevance, arrays)}
        for query, relevance in zip(queries, arrays.query_relevance, strict=True)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make results, each in a folder, with `expected.json` beside its files."""
    folder = tmp_path_factory.mktemp("results")
    model = load_named("moving-things", open_device("cpu"))
    for name, request in REQUESTS.items():
        explained = explain_file(SAMPLE, model, per_layer=True, overlay=None, **request)
        explained.save(folder / name)
        arrays = explained.arrays
        layers = np.moveaxis(arrays.layer_relevance, 1, 0)
        expected = {
            "shape": arrays.relevance.shape,
            "overall": track_of(arrays.relevance, arrays),
            "layers": [track_of(layer, arrays) for layer in layers],
            "temporal": arrays.temporal_rollout.tolist(),
            "pts_seconds": arrays.pts_seconds.tolist(),
            "crop": arrays.crop_xywh.tolist(),
            "patches": patches_of(model, request) if "full_rollout" in request else [],
        }
        (folder / name / "expected.json").write_text(json.dumps(expected))
    save_targets(folder / "targets", model)
    np.savez(folder / "stored.npz", text="ünï🎬", whole=np.arange(6).reshape(2, 3), half=halves())
    np.savez(folder / "strange.npz", words=np.array(["a", "ünï"]), flags=np.array([True]))
    return folder


def save_targets(folder, model):
    """Make a result for several classes, with the heat track of each."""
    explained = explain_file(
        SAMPLE, model, method="contribution_rollout", target=[2, "predicted", 0], overlay=None
    )
    explained.save(folder)
    arrays = explained.arrays
    expected = {
        "classes": arrays.target_classes[:, 0].tolist(),
        "tracks": [track_of(relevance, arrays) for relevance in arrays.target_relevance],
    }
    (folder / "expected.json").write_text(json.dumps(expected))


def halves():
    """Return every float16."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_results_are_what_the_tests_need(folder):
    expected = json.loads((folder / "repeated_frames" / "expected.json").read_text())
    assert len(expected["overall"]["times"]) == 5 < 8
    assert json.loads((folder / "tile" / "expected.json").read_text())["shape"][0] > 1


@pytest.mark.parametrize("module", ["archive", "exploration", "heat", "drawing", "geometry"])
def test_module(module, folder):
    check_node_tests(HERE / f"{module}.test.mjs", folder=str(folder))


def test_colormaps_are_those_of_the_overlay():
    tables = {name: rgb_table(name).ravel().tolist() for name in NAMES}

    check_node_tests(HERE / "colormaps.test.mjs", tables=tables)
