import io
import json
import logging
import os
import sys
from functools import partial

import pytest

from rollout_core import logs
from rollout_core.logs import JsonFormatter, TextFormatter
from tests.system.waiting import wait_until
from worker import child_output
from worker import fork_server as fork_server_module
from worker.child import MAX_OUTPUT_BYTES, MAX_OUTPUT_LINES, ChildLost, next_message
from worker.child_output import MAX_LINE_LENGTH, MAX_LINES, OutputReader, lines_of, log_line
from worker.children import Engine, Media
from worker.fork_server import ForkServer
from worker.messages import EngineOptions, MediaOptions, Working

FORGED = (
    '{"time": "2026-11-27T12:00:00.000Z", "level": "INFO", "job_id": "another"}',
    "2026-11-27T12:00:00.000Z INFO worker.runner job_id=another: succeeded",
    "\x1b[2J\x1b[1A\u2028\x85\x0b\x0c\x1c\x9b0m",
    "\udcff\x00%s %(x)s {}",
)

HOSTILE_MEDIA = """
import os
from worker import media, media_template
def serve(connection, options):
    os.write(2, {output!r})
    os._exit(3)
media.serve = serve
media_template.main()
"""


@pytest.fixture(params=["text", "json"])
def written(request):
    """Return a call that gives the lines written to a log in one of the formats."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if request.param == "json" else TextFormatter())
    root.addHandler(handler)
    yield lambda: stream.getvalue().split("\n")[:-1]
    root.removeHandler(handler)


def records(lines):
    """Return each line's job id and message; fail if one is no record of `child_output`."""
    found = []
    for line in lines:
        assert line.isprintable()
        if line.startswith("{"):
            record = json.loads(line)
            assert record["logger"] == "worker.child_output"
            found.append((record["job_id"], record["message"]))
        else:
            head, _, message = line.partition(": ")
            _, level, name, job = head.split(" ")
            assert (level, name) == ("WARNING", "worker.child_output")
            found.append((job.removeprefix("job_id="), message))
    return found


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_compromised_media_cannot_forge_a_record(monkeypatch, written, end):
    output = end.join(FORGED).encode(errors="surrogateescape")
    program = HOSTILE_MEDIA.format(output=output)
    monkeypatch.setattr(fork_server_module, "TEMPLATE", (sys.executable, "-P", "-c", program))
    server = ForkServer()
    try:
        media = Media(MediaOptions(), server.fork(MediaOptions()))
        with logs.process_about(job_id="j"), pytest.raises(ChildLost, match="status 3"):
            next_message(media, Working, lambda: None)
    finally:
        server.close()
    found = records(written())
    assert len(found) == len(FORGED)
    assert all(job == "j" for job, _ in found)
    assert all(message.startswith("the media process wrote: ") for _, message in found)


@pytest.mark.parametrize("piece", [b"x" * 64, b"\n", b"x\n", b"x" * 5000 + b"\n", b"\xff"])
def test_output_of_media_is_bounded_in_lines_and_length(monkeypatch, written, piece):
    output = piece * (MAX_OUTPUT_BYTES // len(piece))
    program = HOSTILE_MEDIA.format(output=b"<marker>").replace(
        repr(b"<marker>"), f"{piece!r} * {MAX_OUTPUT_BYTES // len(piece)}"
    )
    monkeypatch.setattr(fork_server_module, "TEMPLATE", (sys.executable, "-P", "-c", program))
    server = ForkServer()
    try:
        media = Media(MediaOptions(), server.fork(MediaOptions()))
        with logs.process_about(job_id="j"), pytest.raises(ChildLost):
            next_message(media, Working, lambda: None)
    finally:
        server.close()
    assert len(written()) == min(MAX_OUTPUT_LINES, len(lines_of(output)))
    assert all(len(message) < MAX_LINE_LENGTH + 60 for _, message in records(written()))


@pytest.fixture
def reading():
    """Return the writing end of a pipe that a reader logs."""
    readable, writable = os.pipe()
    reader = OutputReader("the engine", os.fdopen(readable, "rb", buffering=0))
    with os.fdopen(writable, "wb", buffering=0) as end:
        yield end
    reader.finish(5)


def has_lines(written, count):
    return len(written()) == count


def test_lines_are_logged_as_they_come_with_the_job_of_that_moment(reading, written):
    for job, count in (("a", 2), ("b", 4)):
        with logs.process_about(job_id=job):
            reading.write(b"one\ntw")
            reading.write(b"o\n")
            wait_until(partial(has_lines, written, count))
    assert records(written()) == [
        (job, f"the engine wrote: {word}") for job in ("a", "b") for word in ("one", "two")
    ]


def test_a_process_that_writes_without_end_is_read_but_not_logged(reading, caplog):
    for _ in range(50):
        reading.write(b"line\n" * 5000)
    reading.close()
    wait_until(lambda: caplog.messages[-1:] != ["the engine wrote: line"])
    assert caplog.messages[:-1] == ["the engine wrote: line"] * MAX_LINES
    assert (
        caplog.messages[-1] == f"the engine wrote too much; left out: {250_000 - MAX_LINES} lines"
    )


def test_after_a_while_lines_are_logged_again(reading, caplog, monkeypatch):
    monkeypatch.setattr(child_output, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(child_output, "MAX_LINES", 1)
    reading.write(b"one\ntwo\nthree\n")
    wait_until(lambda: caplog.messages)

    def more():
        reading.write(b"more\n")
        return "the engine wrote: more" in caplog.messages

    wait_until(more)
    assert "the engine wrote too much; left out: " in caplog.messages[1]


def test_a_line_without_end_comes_in_pieces(reading, caplog):
    reading.write(b"x" * 200_000)
    reading.close()
    wait_until(lambda: len(caplog.messages) >= 2)
    assert all(len(message) < MAX_LINE_LENGTH + 60 for message in caplog.messages)


def test_output_that_is_no_text_is_logged(caplog):
    log_line("the engine", b"\xff\xfe")
    assert caplog.messages == ["the engine wrote: ��"]


def test_last_words_of_an_engine_come_before_what_became_of_it(caplog):
    engine = Engine("unknown", EngineOptions(model="fake"), 30)
    with pytest.raises(ChildLost, match=r"exited with status 1|in the middle of a message"):
        next_message(engine, Working, lambda: None)
    assert caplog.messages == ["the engine wrote: no such kind of engine: unknown"]
