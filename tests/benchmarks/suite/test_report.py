from tests.benchmarks.suite.document import fill
from tests.benchmarks.suite.report import describe_run, describe_section, render

SECTION = {
    "tables": [{"title": "Ratios", "rows": [{"what": "draw", "× decode": [2.0, 1.5, 2.5]}]}],
    "figures": {},
    "notes": ["Baseline: decode."],
    "seconds": 12.3,
    "load": [0.5, 1.5],
}


def report(**revisions):
    return {
        "command": "scripts/bench --quick",
        "date": "2026-11-26",
        "device": "cpu",
        "scale": "quick",
        "rounds": 3,
        "machine": {"processor": "Fast 9000", "instructions": "avx2"},
        "revisions": {
            label: {"commit": f"c-{label}", "sections": sections}
            for label, sections in revisions.items()
        },
    }


def test_section_has_its_tables_notes_time_and_load():
    text = describe_section(SECTION)
    assert text.startswith("### Ratios\n\n| what | × decode |\n")
    assert "| draw | 2.00 (1.50–2.50) |" in text
    assert "- Baseline: decode.\n- Took 12 s; load 0.5 before, 1.5 after." in text


def test_section_that_could_not_run_says_why():
    assert describe_section({"skipped": "needs av"}) == "**Skipped:** needs av"
    assert describe_section({"error": "ValueError: no"}) == "**Error:** ValueError: no"


def test_report_begins_with_run_and_targets():
    text = render(report(now={"videos": SECTION, "peers": {"skipped": "needs transformers"}}))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Targets",
        "## Peers: Hugging Face's model with hooks",
        "## Video: decoding and drawing",
    ]
    assert "`scripts/bench --quick`, 2026-11-26; now: `c-now`. processor Fast 9000" in text
    assert "not measured" in text


def test_two_revisions_stand_one_after_the_other():
    text = render(report(before={"videos": SECTION}, now={"videos": SECTION}))
    places = [text.index(f"decoding and drawing ({label})") for label in ("before", "now")]
    assert places == sorted(places)


def test_page_is_filled_between_its_markers_only():
    page = (
        "a\n<!-- bench: videos -->\nold\n<!-- end -->\nb\n<!-- bench: job -->\nkept\n<!-- end -->"
    )
    filled = fill(page, report(now={"videos": SECTION}))
    assert filled.startswith("a\n<!-- bench: videos -->\n\n### Ratios")
    assert filled.endswith("<!-- end -->\nb\n<!-- bench: job -->\nkept\n<!-- end -->")
    assert "old" not in filled
    assert fill(filled, report(now={"videos": SECTION})) == filled


def test_page_gets_run_and_targets():
    page = "<!-- bench: run -->\n<!-- end -->\n<!-- bench: targets -->\n<!-- end -->"
    filled = fill(page, report(now={}))
    assert describe_run(report(now={})) in filled
    assert "| what | target | now | verdict |" in filled
