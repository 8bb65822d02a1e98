"""The REST API: takes uploads, queues jobs, hands out results."""
