import pytest

from tests.benchmarks.suite import targets
from tests.benchmarks.suite.targets import Target, figures_of, rows

FIGURES = {"job/a": [1.2, 1.1, 1.3], "job/b": 1.4, targets.CHOSEN: "bfloat16", "p/bfloat16": 5.0}


@pytest.mark.parametrize(
    ("names", "limit", "verdict"),
    [
        (["job/a"], {"at_most": 1.2}, "met"),
        (["job/a"], {"at_most": 1.19}, "missed"),
        (["job/a", "job/b"], {"at_most": 1.3}, "missed"),
        (["job/a", "job/b"], {"at_least": 1.2}, "met"),
        (["job/a", "job/b"], {"at_least": 1.3}, "missed"),
        (["job/a", "job/c"], {"at_most": 9}, "not measured"),
        (["p/{precision}"], {"at_least": 5}, "met"),
    ],
)
def test_the_worst_figure_counts(names, limit, verdict):
    assert Target("what", tuple(names), **limit).verdict(FIGURES, "avx2") == verdict


def test_a_processor_with_amx_has_its_own_limit():
    target = Target("what", ("p/bfloat16",), at_least=2, amx=6)
    assert target.verdict(FIGURES, "avx512f") == "met"
    assert target.verdict(FIGURES, "avx512f amx_bf16") == "missed"


def test_figures_are_named_by_section():
    sections = {"job": {"figures": {"x": 1}}, "start": {"skipped": "needs av"}}
    assert figures_of(sections) == {"job/x": 1}


def test_rows_show_every_revision_and_judge_the_last():
    name = "start/worker: announced, s"
    report = {
        "device": "cpu",
        "machine": {"instructions": "avx2"},
        "revisions": {
            label: {"sections": {"start": {"figures": {"worker: announced, s": seconds}}}}
            for label, seconds in (("before", 5.0), ("now", 2.0))
        },
    }
    found = next(row for row in rows(report) if row["what"].startswith("start of a worker"))
    assert any(name in target.figures for target in targets.ON_CPU)
    assert list(found.values())[1:] == ["≤ 3", "5.00", "2.00", "met"]
    verdicts = {row["verdict"] for row in rows(report)}
    assert verdicts == {"met", "not measured"}


def test_a_gpu_has_targets_of_its_own():
    report = {"device": "cuda", "machine": {"instructions": ""}, "revisions": {}}
    with pytest.raises(IndexError):
        rows(report)
    report["revisions"] = {"now": {"sections": {}}}
    assert len(rows(report)) == len(targets.ON_GPU)
