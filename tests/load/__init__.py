"""How the service bears many clients at once."""
