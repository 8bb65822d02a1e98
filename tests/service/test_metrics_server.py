"""`/metrics` at its own address, as the command serves it."""

import socket

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from service.metric_table import DEFINITIONS
from service.metrics_server import AddressUnusable, parse_address, require_free, serving_metrics
from tests.service.owners import headers
from tests.service.test_main import running

ADDRESSES = {
    "127.0.0.1:9100": ("127.0.0.1", 9100),
    "0.0.0.0:0": ("0.0.0.0", 0),
    "localhost:65535": ("localhost", 65535),
    "[::1]:9100": ("::1", 9100),
    "api-1.example.org:80": ("api-1.example.org", 80),
}


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Gauge("answer", "An answer.", registry=registry).set(42)
    return registry


def url_in(text):
    return next(word for word in text.split() if word.endswith("/metrics"))


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_a_host_and_a_port(text):
    assert parse_address(text) == ADDRESSES[text]


@pytest.mark.parametrize(
    "text", ["9100", "127.0.0.1", "::1:9100", "host:", "host:99999", "http://a:1", "a b:1", ":1"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_registry_is_served_while_the_context_lasts(registry, caplog, host):
    caplog.set_level("INFO")
    with serving_metrics(f"{host}:0", registry):
        url = url_in(caplog.text)
        answer = httpx2.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "answer 42.0" in answer.text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


def test_without_an_address_nothing_listens(registry, caplog):
    caplog.set_level("INFO")
    with serving_metrics(None, registry):
        assert caplog.text == ""


@pytest.mark.parametrize("address", [None, "127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_a_free_address_passes(address):
    require_free(address)


def test_a_host_that_is_not_this_machine_is_refused():
    with pytest.raises(AddressUnusable, match=r"192\.0\.2\.1:0"):
        require_free("192.0.2.1:0")


def test_an_address_in_use_is_named(registry):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(AddressUnusable, match=f"ROLLOUT_METRICS_ADDRESS {address}"),
            serving_metrics(address, registry),
        ):
            pass


class TestCommand:
    @pytest.fixture(autouse=True)
    def _no_other_service(self, redis):
        """An empty server: another service of the same Redis would have another store."""

    def test_the_api_itself_has_no_metrics(self, tmp_path, redis_url, keys_file):
        flags = ("--redis-url", redis_url, "--metrics-address", "127.0.0.1:0")
        with running(*flags, "--api-keys-file", str(keys_file), cwd=tmp_path) as process:
            metrics = url_in(process.stderr.readline())
            api = process.stdout.readline().split()[-1]
            assert httpx2.get(f"{api}/metrics").status_code == 404
            assert httpx2.get(f"{api}/metrics", headers=headers("ann")).status_code == 404
            assert httpx2.get(f"{api}/v1/jobs", headers=headers("ann")).status_code == 200
            answer = httpx2.get(metrics)
            assert answer.status_code == 200
            assert httpx2.post(metrics).status_code == 405
            assert "ann" not in answer.text, "no owner is named"

    def test_a_scrape_has_every_metric(self, tmp_path, redis_url):
        flags = ("--redis-url", redis_url, "--metrics-address", "127.0.0.1:0")
        with running(*flags, "--max-store-bytes", "1000000", cwd=tmp_path) as process:
            url = url_in(process.stderr.readline())
            process.stdout.readline()
            text = httpx2.get(url).text
            families = {family.name: family for family in text_string_to_metric_families(text)}
        told = {name for name in families if not name.startswith("process_")}
        assert told == {name.removesuffix("_total") for name in DEFINITIONS}
        for name, definition in DEFINITIONS.items():
            family = families[name.removesuffix("_total")]
            assert (family.type, family.documentation) == (definition.kind, definition.text)
        assert families["rollout_store_limit_bytes"].samples[0].value == 1_000_000
        assert families["rollout_ready"].samples[0].value == 1
        assert families["process_resident_memory_bytes"].samples[0].value > 1e6

    def test_without_the_setting_only_the_api_listens(self, tmp_path, redis_url):
        with running("--redis-url", redis_url, cwd=tmp_path) as process:
            process.stdout.readline()
            process.terminate()
            assert "metrics" not in process.communicate()[1]

    def test_an_address_in_use_ends_the_start(self, tmp_path, redis_url):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            flags = ("--redis-url", redis_url, "--metrics-address", address)
            with running(*flags, cwd=tmp_path) as process:
                _, errors = process.communicate(timeout=30)
                reason = f"ROLLOUT_METRICS_ADDRESS {address}: Address already in use"
                assert errors.startswith(f"rollout-service: cannot start: {reason}")
                assert errors.count("\n") == 1
                assert process.returncode == 1

    def test_a_word_that_is_no_address_is_refused_in_one_line(self, tmp_path):
        with running("--metrics-address", "9100", cwd=tmp_path) as process:
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1
            assert "HOST:PORT" in errors.splitlines()[-1]
