"""How the suite reads a stream of events: by the rules of the format."""

from contextlib import contextmanager
from types import SimpleNamespace

from rollout_core.testing.contract.test_following import events

STREAM = (
    b": ping\n\n"
    b'event: state\nid: 1\ndata: {"state":\ndata: "queued"}\n\n'
    b"retry: 1000\n\n"
    b"data:{}\r\n\r\n"
    b'event: end\ndata: {"lost": true}\n'
)


class Response(list):
    status = 200
    headers = SimpleNamespace(get_content_type=lambda: "text/event-stream")


def test_fields_are_gathered_until_a_blank_line_and_an_unfinished_event_is_dropped():
    @contextmanager
    def opened(*_):
        yield Response(STREAM.splitlines(keepends=True))

    caller = SimpleNamespace(api=SimpleNamespace(opened=opened))
    assert list(events(caller, "1" * 32)) == [
        ("state", "1", {"state": "queued"}),
        ("message", "", {}),
    ]
