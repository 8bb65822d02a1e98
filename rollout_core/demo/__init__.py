"""Moving things: clips with known evidence, and a small TimeSformer trained on them."""
