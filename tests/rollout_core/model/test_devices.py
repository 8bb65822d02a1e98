import pytest
import torch

from rollout_core.errors import DeviceError
from rollout_core.model.devices import first_line, open_device


def test_auto_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch):
    for is_available, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=is_available: found)
        assert open_device("auto").type == kind


def test_cpu_can_be_named():
    assert open_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "", "cuda:", "cuda:x", "cuda:-1", "0", "CPU", "cpu "])
def test_what_is_no_device_is_refused(name: str):
    with pytest.raises(DeviceError, match="is not a device; write auto, cpu, cuda or cuda:NUMBER"):
        open_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_gpu_without_a_driver_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"cannot use the device {name} here: it finds no GPU"):
        open_device(name)


def test_gpu_beyond_the_last_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="no device cuda:7; the last one is cuda:1"):
        open_device("cuda:7")


@pytest.mark.parametrize("name", ["meta", "xla", "vulkan"])
def test_device_that_cannot_compute_is_refused_in_one_line(name: str):
    with pytest.raises(DeviceError) as raised:
        open_device(name)
    assert str(raised.value) == f"PyTorch cannot use the device {name} here"


def test_first_line_of_an_error_is_its_text_or_its_type():
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(ValueError("\n a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"
