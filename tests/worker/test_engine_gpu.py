"""Which GPU a worker takes: a table of cases with a faked NVML, and real claims."""

import logging

import pytest

from rollout_core.errors import DeviceError
from tests.system.processes import ROOT
from tests.worker.fake_nvml import GIB, FakeGpu, FakeNvml
from tests.worker.gpu_cases import CASES, MACHINES, NONE, REFUSED, WAITS, Case, table
from worker.engine_gpu import GpuSearch
from worker.gpu_claims import GpuClaims


class Waiting(Exception):
    """The worker waits for a free GPU."""


def stop_waiting():
    raise Waiting


@pytest.fixture
def claims(tmp_path):
    return GpuClaims(tmp_path / "gpus")


def outcome(case: Case, claims: GpuClaims) -> str:
    """Return what the worker of a case takes, as `Case.takes` says it."""
    search = GpuSearch(FakeNvml(MACHINES[case.gpus]), claims, wish=case.wish, visible=case.visible)
    try:
        gpu = search.claim(share=case.share, idle=stop_waiting)
    except Waiting:
        return WAITS
    except DeviceError:
        return REFUSED
    return NONE if gpu is None else gpu.environment["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_worker_takes(case, claims):
    for uuid in case.claimed:
        assert claims.take([uuid], share=True)
    assert outcome(case, claims) == case.takes


def test_the_document_has_the_table():
    text = (ROOT / "docs" / "operations.md").read_text()
    assert "\n".join(table()) in text, "python -m tests.worker.gpu_cases prints it"


def test_a_worker_that_waits_says_so_once_and_takes_the_gpu_that_becomes_free(claims, caplog):
    nvml = FakeNvml((FakeGpu("GPU-a"), FakeGpu("GPU-b", used_gib=20)))
    others = [claims.take([uuid]) for uuid in ("GPU-a", "GPU-b")]
    pauses = []

    def idle():
        pauses.append(len(pauses))
        if len(pauses) == 3:
            others[1].release()

    with caplog.at_level(logging.INFO):
        gpu = GpuSearch(nvml, claims, wish="cuda", visible=None).claim(share=False, idle=idle)

    assert gpu.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert len(pauses) == 3
    waiting, claimed = caplog.messages
    assert "(cuda:0 NVIDIA H100 80GB HBM3 (GPU-a), cuda:1 NVIDIA" in waiting
    assert "waiting until one is free" in waiting
    assert claimed == "claimed cuda:1 NVIDIA H100 80GB HBM3 (GPU-b), 60.0 GiB free"


def test_a_gpu_that_appears_is_found_while_waiting(claims):
    nvml = FakeNvml((FakeGpu("GPU-a"),))
    claims.take(["GPU-a"])

    def idle():
        nvml.gpus = (*nvml.gpus, FakeGpu("GPU-b"))

    gpu = GpuSearch(nvml, claims, wish="auto", visible=None).claim(share=False, idle=idle)
    assert str(gpu) == "cuda:1 NVIDIA H100 80GB HBM3 (GPU-b)"


def test_its_memory_is_measured_and_it_can_be_released(claims):
    nvml = FakeNvml((FakeGpu("GPU-a", used_gib=20),))
    gpu = GpuSearch(nvml, claims, wish="auto", visible=None).claim(share=False, idle=stop_waiting)
    assert gpu.measure().memory_used_bytes == 20 * GIB
    assert claims.take(["GPU-a"]) is None
    gpu.release()
    gpu.release()
    assert claims.take(["GPU-a"])


@pytest.mark.parametrize(
    ("gpus", "wish", "message"),
    [
        ("none", "cuda:0", "there is no GPU cuda:0 here; there is none"),
        ("a", "cuda:1", r"no GPU cuda:1 here; there is cuda:0 NVIDIA H100 80GB HBM3 \(GPU-a\)"),
        ("a-1, a-2", "GPU-a", r"GPU-a is the beginning of several: cuda:0 .*\(GPU-a-1\), cuda:1"),
    ],
)
def test_a_wish_that_cannot_be_met_is_told_with_what_is_there(claims, gpus, wish, message):
    search = GpuSearch(FakeNvml(MACHINES[gpus]), claims, wish=wish, visible=None)
    with pytest.raises(DeviceError, match=message):
        search.claim(share=False, idle=stop_waiting)
