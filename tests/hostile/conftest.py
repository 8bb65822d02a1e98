from tests.worker.conftest import redis_url

__all__ = ["redis_url"]
