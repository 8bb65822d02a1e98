"""The names of the colormaps that an overlay can have.

The renderer takes them from the package cmap, which the service does not have. So their list is
kept here; a test compares the two.
"""

from functools import cache
from importlib.resources import files

from rollout_core.suggestions import suggest

REVERSED = "_r"
"""Suffix of a name: the same colours in the other order."""


def is_colormap(name: str) -> bool:
    """Return whether a colormap has this name; case, and `-` for `_`, do not count."""
    known = _normalized_names()
    return _normalize(name) in known or _normalize(name.removesuffix(REVERSED)) in known


def colormap_names() -> tuple[str, ...]:
    """Return all names, without those of reversed colormaps."""
    text = files("rollout_core").joinpath("colormaps.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def suggest_colormap(name: str) -> str:
    """Return a hint for the reader of an error: the names nearest to an unknown one."""
    hint = suggest(name, colormap_names())
    return hint or "the names are those of matplotlib, such as turbo, viridis or magma_r"


@cache
def _normalized_names() -> frozenset[str]:
    return frozenset(map(_normalize, colormap_names()))


def _normalize(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")
