import pytest

from tests.system.processes import is_alive
from tests.system.system import open_system
from tests.system.waiting import wait_until


@pytest.fixture(scope="module")
def system():
    with open_system() as system:
        yield system


def test_valkey_keeps_its_data_when_it_is_killed(system):
    with system.redis as redis:
        redis.set("kept", 1)
    system.valkey.kill()
    system.await_valkey()
    with system.redis as redis:
        assert redis.get("kept") == b"1"


def test_valkey_can_be_restarted_without_its_data(system):
    with system.redis as redis:
        redis.set("forgotten", 1)
    system.forget_everything()
    system.await_valkey()
    with system.redis as redis:
        assert redis.get("forgotten") is None


def test_a_shifting_worker_serves_another_model_after_each_start(system):
    system.api()
    worker = system.shifting_worker(models=("fake", "fake-slow"))
    system.await_models("fake")
    worker.kill()
    system.await_models("fake-slow")
    assert "fake-slow" in worker.log.read_text()


def test_an_api_that_cannot_start_shows_why(system):
    with pytest.raises(AssertionError, match="port: must be less than"):
        system.api("--port", "70000")
    system.processes.pop().take_down()


def test_all_processes_end_with_the_system():
    left = []
    with open_system() as system:
        system.before_closing(lambda: left.append(system.valkey.alive))
        worker = system.worker(model="fake")
        wait_until(lambda: worker.children_of_kind("media-template"), what="the worker's children")
        pids = [system.valkey.pid, worker.pid, *worker.children]
    assert left == [True]
    wait_until(lambda: not any(map(is_alive, pids)), what="all processes to end")
