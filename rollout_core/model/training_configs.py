"""What the configuration that a training program stored in its checkpoint says about the input."""

import re
from collections.abc import Mapping
from typing import Any

from rollout_core.errors import CheckpointError

MMACTION_PIXEL = 127.5
"""Mean and deviation of each channel, of 255, in mmaction2's configurations of TimeSformer."""

_NUMBERS = r"\s*((?:\[[^\]]*\])|(?:(?:\n\s*-[^\n]*)+))"
"""A list in YAML, in one line or with one line for each item, or a list in Python."""


def published_frames(content: Mapping[Any, Any], default: int) -> int:
    """Return the number of frames of a clip that the published code's `cfg` states."""
    found = re.search(r"^\s*NUM_FRAMES:\s*(\d+)", str(content.get("cfg", "")), re.MULTILINE)
    return int(found[1]) if found else default


def published_input(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the mean and deviation that the published code's `cfg` states, if it does.

    Raises:
        CheckpointError: they are no three numbers.
    """
    text = str(content.get("cfg", ""))
    return {
        field: _only(re.findall(rf"^\s*{name}:{_NUMBERS}", text, re.MULTILINE), name)
        for field, name in (("mean", "MEAN"), ("std", "STD"))
        if re.search(rf"^\s*{name}:", text, re.MULTILINE)
    }


def mmaction_input(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the mean and deviation of a model that mmaction2 trained.

    Those of its configurations of TimeSformer, unless the stored configuration has others.

    Raises:
        CheckpointError: the stored configuration has several, or no three numbers.
    """
    meta = content.get("meta")
    notes = meta if isinstance(meta, Mapping) else {}
    text = str(notes.get("cfg", "")) + str(notes.get("config", ""))
    fields = {}
    for field, name in (("mean", "mean"), ("std", "std")):
        found = re.findall(rf"\b{name}=(\[[^\]]*\])", text)
        stated = _only(found, name) if found else (MMACTION_PIXEL,) * 3
        fields[field] = tuple(value / 255 for value in stated)
    return fields


def _only(lists: list[str], name: str) -> tuple[float, ...]:
    """Return the numbers in these lists, which must be the same in all."""
    found = {tuple(float(number) for number in _numbers(text)) for text in lists}
    if len(found) != 1 or len(numbers := found.pop()) != 3:
        raise CheckpointError(f"its training configuration has no single {name} of three numbers")
    return numbers


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", re.sub(r"\n\s*-", "\n", text))
