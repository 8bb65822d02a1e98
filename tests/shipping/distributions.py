"""The distributions of an installation, read from the environment that runs the tests."""

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "timesformer-rollout"


def needed(*extras: str) -> set[str]:
    """Return the names of all distributions that the project with `extras` needs."""
    seen: set[tuple[str, str]] = set()
    todo = [(PROJECT, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [
                    (canonicalize_name(requirement.name), wanted)
                    for wanted in ("", *requirement.extras)
                ]
    return {name for name, _ in seen} - {PROJECT}


def installed_bytes(name: str) -> int:
    """Return the size of a distribution's files on disk."""
    paths = (file.locate() for file in distribution(name).files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())
