"""The page's client of the API, in Node, with a real service."""

import json
import sys
from hashlib import file_digest
from pathlib import Path
from typing import get_args

import pytest

from rollout_core.contract import ExplainRequest, FailureCode
from rollout_core.jobs.folder_store import FolderStore
from service.folder_uploads import FolderUploads
from tests.service.owners import write_keys
from tests.service.page.test_data import SAMPLE
from tests.system.node import check_node_tests
from tests.system.system import open_system
from tests.system.tools import require_tool

HERE = Path(__file__).parent
DOCUMENT = Path(__file__).parents[3] / "openapi" / "openapi.json"


@pytest.fixture(scope="module")
def system():
    """Return a system with a real worker and a fake one."""
    with open_system(forked=True) as system:
        system.api()
        system.worker()
        system.worker(model="fake")
        system.await_models("moving-things", "fake")
        yield system


@pytest.fixture
def url(system):
    return f"{system.client.base_url}/"


@pytest.fixture
def api(system):
    return next(process for process in system.processes if process.name == "api-0")


def run(script, **values):
    check_node_tests(HERE / f"{script}.test.mjs", **values)


def codes():
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]


def test_problems():
    run("problem", codes=codes(), failures=get_args(FailureCode))


def test_client(url):
    defaults = ExplainRequest().model_dump(mode="json")
    root = Path(__file__).parents[3]
    require_tool("curl")
    values = {"defaults": defaults, "python": sys.executable, "root": str(root)}

    run("client", url=url, sample=str(SAMPLE), **values)


def test_follow(url, api):
    run("follow", url=url, sample=str(SAMPLE), pid=api.pid)


def test_session(system, url, tmp_path):
    keys = tmp_path / "keys.toml"
    write_keys(keys)
    system.api("--api-keys-file", str(keys))
    with_keys = f"{system.clients[-1].base_url}/"

    run("session", url=with_keys, open=url)


def test_upload(system, url, api):
    run("upload", url=url, pid=api.pid)
    store = FolderUploads(FolderStore(system.data_dir))
    complete = [record for name in store.names() if (record := store.record(name)).is_complete]
    assert complete
    for record in complete:
        with store.path(record.id).open("rb") as file:
            assert file_digest(file, "sha256").hexdigest() == record.sha256
