"""Class names from the `id2label` and `label2id` of a Hugging Face configuration."""

import re
from collections.abc import Mapping
from typing import Any

from rollout_core.errors import CheckpointError

Names = dict[int, str]
"""Maps the index of a class to its name. Classes without a name are absent."""

_INDEX = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


def read_class_names(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Return one name for each class, or None if the configuration names no class.

    A class without a name between named ones is called "class N", as `ModelSpec.label` does.
    `LABEL_3` is a placeholder for the name of class 3. `label2id` counts if there is no
    `id2label`.

    Args:
        classes: number of classes of the model.
    Raises:
        CheckpointError: the configuration does not map indices of these classes to names, or its
            two maps disagree.
    """
    names = _named(_read_id2label(config.get("id2label")))
    reverse = _named(_read_label2id(config.get("label2id")))
    if names:
        _check_agreement(names, reverse)
    names = names or reverse
    if beyond := [index for index in names if index >= classes]:
        raise CheckpointError(
            f"the labels name class {max(beyond)}, but the model has {classes} classes"
        )
    if not names:
        return None
    return tuple(names.get(index, f"class {index}") for index in range(max(names) + 1))


def _read_id2label(value: Any) -> Names:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"id2label is {_kind(value)}, not a map of class indices to names")
    names = {}
    for key, name in value.items():
        if not isinstance(name, str) or not name.strip():
            raise CheckpointError(f"id2label gives class {key} the name {name!r}")
        names[_index("id2label", key)] = name
    return names


def _read_label2id(value: Any) -> Names:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"label2id is {_kind(value)}, not a map of names to class indices")
    names: Names = {}
    for name, key in value.items():
        index = _index("label2id", key)
        if index in names:
            raise CheckpointError(f"label2id gives class {index} two names")
        names[index] = name
    return names


def _index(field: str, key: object) -> int:
    """Return the index of a class that is given as an integer, or by its digits."""
    text = key if isinstance(key, str) else repr(key)  # of True and 1.0, repr is no digits
    if not _INDEX.fullmatch(text):
        raise CheckpointError(f"{field} has the class index {key!r}")
    return int(text)


def _named(names: Names) -> Names:
    """Return the names that are no placeholders."""
    return {index: name for index, name in names.items() if name != f"LABEL_{index}"}


def _check_agreement(names: Names, reverse: Names) -> None:
    for index, name in reverse.items():
        if names.get(index) != name:
            raise CheckpointError(
                f"id2label calls class {index} {names.get(index)!r}, but label2id {name!r}"
            )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
