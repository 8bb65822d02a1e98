"""The model: its specs, the network, and reading checkpoints."""
