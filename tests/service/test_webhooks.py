import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from rollout_core.contract import Webhook
from rollout_core.jobs.schemas import Job, JobEvent
from service.errors import WebhookRefused
from service.openapi_webhooks import WEBHOOKS
from service.outbound import Hosts, Outbound
from service.usage import Owner
from service.webhook_secrets import WebhookSecrets, make_secret
from service.webhooks import Webhooks

OLD, NEW = make_secret(), make_secret()
ENDED = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


class Keys:
    def webhook_secrets(self, owner):
        return {"ann": (NEW, OLD)}.get(owner, ())


@pytest.fixture
def make():
    def one(private=None, hosts="*"):
        return Webhooks(
            Outbound(Hosts(private)),
            WebhookSecrets(Keys(), None),
            hosts=Hosts(hosts),
            private_hosts=Hosts(private),
            secret_setting="webhook_secrets",
        )

    return one


@pytest.fixture
def job():
    nothing = dict.fromkeys(Job.model_fields)
    known = {"id": "a" * 32, "state": "canceled", "model": "fake", "attempt": 0, "request": {}} | {
        "priority": "normal"
    }
    return Job.model_validate({**nothing, **known, "created_at": ENDED, "ended_at": ENDED})


def test_event_tells_what_happened_when_and_to_which_job(make, job):
    event = json.loads(make().sign(job, "ann").body)
    assert list(event) == ["type", "timestamp", "data"]
    assert event["type"] == "job.canceled"
    assert event["timestamp"] == "2026-01-02T03:04:05.000678Z"
    assert event["data"] == json.loads(job.model_dump_json())


def test_event_is_as_the_openapi_document_says(make, job):
    signed = make().sign(job, "ann")
    call = WEBHOOKS["jobEvent"]["post"]

    named = {name for name in signed.headers if name.startswith("webhook-")}
    assert {parameter["name"] for parameter in call["parameters"]} == named
    (content_type,) = call["requestBody"]["content"]
    assert signed.headers["content-type"] == content_type
    assert JobEvent.model_validate_json(signed.body).data == job


def test_event_verifies_with_each_secret_and_no_other(make, job):
    signed = make().sign(job, "ann")
    for secret in (OLD, NEW):
        assert Verifier(secret).verify(signed.body, signed.headers)["data"]["id"] == job.id
    with pytest.raises(WebhookVerificationError):
        Verifier(make_secret()).verify(signed.body, signed.headers)


def test_id_is_the_same_in_every_attempt(make, job):
    assert len({make().sign(job, "ann").headers["webhook-id"] for _ in range(2)}) == 1


@pytest.mark.parametrize("owner", [None, Owner(name="ben")])
def test_without_a_secret_nothing_is_signed(make, job, owner):
    with pytest.raises(WebhookRefused, match="the operator must set webhook_secrets"):
        make().check(Webhook(url="https://example.org/"), owner)
    with pytest.raises(WebhookRefused):
        make().sign(job, owner.name if owner else None)


@pytest.mark.parametrize(
    ("url", "private", "hosts"),
    [
        ("https://example.org/", None, "*"),
        ("https://8.8.8.8/", None, "*"),
        ("https://a.example.org:8443/", None, ".example.org"),
        ("http://hooks.corp/", "hooks.corp", "*"),
        ("https://10.0.0.5/", "10.0.0.5", "*"),
    ],
)
def test_allowed_urls(make, url, private, hosts):
    make(private, hosts).check(Webhook(url=url), Owner(name="ann"))


@pytest.mark.parametrize(
    ("url", "private", "hosts"),
    [
        ("http://example.org/", None, "*"),
        ("http://example.org/", "hooks.corp", "*"),
        ("https://10.0.0.5/", None, "*"),
        ("https://10.0.0.5/", "10.0.0.6", "*"),
        ("https://169.254.169.254/", "169.254.169.254", "*"),
        ("https://example.com/", None, ".example.org"),
        ("https://hooks.corp/", "hooks.corp", "example.org"),
    ],
)
def test_refused_urls(make, url, private, hosts):
    with pytest.raises(WebhookRefused, match=r"^webhook\.url"):
        make(private, hosts).check(Webhook(url=url), Owner(name="ann"))
