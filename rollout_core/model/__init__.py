"""The model: specs, the network, and reading checkpoints."""
