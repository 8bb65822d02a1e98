"""What the HTTP API promises to its callers, as tests.

    pytest --pyargs rollout_core.testing.contract                          against a fake service
    pytest --pyargs rollout_core.testing.contract --rollout-url URL        against that service

The tests use only what `docs/api.md` promises, and delete the jobs that they create.
"""
