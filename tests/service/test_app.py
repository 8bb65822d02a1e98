import subprocess
import sys

import pytest

from service.app import create_app
from service.settings import Settings


@pytest.mark.parametrize("module", ["service.app", "service.__main__"])
def test_the_service_does_not_import_what_its_container_lacks(module):
    code = f"import sys, {module}; print(*sys.modules)"

    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    roots = {name.partition(".")[0] for name in printed.split()}
    assert {"service", "rollout_core", "fastapi"} <= roots
    assert (
        roots & {"torch", "timm", "einops", "av", "PIL", "cmap", "safetensors", "worker"} == set()
    )


def test_create_app_opens_neither_redis_nor_store(tmp_path):
    create_app(Settings(data_dir=tmp_path / "data", redis_url="redis://nowhere.invalid:1"))

    assert list(tmp_path.iterdir()) == []


def test_two_apps_share_the_stored_jobs(open_client, announce, mp4):
    announce()
    first, second = open_client(), open_client()

    job = first.post("/v1/jobs", files={"video": ("clip.mp4", mp4)}).json()

    assert second.get(f"/v1/jobs/{job['id']}").json() == job


def test_no_path_answers_with_a_redirection(client):
    assert client.get("/v1/jobs/", follow_redirects=False).status_code == 404
