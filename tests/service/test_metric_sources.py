"""Scrapes of an app whose Redis or store is in trouble."""

import math
import socket
import time

import pytest

from rollout_core.errors import StoreUnavailable

SCRAPE_TIMEOUT_OF_PROMETHEUS_SECONDS = 10.0


@pytest.fixture
def hanging_redis():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def scrape(client):
    """Return the samples without labels of all workers and own metrics, by name."""
    registry = client.app_state["services"].metrics.registry
    return {s.name: s.value for family in registry.collect() for s in family.samples}


def test_a_scrape_ends_soon_while_redis_hangs(open_client, hanging_redis):
    client = open_client(redis_url=hanging_redis)
    began = time.monotonic()

    found = scrape(client)

    assert time.monotonic() - began < SCRAPE_TIMEOUT_OF_PROMETHEUS_SECONDS / 2
    assert found["rollout_ready"] == 0
    assert "rollout_store_bytes" not in found
    assert found["rollout_store_disk_size_bytes"] > 0


def test_a_store_that_is_gone_is_told_as_such(open_client, monkeypatch):
    client = open_client()
    assert scrape(client)["rollout_ready"] == 1
    store = client.app_state["services"].store

    def fail():
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "check_writable", fail)
    monkeypatch.setattr(store, "free_bytes", fail)

    found = scrape(client)
    assert found["rollout_ready"] == 0
    assert found["rollout_store_bytes"] == 0


def test_a_value_that_cannot_be_read_is_no_number(open_client):
    client = open_client()
    services = client.app_state["services"]

    def fail():
        raise OSError

    services.metrics.watch("rollout_store_limit_bytes", fail)

    assert math.isnan(scrape(client)["rollout_store_limit_bytes"])
