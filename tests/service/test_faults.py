import errno
import logging
import os

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.errors import UnknownFormat
from service import faults as faults_module
from service.faults import Faults


@pytest.fixture
def faults(store):
    return Faults(logging.getLogger("test"), store)


def fail(faults, error, name="a", kind="cannot be read"):
    with faults.isolated(name, kind):
        raise error


def test_each_kind_of_fault_is_logged_once_for_each_job(faults, caplog):
    for _ in range(3):
        fail(faults, UnknownFormat("x"))
        fail(faults, UnknownFormat("x"), name="b")
        fail(faults, UnknownFormat("x"), kind="cannot be expired")

    assert [record.getMessage() for record in caplog.records] == [
        "Job a cannot be read: x",
        "Job b cannot be read: x",
        "Job a cannot be expired: x",
    ]


@pytest.mark.parametrize("error", [PermissionError(13, "x"), IsADirectoryError(21, "x")])
def test_a_fault_of_one_file_is_a_warning(faults, caplog, error):
    fail(faults, error)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Traceback" not in caplog.text


def test_a_bug_is_logged_with_its_traceback(faults, caplog):
    fail(faults, ZeroDivisionError("x"))

    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "error", [RedisConnectionError("away"), OSError(errno.EROFS, "x"), OSError(errno.ENOTCONN, "x")]
)
def test_what_hurts_every_job_is_raised(faults, caplog, error):
    with pytest.raises(type(error)):
        fail(faults, error)

    assert not caplog.records


def test_a_bounded_number_of_faults_is_remembered(faults, caplog, monkeypatch):
    monkeypatch.setattr(faults_module, "MAX_REMEMBERED", 2)

    for name in "abca":
        faults.report(name, "x", "y")

    assert len(caplog.records) == 4


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_damaged_block_hurts_one_job_while_the_store_is_well(faults, caplog, monkeypatch, number):
    fail(faults, OSError(number, os.strerror(number)))
    assert "Job a cannot be read" in caplog.text

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        fail(faults, OSError(number, os.strerror(number)))
