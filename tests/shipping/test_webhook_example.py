"""The receiver in docs/webhooks.md, run as it stands there."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from standardwebhooks import Webhook

from service.webhook_secrets import make_secret

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"
BODY = '{"type": "job.succeeded", "data": {"id": "7"}}'


@pytest.fixture
def secret(monkeypatch):
    secret = make_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    return secret


@pytest.fixture
def receiver(secret):
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code[1], str(DOCUMENT), "exec"), names)
    return TestClient(names["app"])


def post(receiver, secret, message_id="msg_1", signature=None):
    now = datetime.now(UTC)
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature or Webhook(secret).sign(message_id, now, BODY),
    }
    return receiver.post("/hooks/rollout", content=BODY, headers=headers).status_code


def test_handles_an_event_once(receiver, secret, capsys):
    assert [post(receiver, secret) for _ in range(2)] == [204, 204]
    assert post(receiver, secret, "msg_2") == 204
    assert capsys.readouterr().out == "job.succeeded 7\n" * 2


@pytest.mark.parametrize("signature", ["v1,AAAA", "nonsense", "v1,?"])
def test_refuses_what_is_not_signed(receiver, secret, capsys, signature):
    assert post(receiver, secret, signature=signature) == 401
    assert post(receiver, make_secret()) == 401
    assert capsys.readouterr().out == ""
