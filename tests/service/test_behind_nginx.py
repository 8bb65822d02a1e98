"""The service behind a real nginx: refused uploads, root paths, forwarded addresses and hosts."""

import http.client
import json
from hashlib import sha256
from urllib.parse import urlsplit

import httpx2
import pytest

from service import receiving
from tests.service.event_stream import EventStream
from tests.service.test_main import running
from tests.service.test_uploads import END, TYPE, part
from tests.system.nginx import running_nginx
from tests.system.waiting import wait_until

MEGABYTE = 1024**2
ROUNDS = 4
MAX_BYTES = 32 * MEGABYTE
HEADERS = """
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
"""


@pytest.fixture
def start(settings, redis, announce):
    """Run the command; return its process."""
    announce()
    flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
    return lambda *more: running(*flags, *more, cwd=settings.data_dir.parent)


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[alice]\nsha256 = "{sha256(b"a").hexdigest()}"\n')
    return str(path)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "nginx"
    path.mkdir()
    return path


def url_of(process):
    return process.stdout.readline().split()[-1]


def proxy(target, *lines, location="/"):
    return f"location {location} {{ proxy_pass {target}; {' '.join(lines)} {HEADERS} }}"


def send_all(url, size, *, headers, path="/v1/jobs"):
    """Upload with a client that sends everything before it reads; return status and problem."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
    try:
        connection.putrequest("POST", path)
        for name, value in {"Content-Length": size, "Content-Type": TYPE, **headers}.items():
            connection.putheader(name, str(value))
        connection.endheaders()
        for _ in range(size // MEGABYTE):
            connection.send(bytes(MEGABYTE))
        response = connection.getresponse()
        return response.status, json.loads(response.read())["code"]
    finally:
        connection.close()


REFUSED = {
    "no key": (MAX_BYTES, {"Authorization": ""}, (401, "unauthorized")),
    "too large": (MAX_BYTES + MEGABYTE, {}, (413, "upload_too_large")),
    "no form": (MAX_BYTES, {"Content-Type": "text/plain"}, (415, "media_type_unsupported")),
}

AUTHORIZED = {"Authorization": "Bearer a"}


@pytest.mark.parametrize(
    "lines",
    [
        None,
        ("proxy_request_buffering off;",),
        ("proxy_request_buffering off;", "proxy_http_version 1.1;"),
        ("proxy_request_buffering on;",),
        ("proxy_request_buffering on;", "proxy_http_version 1.1;"),
    ],
    ids=["direct", "unbuffered 1.0", "unbuffered 1.1", "buffered 1.0", "buffered 1.1"],
)
def test_an_upload_refused_early_gets_its_answer(start, keys, folder, lines, leftovers):
    with start("--api-keys-file", keys, "--max-upload-bytes", str(MAX_BYTES)) as process:
        direct = url_of(process)
        with running_nginx(folder, proxy(direct, *(lines or ()))) as url:
            for size, headers, expected in REFUSED.values():
                given = AUTHORIZED | headers
                got = [
                    send_all(url if lines else direct, size, headers=given) for _ in range(ROUNDS)
                ]
                assert got == [expected] * ROUNDS
    assert leftovers() == []


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "stripped"])
def test_urls_begin_with_the_root_path(start, folder, mp4, keeps, redis, store, worker):
    with start("--root-path", "/explain", "--trusted-proxies", "127.0.0.1") as process:
        target = url_of(process) + ("" if keeps else "/")
        with (
            running_nginx(folder, proxy(target, location="/explain/")) as url,
            httpx2.Client(base_url=url) as client,
        ):
            body, kind = part("video", mp4) + END, {"Content-Type": TYPE}
            made = client.post("/explain/v1/jobs", content=body, headers=kind)
            assert made.status_code == 202, made.text
            worker.succeed(made.json()["id"])
            job = client.get(made.headers["location"]).json()
            artifacts = [client.get(item["url"]) for item in job["result"]["artifacts"]]
            document = client.get("/explain/openapi.json").json()
            docs = client.get("/explain/docs")
            script = client.get("/explain/docs/start.js")

    assert made.headers["location"] == f"/explain/v1/jobs/{job['id']}"
    assert {artifact.status_code for artifact in artifacts} == {200}
    assert len(artifacts) == 7
    assert [server["url"] for server in document["servers"]] == ["/explain"]
    assert 'src="docs/start.js"' in docs.text  # relative, so it is below the root path too
    assert 'url: "openapi.json"' in script.text


def test_nginx_reaches_a_unix_socket(start, folder, tmp_path):
    path = tmp_path / "s"
    with start("--unix-socket", str(path), "--trusted-proxies", "unix") as process:
        assert url_of(process) == f"unix:{path}"
        with running_nginx(folder, proxy(f"http://unix:{path}")) as url:
            assert httpx2.get(f"{url}/v1/jobs").status_code == 200
            assert httpx2.get(f"{url}/v1/jobs", headers={"Host": "evil.test"}).status_code == 421


def test_a_page_that_rebinds_its_name_is_refused_through_the_proxy_too(start, folder):
    with start("--trusted-proxies", "127.0.0.1", "--allowed-hosts", "ok.test") as process:
        hidden = "location / { proxy_pass %s; proxy_set_header X-Forwarded-Host $http_host; }"
        with running_nginx(folder, hidden % url_of(process)) as url, httpx2.Client() as client:

            def status(**headers):
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return client.get(f"{url}/v1/jobs", headers=named).status_code

            assert status(Host="ok.test") == 200
            assert status(Host="evil.test") == 421
            assert status(Host="evil.test", X_Forwarded_Host="ok.test") == 421
            assert status(Host="ok.test", Origin="https://ok.test") == 200
            assert status(Host="ok.test", Origin="https://evil.test") == 403


def test_each_address_behind_the_proxy_has_a_limit_of_its_own(
    start, folder, settings, mp4, monkeypatch
):
    unbuffered = ("proxy_request_buffering off;", "proxy_http_version 1.1;")
    flags = ("--trusted-proxies", "127.0.0.1", "--max-connections-per-address", "2")
    trusting = "set_real_ip_from 127.0.0.1;"
    with start(*flags) as process:
        server = trusting + proxy(url_of(process), *unbuffered)
        with running_nginx(folder, server) as url:
            target = urlsplit(url)
            open_ = []
            for _ in range(2):
                connection = http.client.HTTPConnection(target.hostname, target.port, timeout=10)
                connection.putrequest("POST", "/v1/jobs")
                for name, value in {
                    "X-Forwarded-For": "192.0.2.1",
                    "Content-Type": TYPE,
                    "Content-Length": "9999",
                }.items():
                    connection.putheader(name, value)
                connection.endheaders(part("video", mp4))
                open_.append(connection)
            incoming = settings.data_dir / "incoming"
            wait_until(lambda: len(list(incoming.iterdir())) == 2)
            refused = httpx2.get(f"{url}/livez", headers={"X-Forwarded-For": "192.0.2.1"})
            answered = httpx2.get(f"{url}/livez", headers={"X-Forwarded-For": "192.0.2.2"})
            for connection in open_:
                connection.close()

    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
    assert answered.status_code == 200
    assert receiving.STEP_BYTES  # the uploads above had time enough


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "stripped"])
def test_a_trusted_proxy_names_the_prefix(start, folder, mp4, keeps, redis, store, worker):
    prefix = "proxy_set_header X-Forwarded-Prefix /rollout;"
    with start("--trusted-proxies", "127.0.0.1") as process:
        target = url_of(process)
        server = proxy(target + ("" if keeps else "/"), prefix, location="/rollout/")
        with (
            running_nginx(folder, server) as url,
            httpx2.Client(base_url=url, timeout=30) as client,
        ):
            made = client.post(
                "/rollout/v1/jobs",
                files={"video": ("clip.mp4", mp4)},
                headers={"Prefer": "wait=1"},
            )
            assert made.status_code == 202, made.text
            assert made.headers["preference-applied"] == "wait=1"
            job_id = made.json()["id"]
            worker.succeed(job_id)
            waited = client.get(made.headers["location"], params={"wait": 5}).json()
            listed = client.get("/rollout/v1/jobs").json()["jobs"][0]
            stream = client.get(f"/rollout/v1/jobs/{job_id}/events")
            end = list(EventStream().events(stream.text.splitlines()))[-1]
            artifacts = [client.get(item["url"]) for item in waited["result"]["artifacts"]]
            document = client.get("/rollout/openapi.json").json()
            docs = client.get("/rollout/docs")
            direct = httpx2.get(f"{target}/v1/jobs/{job_id}").json()

    assert made.headers["location"] == f"/rollout/v1/jobs/{job_id}"
    assert {artifact.status_code for artifact in artifacts} == {200}
    assert waited == listed == json.loads(end.data)
    assert [server["url"] for server in document["servers"]] == ["/rollout"]
    assert 'src="docs/start.js"' in docs.text  # relative, so it is below the prefix
    assert direct["result"]["artifacts"][0]["url"].startswith("/v1/")


def test_events_pass_through_nginx_at_once(start, folder, mp4, redis, worker):
    with start("--trusted-proxies", "127.0.0.1") as process:
        target = url_of(process)
        with (
            running_nginx(folder, proxy(target, "proxy_http_version 1.1;")) as url,
            httpx2.Client(base_url=url, timeout=10) as client,
        ):
            job_id = client.post("/v1/jobs", files={"video": ("c.mp4", mp4)}).json()["id"]
            with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
                events = EventStream().events(response.iter_lines())
                assert next(events).type == "state"  # the job has not ended, the stream is open
                worker.claim(job_id)
                assert json.loads(next(events).data)["state"] == "running"
