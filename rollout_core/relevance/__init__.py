"""Relevance: from a model's attention to one number for each patch."""
