"""For teams that call the service: a pytest plugin, a fake service, and a suite of the API."""
