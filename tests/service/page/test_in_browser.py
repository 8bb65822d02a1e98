"""What Node cannot show of the page's modules: XMLHttpRequest and a browser's streams."""

from contextlib import contextmanager

import pytest

from tests.service.page.test_data import SAMPLE
from tests.system.browser import open_page
from tests.system.system import open_system

UPLOAD = """async (bytes) => {
  const { uploadVideo } = await import(new URL("page/api/upload.js", document.baseURI));
  const content = new Uint8Array(bytes);
  content.set([0, 0, 0, 24, ...new TextEncoder().encode("ftypisom")]);
  const file = new File([content], "ä.mp4", { lastModified: 7 });
  const steps = [];
  const id = await uploadVideo(file, { onProgress: (sent, total) => steps.push(sent) });
  const again = [];
  const same = await uploadVideo(file, { onProgress: (sent) => again.push(sent) });
  return { id, steps, same, again };
}"""

STOP = """async (bytes) => {
  const { uploadVideo } = await import(new URL("page/api/upload.js", document.baseURI));
  const leaving = new AbortController();
  const file = new File([new Uint8Array(bytes)], "stopped.mp4", { lastModified: 8 });
  const options = { signal: leaving.signal, onProgress: () => leaving.abort() };
  return uploadVideo(file, options).catch((error) => error.name);
}"""

EXPLORE = """async (job) => {
  const { followJob } = await import(new URL("page/api/follow.js", document.baseURI));
  const { loadExploration } = await import(new URL("page/data/exploration.js", document.baseURI));
  const states = [];
  const ended = await followJob(job, ({ state }) => states.push(state));
  const exploration = await loadExploration(ended);
  const { heat } = await exploration.patchHeat({ frame: 0, row: 0, column: 0 });
  const layer = await exploration.heat(0);
  const { size } = await exploration.temporal(0);
  return { states, layers: exploration.layers, heat: heat.length, layer: layer.heat.length, size };
}"""

MIB = 1024**2


@pytest.fixture(scope="module")
def system():
    with open_system(forked=True) as system:
        system.api()
        system.worker(model="fake")
        system.await_models("fake")
        yield system


@pytest.fixture(scope="module")
def page(system):
    with open_page() as page:
        page.goto(f"{system.client.base_url}/")
        yield page


@contextmanager
def slowed_down(page):
    """Let the browser send 10 MiB in a second."""
    speed = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 10 * MIB}
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", speed)
    yield
    session.send("Network.emulateNetworkConditions", speed | {"uploadThroughput": -1})
    session.detach()


def test_an_upload_reports_its_progress_and_is_remembered(system, page):
    with slowed_down(page):
        done = page.evaluate(UPLOAD, 20 * MIB)

    upload = system.client.get(f"/v1/uploads/{done['id']}").json()
    assert (upload["state"], upload["bytes"], upload["filename"]) == ("complete", 20 * MIB, "ä.mp4")
    assert done["steps"] == sorted(done["steps"])
    assert {0, 8 * MIB, 16 * MIB, 20 * MIB} <= set(done["steps"])
    assert len(set(done["steps"])) > 4
    assert (done["same"], done["again"]) == (done["id"], [20 * MIB])


def test_an_upload_stops_with_its_signal(page):
    assert page.evaluate(STOP, 2 * MIB) == "AbortError"


def test_a_job_is_followed_and_explored(system, page):
    request = {"full_rollout": True, "per_layer": True, "fake": {"seconds": 1}}
    job = system.accepted(SAMPLE.read_bytes(), **request)

    found = page.evaluate(EXPLORE, job)

    assert found["states"][-1] == "succeeded"
    assert found["layers"] > 0
    assert found["heat"] == found["layer"] > found["size"] > 1
