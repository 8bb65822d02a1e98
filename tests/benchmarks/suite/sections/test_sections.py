"""Each section runs, with next to nothing to measure, and its tables can be written."""

import json
import math

import pytest

from tests.benchmarks.suite import one, targets
from tests.benchmarks.suite.report import describe_section
from tests.benchmarks.suite.section import Settings
from tests.benchmarks.suite.sections import methods

TINY = Settings("tiny")


@pytest.fixture
def measure(monkeypatch):
    """Return a function that runs a section and returns what the report gets."""
    monkeypatch.setattr("tests.benchmarks.suite.processes.QUIET_SECONDS", 0.1)

    def run(name):
        found = json.loads(json.dumps(one.measure(f"{one.PACKAGE}.{name}", TINY)))
        assert describe_section(found).count("\n### ") >= len(found["tables"]) - 1
        assert all(numbers(value) for value in found["figures"].values())
        return found

    return run


def numbers(value):
    """Whether a figure is a text, or finite numbers that are not negative."""
    values = value if isinstance(value, list) else [value]
    return isinstance(value, str) or all(math.isfinite(one) and one >= 0 for one in values)


def rows_of(found, table=0):
    return found["tables"][table]["rows"]


def test_forward(measure):
    found = measure("forward")
    assert [row["precision"] for row in rows_of(found)] == ["float32", "bfloat16"]
    assert {name for name in found["figures"] if name.startswith("base")} >= {
        target.removeprefix("forward/") for target in targets.ON_CPU[1].figures
    }


def test_rollout(measure):
    found = measure("rollout")
    assert [row["tokens"] for row in rows_of(found)] == [13, 25]
    assert found["figures"]["factored against dense: largest difference"] < 1e-6
    assert [row["rows"] for row in rows_of(found, 1)] == [3, 5]
    assert all(row["largest difference"] < 1e-5 for row in rows_of(found, 2))


def test_rollout_that_does_not_fit_says_what_it_needs(monkeypatch):
    from tests.benchmarks.suite.sections import rollout

    monkeypatch.setattr(rollout, "free_bytes", lambda device: 1)
    first, _ = rollout.run(TINY).tables[0].rows
    assert first["dense, ms"] == "needs 0.0 GiB"
    assert first["dense / factored"] is None


def test_peers(measure):
    found = measure("peers")
    assert len(rows_of(found)) == 6
    assert "8 frames: peer / ours in bfloat16" in found["figures"]


def test_peers_give_the_same_relevance():
    import torch

    from tests.benchmarks.suite.sections import peers

    (architecture,) = peers.SHAPES["tiny"]
    calls = peers.explanations(architecture, "cpu", torch.float32)
    ours, dense, space = (calls[name]() for name in (peers.OURS, peers.PEER, peers.SPATIAL))
    torch.testing.assert_close(dense, ours, rtol=1e-4, atol=1e-6)
    assert space.shape == ours.shape
    assert not torch.allclose(space, ours, rtol=0.1)


def test_methods(measure):
    found = measure("methods")
    assert len(rows_of(found)) == 1 + len(methods.METHODS) + len(methods.CLASSES)
    assert rows_of(found)[0]["× forward"] == [1, 1, 1]


def test_videos(measure):
    found = measure("videos")
    assert found["figures"]["tiny: bytes / re-encode"] > 0.1
    (quality,) = rows_of(found, 2)
    assert 25 < quality["overlay, dB"] < 60
    assert 25 < quality["re-encode, dB"] < 60


def test_job(measure):
    found = measure("job")
    assert [row["job"] for row in rows_of(found)] == ["small, overlay", "small, no overlay"]
    assert found["figures"]["small, overlay: precision"] == "float32"
    floors, job = rows_of(found, 1)[:2]
    assert floors["re-encode"] > 0
    assert job["sum"] == pytest.approx(
        sum(v for k, v in job.items() if k not in ("job", "sum") and v)
    )
    walls = rows_of(found)[0]["wall, s"]
    assert walls[1] <= job["sum"] * 1.001


def test_throughput(measure):
    found = measure("throughput")
    assert [row["jobs"] for row in rows_of(found)] == [1, 2]
    assert all(0 < row["engine busy"] < 1 for row in rows_of(found))


def test_memory(measure):
    found = measure("memory")
    assert all(row[kind] > 10 for row in rows_of(found) for kind in ("API", "engine", "media"))
    assert 0.9 < found["figures"]["longest / shortest"] < 1.3


def test_overhead(measure):
    found = measure("overhead")
    ways = [row["way to wait"] for row in rows_of(found)]
    assert ways[:4] == ["polling", "`?wait=`", "`Prefer: wait=`", "`/events`"]
    assert rows_of(found)[4]["p50 / bare RQ"] == 1


def test_start(measure):
    found = measure("start")
    assert found["figures"]["worker: announced, s"][0] > found["figures"]["bare interpreter, s"][0]
    assert rows_of(found, 1)[0]["processes"] >= 4


def test_card(measure):
    found = measure("card")
    assert [row["batch"] for row in rows_of(found)] == [1, 2]
    assert found["figures"]["matrix rate, TFLOP/s"] > 0


def test_card_without_memory_goes_on(monkeypatch):
    import torch

    from tests.benchmarks.suite.sections import card

    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(card, "measure", fail)
    rows = card.run(TINY).tables[0].rows
    assert [row["memory, MiB"] for row in rows] == ["out of memory"] * 2


def test_flop_of_a_forward_is_that_of_its_products():
    from torch.utils.flop_counter import FlopCounterMode

    from tests.benchmarks.suite.models import TINY as SIZE
    from tests.benchmarks.suite.models import explicit, random_clips, random_model, using_kernel
    from tests.benchmarks.suite.sections.card import forward_flop

    model = random_model(SIZE)
    with FlopCounterMode(display=False) as counter, using_kernel(model, explicit):
        model(random_clips(model))
    head = 2 * SIZE.dim * SIZE.classes
    # The MLP of the copies of the cls token runs once for each frame.
    copies = 2 * SIZE.depth * (SIZE.frames - 1) * 2 * SIZE.dim * SIZE.mlp_dim
    assert forward_flop(SIZE) + head + copies == counter.get_total_flops()
