import asyncio
import json
import logging
import re
import subprocess
import sys
import threading

import pytest

from rollout_core import logs
from rollout_core.logs import JsonFormatter, TextFormatter

HOSTILE = "job 1: é\r\n2026-11-27T12:00:00.000Z INFO worker: forged \x1b[2J\x9b\u202e\u2028"


def record(message="%s", *arguments, name="worker", level=logging.INFO, created=0.1236, **more):
    made = logging.LogRecord(name, level, "", 0, message, arguments, more.pop("exc_info", None))
    made.created = created
    for key, value in more.items():
        setattr(made, key, value)
    return made


def test_text_has_time_with_date_level_logger_and_message():
    line = TextFormatter().format(record("%s jobs", 3, level=logging.WARNING))
    assert line == "1970-01-01T00:00:00.123Z WARNING worker: 3 jobs"


def test_json_has_the_same_as_an_object_on_one_line():
    line = JsonFormatter().format(record("%s jobs", 3, level=logging.WARNING))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.123Z",
        "level": "WARNING",
        "logger": "worker",
        "message": "3 jobs",
    }


@pytest.mark.parametrize(("created", "time"), [(0, "00.000"), (59.9999, "59.999")])
def test_time_never_rounds_into_another_form(created, time):
    assert logs.time_of(record("x", created=created)) == f"1970-01-01T00:00:{time}Z"


def test_fields_stand_before_the_message_in_both_formats():
    with logs.task_about(request_id="r/1", owner="ann", job_id="j", attempt=2):
        made = record("%s", "x")
        text, found = TextFormatter().format(made), json.loads(JsonFormatter().format(made))
    assert text.endswith(" INFO worker request_id=r/1 job_id=j attempt=2 owner=ann: x")
    assert [found[name] for name in ("request_id", "job_id", "attempt", "owner")] == [
        *("r/1", "j", 2, "ann")
    ]


def test_fields_of_one_line_are_added_and_quoted_if_needed():
    made = record("x", fields={"route": "/v1/a b", "status": 200, "left": 'x:"', "end": "a:"})
    assert (
        TextFormatter()
        .format(made)
        .endswith(r' route="/v1/a b" status=200 left="x:\"" end="a:": x')
    )
    assert json.loads(JsonFormatter().format(made))["status"] == 200


def test_fields_cannot_replace_what_every_line_has():
    found = json.loads(JsonFormatter().format(record("x", fields={"level": "y", "message": "z"})))
    assert (found["level"], found["message"]) == ("INFO", "x")


def test_message_cannot_forge_a_line_or_control_the_terminal():
    line = TextFormatter().format(record("%s", HOSTILE))
    escaped = r"job 1: é\r\n2026-11-27T12:00:00.000Z INFO worker: forged \x1b[2J\x9b\u202e\u2028"
    assert line == f"1970-01-01T00:00:00.123Z INFO worker: {escaped}"


def test_json_message_is_one_ascii_line_without_control_characters():
    line = JsonFormatter().format(record("%s", HOSTILE + '", "level": "ERROR"}\n{"level": "ERROR"'))
    found = json.loads(line)
    assert line.isascii()
    assert line.isprintable()
    assert found["level"] == "INFO"
    assert found["message"].isprintable()


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_message_is_bounded(formatter):
    line = formatter.format(record("%s", "x" * 10**6))
    assert len(line) < logs.MAX_MESSAGE_LENGTH + 200
    assert f"({10**6 - logs.MAX_MESSAGE_LENGTH} more)" in line


def fail(text):
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_traceback_can_forge_no_record():
    text = f"why\n2026-11-27T12:00:00.000Z INFO worker: forged\n{HOSTILE}"
    made = record("x", exc_info=fail(text))
    first, *others = TextFormatter().format(made).split("\n")
    assert first.endswith("INFO worker: x")
    assert "Traceback" in others[0]
    assert all(line.startswith(logs.INDENT) and line.isprintable() for line in others)
    line = JsonFormatter().format(made)
    assert line.isascii()
    assert line.isprintable()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_end_of_a_long_traceback_is_kept():
    made = record("x", exc_info=fail("x" * 10**6 + "the end"))
    found = json.loads(JsonFormatter().format(made))["exception"]
    assert len(found) < logs.MAX_TRACEBACK_LENGTH + 100
    assert found.endswith("the end")


def test_what_a_task_is_about_ends_with_the_context():
    with logs.task_about(job_id="a"), logs.task_about(attempt=1):
        assert logs.present().known() == {"job_id": "a", "attempt": 1}
    assert logs.present().known() == {}


def test_what_a_process_is_about_counts_in_every_thread():
    found = []
    with logs.process_about(job_id="a", attempt=1), logs.task_about(attempt=2):
        thread = threading.Thread(target=lambda: found.append(logs.present().known()))
        thread.start()
        thread.join()
        assert logs.present().known() == {"job_id": "a", "attempt": 2}
    assert found == [{"job_id": "a", "attempt": 1}]
    assert logs.present().known() == {}


def test_a_task_may_forget_what_started_it():
    async def serve_others():
        logs.forget_about()
        return logs.present()

    async def start():
        logs.set_about(request_id="a")
        about = await asyncio.create_task(serve_others())
        return about.request_id, logs.present().request_id

    assert asyncio.run(start()) == (None, "a")


def run(*lines, style="text", level="info"):
    """Run lines in a process of its own with this log; return it."""
    setup = f"logs.configure({style!r}, {level!r})"
    imports = ("import logging, sys, warnings", "from rollout_core import logs")
    program = "\n".join((*imports, setup, *lines))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_only_our_own_details_are_written():
    names = ("service.x", "worker", "httpx2")
    lines = [f"logging.getLogger({name!r}).info({name!r})" for name in names]
    done = run(*lines, "logging.getLogger('uvicorn').warning('other')")
    assert re.findall(r"Z (.*)", done.stderr) == [
        *("INFO service.x: service.x", "INFO worker: worker", "WARNING uvicorn: other")
    ]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_level_is_the_least_that_is_written(level, count):
    lines = [f"logging.getLogger('worker').{name}('x')" for name in ("debug", "info", "warning")]
    done = run(*lines, "logging.getLogger('worker').error('x')", level=level)
    assert len(done.stderr.splitlines()) == count


def test_warnings_are_records():
    (line,) = run("warnings.warn('old')", style="json").stderr.splitlines()
    assert "UserWarning: old" in json.loads(line)["message"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_last_words_of_a_process_are_a_record_where_lines_are_json(style):
    done = run("with logs.telling_exit('rollout-x'):", "    sys.exit('rollout-x: no')", style=style)
    assert done.returncode == 1
    if style == "text":
        assert done.stderr == "rollout-x: no\n"
    else:
        found = json.loads(done.stderr)
        assert (found["level"], found["message"]) == ("CRITICAL", "rollout-x: no")


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_is_told_is_plain_or_a_record(style):
    done = run("logs.tell('rollout-x', 'there is no y')", style=style)
    if style == "text":
        assert done.stderr == "rollout-x: there is no y\n"
    else:
        assert json.loads(done.stderr)["message"] == "there is no y"
