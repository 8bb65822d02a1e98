from pathlib import Path

from redis import Redis

from tests.system.valkey import running_valkey, url_of


def test_runs_an_empty_server_and_removes_it():
    with running_valkey() as server, Redis.from_url(url_of(server)) as client:
        assert client.dbsize() == 0
        assert client.set("key", "value")
    assert not server.is_running()
    assert not Path(server.unix_socket_path).parent.exists()


def test_data_survive_a_restart_where_they_are_kept():
    options = {"persist": True, "config": {"appendonly": "yes", "appendfsync": "always"}}
    with running_valkey(**options) as server, Redis.from_url(url_of(server)) as client:
        client.set("key", "value")
        server.stop()
        server.start()
        assert client.get("key") == b"value"


def test_a_server_may_be_stopped_before_its_end():
    with running_valkey() as server:
        server.stop()
