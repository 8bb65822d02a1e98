"""The worker: a supervisor takes jobs, an engine process runs the model, media processes decode."""
