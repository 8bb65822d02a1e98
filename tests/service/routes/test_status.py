import errno
import shutil
from pathlib import Path

import pytest
from redis import Redis

from rollout_core.errors import StoreUnavailable
from service.redis_jobs import PROBE_KEY
from tests.system.valkey import running_valkey, url_of
from tests.system.waiting import wait_until


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


REFUSING = {
    "OOM": {"maxmemory": "1"},
    "READONLY": {"replicaof": "127.0.0.1 1", "replica-serve-stale-data": "yes"},
    "NOREPLICAS": {"min-replicas-to-write": "1"},
}


@pytest.mark.parametrize("configuration", REFUSING.values(), ids=REFUSING)
def test_not_ready_while_redis_refuses_writes(open_client, configuration):
    with running_valkey() as server, Redis.from_url(url_of(server)) as redis:
        client = open_client(redis_url=url_of(server))
        assert client.get("/readyz").status_code == 200

        for name, value in configuration.items():
            if name == "replicaof":
                redis.replicaof(*value.split())
            else:
                redis.config_set(name, value)
        response = client.get("/readyz")

        assert redis.ping()
        assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")
        assert client.get("/livez").status_code == 200
        if "replicaof" in configuration:
            redis.replicaof("NO", "ONE")
        else:
            redis.config_set(name, "0")
        assert client.get("/readyz").status_code == 200


def test_not_ready_while_redis_cannot_save(open_client):
    with running_valkey() as server, Redis.from_url(url_of(server)) as redis:
        client = open_client(redis_url=url_of(server))
        redis.config_set("save", "900 1")
        (folder := Path(str(redis.config_get("dir")["dir"]))).joinpath("dump.rdb").mkdir()
        redis.set("a", "b")
        redis.bgsave()
        wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")

        response = client.get("/readyz")

        assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")
        folder.joinpath("dump.rdb").rmdir()


def test_readiness_leaves_one_key_that_expires(client, redis):
    client.get("/readyz")

    assert redis.keys("rollout:probe*") == [PROBE_KEY.encode()]
    assert redis.ttl(PROBE_KEY) > 0


def test_not_ready_while_the_disk_is_full(client, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)

    response = client.get("/readyz")

    assert (response.status_code, response.json()["code"]) == (507, "store_full")
    assert int(response.headers["retry-after"]) > 0
    assert "507" in client.get("/openapi.json").json()["paths"]["/readyz"]["get"]["responses"]


def test_not_ready_while_the_store_cannot_be_written(client, settings):
    shutil.rmtree(settings.data_dir)

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["code"] == StoreUnavailable.code
    assert str(settings.data_dir) not in response.text
    assert client.get("/livez").status_code == 200
