"""Reads the JSON files beside a checkpoint."""

import json
from pathlib import Path
from typing import Any

from rollout_core.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file holds something else, or names a key twice.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON of distinct keys: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; raise ValueError if a key appears twice."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key!r} appears twice")
        values[key] = value
    return values
