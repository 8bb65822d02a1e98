import pytest

from rollout_core.suggestions import (
    MAX_LISTED,
    enumerate_choices,
    nearest,
    suggest,
    suggest_or_list,
)

NAMES = ["method", "model", "weighting", "webhook"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("metod", ["method"]),
        ("METHOD", ["method"]),
        ("weight", ["weighting"]),
        ("hook", ["webhook"]),
        ("zz", []),
        ("", []),
        ("x" * 100_000, []),
    ],
)
def test_the_nearest_names_are_found(word, found):
    assert nearest(word, NAMES) == found


def test_names_that_are_equally_near_are_all_named():
    assert suggest("swimm", ["swims", "swim", "run"]) == "did you mean swim or swims?"


def test_few_names_are_listed_and_many_are_not():
    assert suggest_or_list("zz", NAMES, what="names") == f"names: {', '.join(NAMES)}"
    many = [f"name-{number}" for number in range(MAX_LISTED + 1)]
    assert suggest_or_list("zz", many, what="names") == ""
    assert suggest_or_list("zz", [], what="names") == ""


def test_choices_are_a_text():
    assert enumerate_choices(["a"]) == "a"
    assert enumerate_choices(["a", "b", "c"]) == "a, b or c"
