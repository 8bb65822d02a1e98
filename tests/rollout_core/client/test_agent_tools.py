"""The tools for agents: a real client session over stdio, with the real service."""

import os
import sys
from base64 import b64decode
from contextlib import ExitStack, asynccontextmanager

import pytest
from anyio.from_thread import start_blocking_portal
from mcp import ClientSession, StdioServerParameters, stdio_client

TOOLS = {"explain_video", "get_job", "list_models", "show_sheet"}


@pytest.fixture(scope="module")
def ask(system, tmp_path_factory):
    """Run a function with a session of the command `rollout-client mcp`, one for each URL."""
    sessions = {}
    log = tmp_path_factory.mktemp("mcp") / "log"
    with start_blocking_portal() as portal, ExitStack() as stack:

        def ask(function, url=None):
            url = url or str(system.client.base_url)
            if url not in sessions:
                opening = portal.wrap_async_context_manager(open_session(url, log))
                sessions[url] = stack.enter_context(opening)
            return portal.call(function, sessions[url])

        yield ask


@asynccontextmanager
async def open_session(url, log_path):
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "rollout_core.client", "mcp", "--url", url],
        env=dict(os.environ),
    )
    with log_path.open("a") as log:
        async with (
            stdio_client(server, errlog=log) as (read, write),
            ClientSession(read, write) as opened,
        ):
            await opened.initialize()
            yield opened


def call(name, **arguments):
    return lambda session: session.call_tool(name, arguments)


def text_of(answer):
    (content,) = answer.content
    return content.text


def test_there_are_four_tools_that_say_what_they_take(ask):
    listed = ask(lambda session: session.list_tools())
    assert {tool.name for tool in listed.tools} == TOOLS
    (explain,) = [tool for tool in listed.tools if tool.name == "explain_video"]
    assert explain.input_schema["required"] == ["video"]
    assert all("description" in field for field in explain.input_schema["properties"].values())
    assert all(tool.description for tool in listed.tools)
    assert all(tool.input_schema["additionalProperties"] is False for tool in listed.tools)


def test_a_video_is_explained_in_words_and_shown_as_a_picture(ask, film, system):
    told = []

    async def on_progress(progress, total, message):
        told.append((progress, total, message))

    async def explain_and_show(session):
        answer = await session.call_tool(
            "explain_video",
            {"video": str(film), "model": "fake", "clips": "tile"},
            progress_callback=on_progress,
        )
        job_id = text_of(answer).split()[1]
        again = await session.call_tool("get_job", {"job_id": job_id})
        return answer, again, await session.call_tool("show_sheet", {"job_id": job_id})

    answer, again, sheet = ask(explain_and_show)
    assert not answer.is_error
    text = text_of(answer)
    assert "fake predicts" in text
    assert "most relevant frames at" in text
    assert text_of(again) == text
    assert told[0][2] == "uploading"
    assert all(0 <= progress <= total for progress, total, _ in told)
    (picture,) = sheet.content
    assert picture.mime_type == "image/png"
    job_id = text.split()[1]
    assert (
        b64decode(picture.data)
        == system.client.get(f"/v1/jobs/{job_id}/artifacts/sheet.png").content
    )


def test_models_are_listed(ask):
    text = text_of(ask(call("list_models")))
    assert {line.partition(":")[0] for line in text.splitlines()} == {
        "fake",
        "fake-fail",
        "fake-hang",
    }
    assert "1 workers" not in text


def test_a_job_that_takes_longer_is_left_running(ask, film, system):
    answer = ask(call("explain_video", video=str(film), model="fake-hang", max_wait_seconds=1))
    assert not answer.is_error
    text = text_of(answer)
    assert "has not ended yet; ask again with get_job" in text
    job_id = text.split()[1]
    assert system.job(job_id)["state"] in ("queued", "running")
    system.client.post(f"/v1/jobs/{job_id}/cancel")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"video": "/nowhere.mp4"}, "/nowhere.mp4: No such file or directory"),
        ({"video": "x", "query": "1:2"}, "is not cls"),
        (
            {"video": "x", "target": "left"},
            "target is for gradient_rollout, contribution_rollout, difference, not for rollout",
        ),
        ({"video": "x", "reference": "blur"}, "reference is for difference, not for rollout"),
        (
            {"video": "x", "method": "contribution_rollout", "against": "left"},
            "against needs a target",
        ),
        ({"video": "x", "methd": "attention"}, "methd: no such field; did you mean method?"),
        (
            {"video": "x", "method": "rolout"},
            "method: must be rollout, attention, gradient_rollout, contribution_rollout or "
            "difference; did you mean rollout?",
        ),
        ({}, "video: this field is required"),
        ({"video": "x", "max_wait_seconds": 0}, "max_wait_seconds: must be greater than 0"),
    ],
)
def test_a_mistake_is_told_in_words(ask, arguments, words):
    answer = ask(call("explain_video", **arguments))
    assert answer.is_error
    assert words in text_of(answer)
    assert "pydantic" not in text_of(answer)


def test_a_failed_job_and_an_unknown_one_are_told_in_words(ask, film):
    failed = ask(call("explain_video", video=str(film), model="fake-fail"))
    assert failed.is_error
    assert "The model ran out of memory" in text_of(failed)
    missing = ask(call("get_job", job_id="f" * 32))
    assert missing.is_error
    assert "No such job" in text_of(missing)


def test_a_service_that_is_away_is_told_in_words(ask):
    answer = ask(call("list_models"), url="http://127.0.0.1:9")
    assert answer.is_error
    assert "cannot connect to http://127.0.0.1:9" in text_of(answer)
