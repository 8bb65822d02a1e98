import pytest

from tests.house.house import open_house, wait_until
from tests.house.processes import is_alive


@pytest.fixture(scope="module")
def house():
    with open_house() as house:
        yield house


def test_valkey_keeps_its_data_when_it_is_killed(house):
    with house.redis as redis:
        redis.set("kept", 1)
    house.valkey.kill()
    house.await_valkey()
    with house.redis as redis:
        assert redis.get("kept") == b"1"


def test_valkey_can_be_made_to_forget_everything(house):
    with house.redis as redis:
        redis.set("forgotten", 1)
    house.forget_everything()
    house.await_valkey()
    with house.redis as redis:
        assert redis.get("forgotten") is None


def test_a_shifting_worker_serves_another_model_each_time(house):
    house.api()
    worker = house.shifting_worker(models=("fake", "fake-slow"))
    house.await_models("fake")
    worker.kill()
    house.await_models("fake-slow")
    assert "fake-slow" in worker.log.read_text()


def test_an_api_that_cannot_start_shows_why(house):
    with pytest.raises(AssertionError, match="port: Input should be less than"):
        house.api("--port", "70000")
    house.processes.pop().take_down()


def test_nothing_outlives_the_house():
    left = []
    with open_house() as house:
        house.before_closing(lambda: left.append(house.valkey.alive))
        worker = house.worker(model="fake")
        wait_until(lambda: worker.children_of_kind("media"), 20, "the worker's children")
        pids = [house.valkey.pid, worker.pid, *worker.children]
    assert left == [True]
    wait_until(lambda: not any(map(is_alive, pids)), 10, "the processes to be gone")
