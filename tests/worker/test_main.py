import logging
import sys

import pytest

from tests.worker.fake_nvml import FakeGpu, FakeLibraryNotFound, FakeNvml
from worker import __main__ as main_module
from worker.messages import Confinement
from worker.settings import Settings

WHOLE = Confinement(landlock_abi=4, seccomp=True)
PARTS = [
    Confinement(landlock_abi=None, seccomp=True),
    Confinement(landlock_abi=4, seccomp=False),
]


def confinement(monkeypatch, found: Confinement, **settings: object) -> Confinement:
    monkeypatch.setattr(main_module, "probe", lambda: found)
    return main_module._confinement(Settings(engine="fake", **settings))


@pytest.mark.parametrize("found", [WHOLE, *PARTS])
def test_sandbox_layers_are_logged_at_start(monkeypatch, caplog, found):
    with caplog.at_level(logging.INFO):
        assert confinement(monkeypatch, found) == found
    assert caplog.messages == [f"media is confined: {found}"]


@pytest.mark.parametrize("found", PARTS)
def test_required_sandbox_layer_missing_ends_the_worker(monkeypatch, found):
    with pytest.raises(SystemExit, match=r"sandbox is incomplete.*no (Landlock|seccomp) here"):
        confinement(monkeypatch, found, require_confinement=True)
    assert confinement(monkeypatch, WHOLE, require_confinement=True) == WHOLE


def test_media_must_reach_the_sandbox_that_was_probed():
    children = main_module._children(Settings(engine="fake"), WHOLE)
    try:
        assert children._media_options.confinement == WHOLE
    finally:
        children.close()


TWO = FakeNvml((FakeGpu("GPU-a"), FakeGpu("GPU-b")))


def claim_gpu(monkeypatch, tmp_path, nvml=TWO, **settings: object):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    settings = {"engine": "torch", "data_dir": tmp_path / "data"} | settings
    return main_module._claim_gpu(Settings(**settings))


def test_a_gpu_is_claimed_in_the_data_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = claim_gpu(monkeypatch, tmp_path, device="cuda")
    assert gpu.environment == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert (tmp_path / "data" / "gpus" / "GPU-a.0").exists()
    other = claim_gpu(monkeypatch, tmp_path, device="auto")
    assert other.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    third = claim_gpu(monkeypatch, tmp_path, device="cuda:1", share_gpu=True)
    assert third.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    for each in (gpu, other, third):
        each.release()


def test_the_gpus_are_those_that_are_visible(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu = claim_gpu(monkeypatch, tmp_path)
    assert gpu.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    gpu.release()


@pytest.mark.parametrize(
    ("nvml", "settings"),
    [
        (TWO, {"engine": "fake"}),
        (TWO, {"device": "cpu"}),
        (TWO, {"device": "mps"}),
        (FakeNvml(init_error=FakeLibraryNotFound()), {"device": "cuda"}),
        (FakeNvml(), {"device": "auto"}),
    ],
)
def test_no_gpu_is_claimed_where_none_is_wanted_or_found(monkeypatch, tmp_path, nvml, settings):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert claim_gpu(monkeypatch, tmp_path, nvml, **settings) is None
    assert not (tmp_path / "data" / "gpus").exists()
