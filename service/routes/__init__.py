"""The calls of the REST API, one module a noun."""
