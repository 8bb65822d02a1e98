import shutil

import pytest

from rollout_core.errors import StoreUnavailable


@pytest.fixture
def without_redis(open_client, tmp_path):
    return open_client(redis_url=f"unix://{tmp_path / 'nobody.sock'}")


def test_ready(client, announce):
    announce("a", worker="w1")
    announce("a", worker="w2")
    announce("b", worker="w3", ready=False)

    response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {"status": "ready", "workers": {"a": 2, "b": 0}}


def test_ready_even_if_no_worker_serves_a_known_model(client, announce):
    """Its jobs are accepted and wait; monitoring sees the 0."""
    announce("a", age_seconds=60)

    assert client.get("/readyz").json() == {"status": "ready", "workers": {"a": 0}}


def test_ready_without_workers(client):
    assert client.get("/readyz").json()["workers"] == {}


def test_alive_although_redis_is_down(without_redis):
    response = without_redis.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_not_ready_while_redis_is_down(without_redis):
    response = without_redis.get("/readyz")

    assert response.status_code == 503
    assert response.json()["code"] == "redis_unavailable"
    assert int(response.headers["retry-after"]) > 0


def test_not_ready_while_the_store_cannot_be_written(client, settings):
    shutil.rmtree(settings.data_dir)

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["code"] == StoreUnavailable.code
    assert str(settings.data_dir) not in response.text
    assert client.get("/livez").status_code == 200
