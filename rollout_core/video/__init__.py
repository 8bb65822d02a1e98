"""Videos: decoding, sampling, and cutting clips for the model."""
