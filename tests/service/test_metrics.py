"""What one process counts, and what the app lets functions tell."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
from prometheus_client import generate_latest
from redis.exceptions import RedisError

from rollout_core import __version__
from rollout_core.errors import StoreUnavailable
from service import metrics as metrics_module
from service.deliveries import OUTCOMES
from service.metrics import SECONDS, Metrics


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def told(open_client):
    """Return the value of a metric of an app."""

    def told(name, **settings):
        registry = open_client(**settings).app_state["services"].metrics.registry
        return registry.get_sample_value(name)

    return told


def test_requests_and_webhooks_are_counted(metrics):
    for _ in range(2):
        metrics.count_request("GET", "/livez", "2xx", 0.02)
    metrics.count_webhook("delivered")

    value = metrics.registry.get_sample_value
    labels = {"method": "GET", "route": "/livez"}
    assert value("rollout_http_requests_total", labels | {"status": "2xx"}) == 2
    assert value("rollout_http_request_seconds_sum", labels) == pytest.approx(0.04)
    assert value("rollout_http_request_seconds_bucket", labels | {"le": "0.01"}) == 0
    assert value("rollout_http_request_seconds_bucket", labels | {"le": "0.025"}) == 2
    assert value("rollout_webhook_attempts_total", {"outcome": "delivered"}) == 1


def test_every_outcome_of_a_webhook_begins_at_zero(metrics):
    """Else the first one is no increase."""
    found = [
        metrics.registry.get_sample_value("rollout_webhook_attempts_total", {"outcome": outcome})
        for outcome in OUTCOMES.values()
    ]
    assert found == [0, 0, 0]


def test_a_read_that_hangs_holds_no_second_scrape(metrics, monkeypatch):
    monkeypatch.setattr(metrics_module, "PATIENCE_SECONDS", 0.05)
    entered, leave = Event(), Event()

    def hang():
        entered.set()
        return leave.wait(30)

    metrics.watch("rollout_ready", hang, without=0)
    read = partial(metrics.registry.get_sample_value, "rollout_ready")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(read)
        assert entered.wait(10)
        assert read() == 0
        leave.set()
        assert first.result(10) == 1
    assert read() == 1


def test_a_function_tells_a_value_when_it_is_asked(metrics):
    values = iter([1, 2])
    metrics.watch("rollout_uploads_in_flight", lambda: next(values))

    found = [metrics.registry.get_sample_value("rollout_uploads_in_flight") for _ in range(2)]
    assert found == [1, 2]


@pytest.mark.parametrize("error", [OSError(), RedisError(), StoreUnavailable("no")])
def test_a_function_that_fails_does_not_fail_the_scrape(metrics, error):
    def fail():
        raise error

    metrics.watch("rollout_ready", fail, without=0)
    metrics.watch("rollout_store_disk_free_bytes", fail)

    assert metrics.registry.get_sample_value("rollout_ready") == 0
    assert math.isnan(metrics.registry.get_sample_value("rollout_store_disk_free_bytes"))


def test_the_release_is_told_and_no_time_of_creation(metrics):
    metrics.count_webhook("delivered")
    text = generate_latest(metrics.registry).decode()

    assert f'rollout_build_info{{version="{__version__}"}} 1.0' in text
    assert "_created" not in text
    assert tuple(sorted(SECONDS)) == SECONDS


def test_an_app_that_cannot_write_its_store_is_not_ready(open_client, monkeypatch):
    services = open_client().app_state["services"]
    value = services.metrics.registry.get_sample_value
    assert value("rollout_ready") == 1

    def fail():
        raise StoreUnavailable("no")

    monkeypatch.setattr(services.store, "check_writable", fail)
    assert value("rollout_ready") == 0


def test_the_limit_of_the_store_is_told_only_if_there_is_one(told):
    assert told("rollout_store_limit_bytes") is None
    assert told("rollout_store_limit_bytes", max_store_bytes=5_000_000) == 5_000_000


def test_the_disk_is_that_of_the_store(told, settings):
    size = told("rollout_store_disk_size_bytes")

    assert size == shutil.disk_usage(settings.data_dir).total
    assert 0 < told("rollout_store_disk_free_bytes") <= size


def test_uploads_are_in_flight_only_while_they_arrive(client, new_job):
    services = client.app_state["services"]
    seen = []
    release = services.jobs._reservations._release

    def watched(reservation):
        value = services.metrics.registry.get_sample_value("rollout_uploads_in_flight")
        seen.append(value)
        release(reservation)

    services.jobs._reservations._release = watched
    new_job()

    assert seen == [1]
    assert services.metrics.registry.get_sample_value("rollout_uploads_in_flight") == 0


def test_an_app_can_be_started_again(settings, redis):
    from starlette.testclient import TestClient

    from service.app import create_app

    app = create_app(settings)
    for _ in range(2):
        with TestClient(app, "http://localhost") as client:
            assert client.get("/livez").status_code == 200
