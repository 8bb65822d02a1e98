"""Jobs: the records, the store and the Redis keys that service and worker share."""
