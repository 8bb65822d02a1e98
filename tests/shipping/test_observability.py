"""The alert rules, the dashboard and the document of the metrics agree with the code."""

import json
import re
import subprocess

import pytest

from service.metric_table import DEFINITIONS
from tests.system.tools import require_tool

SUFFIXES = ("", "_sum", "_count", "_bucket")
METRIC = re.compile(r"\brollout_[a-z_]+")
ALERT = re.compile(r"^ +- alert: (\w+)$", re.MULTILINE)
EXPRESSION = re.compile(r"expr: (?:>\n((?: {10}.*\n)+)|(.*)\n)")


@pytest.fixture
def rules(root):
    return root / "deploy" / "prometheus"


@pytest.fixture
def dashboard(root):
    return json.loads((root / "deploy" / "grafana" / "dashboard.json").read_text())


@pytest.fixture
def document(root):
    return (root / "docs" / "observability.md").read_text()


def expressions_of(rules):
    """Return the expression of each alert by its name."""
    text = (rules / "alerts.yml").read_text()
    found = [block or line for block, line in EXPRESSION.findall(text)]
    return dict(zip(ALERT.findall(text), found, strict=True))


def queries_of(dashboard):
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return {panel["title"]: [item["expr"] for item in panel["targets"]] for panel in panels}


def names_in(text):
    """Return the metrics that a query names."""
    return {
        next((n for n in DEFINITIONS if word in {n + suffix for suffix in SUFFIXES}), word)
        for word in METRIC.findall(text)
    }


def promtool(rules, *arguments):
    command = [require_tool("promtool"), *arguments]
    return subprocess.run(command, cwd=rules, capture_output=True, text=True, timeout=60)


def test_prometheus_accepts_the_example_and_its_rules(rules):
    done = promtool(rules, "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool(rules, "check", "rules", "--lint-fatal", "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_pass_their_tests(rules):
    done = promtool(rules, "test", "rules", "alerts.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("max by (model, worker) (increase", "sum by (model, worker) (increase"),
        ("max by (model, child, worker)", "sum by (model, child, worker)"),
        ("for: 5m", "for: 0m"),
        ("> 900", ">= 900"),
        ("> 0.9", "> 0.96"),
        (">= 5\n", ">= 1\n"),
        ('state="ready"', 'state="loading"'),
    ],
)
def test_their_tests_notice_a_wrong_rule(rules, tmp_path, before, after):
    text = (rules / "alerts.yml").read_text()
    assert before in text
    (tmp_path / "alerts.yml").write_text(text.replace(before, after))
    (tmp_path / "alerts.test.yml").write_text((rules / "alerts.test.yml").read_text())

    assert promtool(tmp_path, "test", "rules", "alerts.test.yml").returncode != 0


def test_every_alert_names_metrics_that_exist_and_is_tested_both_ways(rules):
    tests = (rules / "alerts.test.yml").read_text()
    found = expressions_of(rules)
    assert len(found) == 9
    for alert, expression in found.items():
        assert names_in(expression) <= DEFINITIONS.keys(), alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts:", tests), f"{alert} never fires"


def test_a_scrape_passes_the_linter_of_prometheus(rules, open_metrics):
    command = [require_tool("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=open_metrics, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def open_metrics(tmp_path, redis_url):
    """Return what a new app tells."""
    from prometheus_client import generate_latest
    from starlette.testclient import TestClient

    from service.app import create_app
    from service.settings import Settings

    settings = Settings(redis_url=redis_url, data_dir=tmp_path / "data", max_store_bytes=10**9)
    with TestClient(create_app(settings), "http://localhost") as client:
        client.get("/livez")
        return generate_latest(client.app_state["services"].metrics.registry)


def test_every_query_of_the_dashboard_names_metrics_that_exist(dashboard):
    for title, queries in queries_of(dashboard).items():
        for query in queries:
            assert names_in(query) <= DEFINITIONS.keys(), title
            assert names_in(query), title


def test_labels_of_the_dashboard_are_those_of_its_metrics(dashboard):
    for title, queries in queries_of(dashboard).items():
        for query in queries:
            known = {"le", "instance", "job"}
            known |= {label for name in names_in(query) for label in DEFINITIONS[name].labels}
            grouped = re.findall(r"by \(([a-z, ]+)\)", query)
            used = {label.strip() for group in grouped for label in group.split(",")}
            used |= set(re.findall(r"[{,] *([a-z]+)=", query))
            assert used <= known, title


def test_what_processes_share_is_never_added_up_over_them(dashboard, rules):
    shared = {name for name, each in DEFINITIONS.items() if each.shared}
    queries = [query for each in queries_of(dashboard).values() for query in each]
    for query in [*queries, *expressions_of(rules).values()]:
        for name in names_in(query) & shared:
            direct = re.search(rf"sum[^()]*(\([^()]*\))? *\((rate|increase)?\(?{name}", query)
            assert direct is None, query


def test_every_metric_is_on_the_dashboard_or_says_what_a_worker_is(dashboard):
    shown = {name for each in queries_of(dashboard).values() for q in each for name in names_in(q)}

    only_alerts = {"rollout_workers_without_gpu"}
    about_workers = {"rollout_build_info", "rollout_worker_info"}
    assert DEFINITIONS.keys() - shown == about_workers | only_alerts


def test_panels_of_the_dashboard_do_not_overlap(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    sources = {
        item["datasource"]["uid"] for p in dashboard["panels"] for item in p.get("targets", ())
    }
    assert sources == {"${datasource}"}, "it works with any Prometheus"


def test_the_document_has_each_metric_as_the_service_tells_it(document):
    expected = [
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels) or '–'} | {each.help} |"
        for each in DEFINITIONS.values()
    ]
    rows = [line for line in document.splitlines() if line.startswith("| `rollout_")]
    assert rows == expected, "\n".join(expected)


def test_the_document_has_each_alert(document, rules):
    rows = re.findall(r"^\| `(Rollout\w+)` \|", document, re.MULTILINE)
    assert rows == list(expressions_of(rules))


def test_the_rules_of_prometheus_scrape_where_the_document_says(document, rules):
    (target,) = re.findall(r'targets: \["api:(\d+)"\]', (rules / "prometheus.yml").read_text())
    assert f"ROLLOUT_METRICS_ADDRESS=0.0.0.0:{target}" in document
