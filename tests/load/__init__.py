"""Load test of the service with many clients."""
