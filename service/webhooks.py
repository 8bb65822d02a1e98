"""Webhooks: which URLs are called, and the signed event that reports the end of a job.

The headers are those of Standard Webhooks. An event keeps its `webhook-id` however often it is
sent, so a receiver can recognize it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook as Signer

from rollout_core.contract import Webhook
from rollout_core.jobs.schemas import Job, JobEvent
from service.delivery_store import webhook_id
from service.errors import WebhookRefused
from service.outbound import AddressRefused, Hosts, Outbound, parse_url
from service.usage import Owner
from service.webhook_secrets import WebhookSecrets


@dataclass(frozen=True)
class SignedEvent:
    """The request that delivers an event."""

    headers: dict[str, str]
    body: bytes


class Webhooks:
    """Checks webhooks when a job is submitted, and again before each delivery."""

    def __init__(
        self,
        outbound: Outbound,
        secrets: WebhookSecrets,
        *,
        hosts: Hosts,
        private_hosts: Hosts,
        secret_setting: str,
    ) -> None:
        """Call only `hosts`.

        Args:
            secret_setting: what the operator must set so that events can be signed.
        """
        self.outbound = outbound
        self._secrets = secrets
        self._hosts = hosts
        self._private_hosts = private_hosts
        self._secret_setting = secret_setting

    def check(self, webhook: Webhook, owner: Owner | None) -> None:
        """Check the webhook of a new job. Names of hosts are resolved only at delivery.

        Raises:
            WebhookRefused: its URL is not allowed, or there is no secret to sign its events.
        """
        self.check_url(webhook.url)
        if not self._secrets.of(owner.name if owner else None):
            raise WebhookRefused(
                f"webhooks cannot be signed: the operator must set {self._secret_setting}"
            )

    def check_url(self, url: str) -> None:
        """Check the URL of a webhook without resolving its host.

        Raises:
            WebhookRefused: it is not allowed.
        """
        try:
            target = parse_url(url)
            self.outbound.check_literal(target)
        except AddressRefused as error:
            raise WebhookRefused(f"webhook.url: {error}") from error
        if not self._hosts.allow(target):
            raise WebhookRefused(f"webhook.url: the operator does not allow {target.authority}")
        if target.scheme != "https" and not self._private_hosts.allow(target):
            raise WebhookRefused("webhook.url must begin with https://")

    def sign(self, job: Job, owner: str | None) -> SignedEvent:
        """Return the event that reports the end of a job, signed now by each secret.

        Raises:
            WebhookRefused: there is no secret.
        """
        secrets = self._secrets.of(owner)
        if not secrets:
            raise WebhookRefused("there is no secret to sign the event")
        event = event_of(job)
        body, now = event.model_dump_json(), datetime.now(UTC)
        message_id = webhook_id(job.id, event.type)
        signatures = [Signer(secret).sign(message_id, now, body) for secret in secrets]
        headers = {
            "content-type": "application/json",
            "user-agent": "timesformer-rollout",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        return SignedEvent(headers, body.encode())


def event_of(job: Job) -> JobEvent:
    """Return the event that reports the end of a job."""
    assert job.ended_at is not None
    return JobEvent.model_validate(
        {"type": f"job.{job.state}", "timestamp": job.ended_at, "data": job}
    )
