"""The `webhooks` section of the OpenAPI document: what a client's endpoint receives.

The headers are those of Standard Webhooks; see `service.webhooks`.
"""

from typing import Any

from rollout_core.jobs.schemas import JobEvent
from service.openapi_rules import SCHEMAS

HEADERS = {
    "webhook-id": "Id of the event. It is the same in each attempt to deliver it.",
    "webhook-timestamp": "When this attempt was made, in Unix seconds.",
    "webhook-signature": "Signatures of id, timestamp and body, separated by spaces. During a "
    "change of the secret there are several, and one that fits is enough.",
}

WEBHOOKS: dict[str, Any] = {
    "jobEvent": {
        "post": {
            "operationId": "receive_job_event",
            "tags": ["jobs"],
            "summary": "Report the end of a job to the URL in its webhook",
            "description": "Report the end of a job to the URL in its webhook. Verify the "
            "signature before you read the body. An event may arrive more than once.",
            "security": [],
            "parameters": [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": description,
                    "schema": {"type": "string"},
                }
                for name, description in HEADERS.items()
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"{SCHEMAS}{JobEvent.__name__}"}}
                },
            },
            "responses": {
                "2XX": {"description": "The event has arrived. It is not sent again."},
                "410": {"description": "The endpoint wants no more. The event is given up."},
                "default": {"description": "The event is sent again later, for about a day."},
            },
        }
    }
}
"""One call for all kinds of events, because their bodies have the same schema."""
