"""Space-time attention rollout for TimeSformer: the model, the method, video in, pictures out."""

__version__ = "0.1.0"
