"""Reads the parameters in a file that `torch.save` wrote, without executing anything in it."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rollout_core.errors import CheckpointError
from rollout_core.model.parameter_names import cls_tokens, is_average, is_state_dict

USUAL_PLACES = ("model_state", "state_dict", "model_state_dict", "model", "module", "")
"""Where training programs put the trained parameters, the likeliest first; "": at the top."""

NAMED_TYPES = 3
"""An error message lists at most this many types of objects."""


class Skipped:
    """Stands for an object that is neither a tensor nor a plain value, and keeps nothing of it."""

    def __new__(cls, *_: object) -> "Skipped":
        """Ignore the object's arguments."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Ignore the object's state."""


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


STAND_INS: dict[str, Any] = {"collections.defaultdict": _empty_dict}
"""Stand-ins for types to which a pickle adds items. Those of all others are `Skipped`."""


def load_pickle(path: Path) -> Any:
    """Return the content of a file that `torch.save` wrote. No code in it runs.

    Tensors, numbers, text, lists and dicts are read. Any other object, such as a numpy scalar or
    the options of a training program, becomes `Skipped`: its class is neither imported nor called.

    Raises:
        CheckpointError: the file is no such pickle, or needs the real class of an object.
    """
    foreign = _foreign_types(path)
    # A stand-in for each of these names is all that the allow-list gets.
    allowed: list[Any] = [(STAND_INS.get(name, Skipped), name) for name in foreign]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, RuntimeError):  # from the container, before the pickle is read
            reason = "is damaged, or torch.save did not write it"
        else:
            objects = f" ({', '.join(foreign[:NAMED_TYPES])})" if foreign else ""
            reason = (
                f"is no pickle of tensors and plain values, or it holds objects{objects} that are "
                "never loaded, because they could run code; save the state_dict alone"
            )
        raise CheckpointError(f"{path} {reason}") from error


def find_parameters(path: Path, content: object) -> dict[str, Any]:
    """Return the state_dict in the content of a pickle.

    Averaged weights (EMA) count only if there are no others.

    Raises:
        CheckpointError: there is none, or there are several and none stands in a usual place.
    """
    places: dict[str, dict[str, Any]] = dict(_state_dicts(content))
    trained = {place: part for place, part in places.items() if not is_average(place)} or places
    for place in USUAL_PLACES:
        if place in trained:
            return trained[place]
    if not trained:
        raise CheckpointError(f"{path} has no state_dict of a TimeSformer (no cls_token)")
    if len(trained) > 1:
        raise CheckpointError(
            f"{path} holds several models: {', '.join(sorted(trained))}; save one of them alone"
        )
    return next(iter(trained.values()))


def _foreign_types(path: Path) -> list[str]:
    """Return the names of the classes and functions that a pickle refers to, but may not load."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # no zip file: an old format, or no pickle at all
        return []


def _state_dicts(content: object, place: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Yield the state_dicts in nested dicts, each with its place: keys joined by dots."""
    if not isinstance(content, Mapping):
        return
    if is_state_dict(content):
        yield place, content
    if depth and not cls_tokens(content):
        for key, part in content.items():
            if isinstance(key, str):
                yield from _state_dicts(part, f"{place}.{key}" if place else key, depth - 1)
