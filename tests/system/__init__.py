"""The whole service as separate processes, for tests: start, use, kill and restart its parts."""
