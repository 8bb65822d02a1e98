"""Fault injection: kill any part of a running service and check that every job still ends."""
