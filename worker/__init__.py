"""The worker: a supervisor that takes jobs, an engine that holds the model, media that decode."""
