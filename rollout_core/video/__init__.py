"""Videos: decoding, sampling, and the clips that the model sees."""
