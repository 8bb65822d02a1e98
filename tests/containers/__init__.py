"""The images, built, and the compose file, run as it is: `scripts/containers`."""
