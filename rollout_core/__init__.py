"""Space-time attention rollout for TimeSformer: the model, the method, video in, pictures out."""
