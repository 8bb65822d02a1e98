"""Hints for readers of an error: the known name nearest to an unknown one, or all names."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

MAX_SUGGESTED = 3
MAX_LISTED = 32
MAX_COMPARED = 64
"""Characters of a name that are compared: the time grows with their square."""

LEAST_SIMILARITY = 0.6
CLOSE_SHARE = 0.85
"""A name this much less similar than the nearest one is not suggested beside it."""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the known names nearest to `word`, the nearest first; case does not count."""
    by_folded: dict[str, str] = {}
    for name in known:
        by_folded.setdefault(name.casefold()[:MAX_COMPARED], name)
    folded = word.casefold()[:MAX_COMPARED]
    found = get_close_matches(folded, by_folded, MAX_SUGGESTED, LEAST_SIMILARITY)
    best = [SequenceMatcher(None, name, folded).ratio() for name in found]
    found = [name for name, ratio in zip(found, best, strict=True) if ratio > CLOSE_SHARE * best[0]]
    if not found and len(folded) >= MAX_SUGGESTED:
        found = sorted((name for name in by_folded if folded in name), key=len)[:MAX_SUGGESTED]
    return [by_folded[name] for name in found]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean NAME?" with the nearest names, "" if none is near."""
    found = nearest(word, known)
    return f"did you mean {enumerate_choices(found)}?" if found else ""


def suggest_or_list(word: str, known: Iterable[str], *, what: str) -> str:
    """Return `suggest`, else `what` and all names if these are few, else ""."""
    names = list(known)
    listed = f"{what}: {', '.join(names)}" if 0 < len(names) <= MAX_LISTED else ""
    return suggest(word, names) or listed


def enumerate_choices(names: Iterable[str]) -> str:
    """Return the names as a text: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
