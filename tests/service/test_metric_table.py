"""The table of metrics keeps the rules of Prometheus for names and units."""

import re

import pytest

from service.metric_table import DEFINITIONS, OWN, READ_AT_SCRAPE, SHARED, WATCHED, Families

BASE_UNITS = ("seconds", "bytes")
OTHER_UNITS = ("milliseconds", "minutes", "kilobytes", "megabytes", "percent", "ms")
LABELS = {
    *("child", "device", "engine", "gpu", "method", "model", "name", "outcome", "precision"),
    *("route", "stage", "state", "status", "version", "worker"),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_name_has_our_prefix_a_base_unit_and_total_only_for_counters(name):
    definition = DEFINITIONS[name]

    assert re.fullmatch(r"rollout_[a-z]+(_[a-z]+)*", name)
    assert not set(name.split("_")) & set(OTHER_UNITS)
    assert (definition.kind == "counter") == name.endswith("_total")
    unit = name.removesuffix("_total").rpartition("_")[2]
    if {"second", "byte"} & {word.removesuffix("s") for word in definition.help.lower().split()}:
        assert unit in BASE_UNITS


@pytest.mark.parametrize("name", DEFINITIONS)
def test_labels_are_known_and_none_names_an_owner(name):
    assert set(DEFINITIONS[name].labels) <= LABELS
    assert re.fullmatch(r"[A-Z0-9].*\.", DEFINITIONS[name].help)


def test_what_all_processes_share_says_so():
    assert all(each.text.endswith("Each API process tells the same.") for each in SHARED)
    assert not any("the same" in each.text for each in OWN)
    assert {*READ_AT_SCRAPE, *WATCHED} == {each.name for each in SHARED}
    assert len(DEFINITIONS) == len(SHARED) + len(OWN)


def test_a_sample_of_another_kind_is_our_bug():
    families = Families(("rollout_jobs", "rollout_worker_stage_seconds"))

    with pytest.raises(AssertionError):
        families.add_summary("rollout_jobs", 1, 2.0, "m", "queued")
    with pytest.raises(AssertionError):
        families.add("rollout_worker_stage_seconds", 1, "m", "w", "s")
