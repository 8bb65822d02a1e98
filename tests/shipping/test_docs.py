"""The documents agree with the code: links, settings, error codes."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

import service.app  # noqa: F401 (brings every class of errors that the service has)
import worker.__main__  # noqa: F401 (and those of the worker)
from rollout_core.contract import FailureCode, JobOptions, Overlay
from rollout_core.errors import RolloutError
from service.problems import status_of
from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings

README_LINES = 180

NAMED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = (
    "api",
    "clients",
    "design",
    "kubernetes",
    "methods",
    "observability",
    "operations",
    "page",
    "performance",
    "reliability",
    "scaling",
    "security",
    "webhooks",
)

FRAMEWORK_CODES = {"not_found", "method_not_allowed"}
"""Made of HTTP statuses that Starlette answers with by itself."""

HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4,}\S.*$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
EXTERNAL = re.compile(r"[a-z]+:")


def documents(root):
    return [*(root / name for name in NAMED), *sorted((root / "docs").glob("*.md"))]


def prose_of(text):
    """Return a document without its blocks of code."""
    return INDENTED.sub("", FENCE.sub("", text))


def anchors_of(text):
    """Return the anchors that GitHub gives to a document's headings."""
    seen, anchors = Counter(), set()
    for heading in HEADING.findall(prose_of(text)):
        words = LINK.sub("]", heading).replace("[", "").replace("]", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors


def links_of(text):
    """Return the links of a document, but for those to other sites."""
    found = LINK.findall(CODE.sub("", prose_of(text)))
    return [link for link in found if not EXTERNAL.match(link)]


def problem_with(link, document):
    """Return what is wrong with a link in a document, or None."""
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists():
        return "no such file"
    if anchor and anchor not in anchors_of(target.read_text(encoding="utf-8")):
        return "no such heading"
    return None


def section(text, heading):
    """Return what stands below a heading of the second level."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    assert rest, f"there is no section {heading!r}"
    return rest.partition("\n## ")[0]


def rows(text):
    """Return the cells of each row of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [at for at, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    heads = {at - 1 for at in rules}
    return [row for at, row in enumerate(cells) if at not in {*rules, *heads}]


def subclasses(kind):
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def ours(kind):
    """Whether a class is the project's: other tests make errors of their own."""
    return kind.__module__.partition(".")[0] in ("rollout_core", "service", "worker")


def literal_problems(path):
    """Yield status and code of each problem document that a module words by itself.

    That is a call whose first two arguments are a status, as a number, and a text.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                args=[ast.Constant(value=int(status)), ast.Constant(value=str(code)), *_]
            ):
                if 400 <= status < 600:
                    yield status, code


@pytest.fixture(scope="module")
def api(root):
    return (root / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def error_classes():
    return {
        kind.code: kind for kind in filter(ours, subclasses(RolloutError)) if "code" in vars(kind)
    }


@pytest.fixture(scope="module")
def literals(root):
    """The problems that no class stands for."""
    modules = (root / "service").rglob("*.py")
    return {code: status for path in modules for status, code in literal_problems(path)}


@pytest.fixture(scope="module")
def error_table(api):
    """Return, for each code in the table, where it occurs."""
    return {row[0].strip("`"): row[1].split(", ") for row in rows(section(api, "Errors"))}


@pytest.fixture(scope="module")
def inner_codes(api):
    """The codes of which the document says that no answer has them."""
    (line,) = re.findall(r"^These codes are used inside only\. .*$", api, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", line))


@pytest.fixture
def settings_table(root):
    path = root / "scripts" / "settings_table.py"
    spec = importlib.util.spec_from_file_location("settings_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_there(root):
    assert {path.stem for path in (root / "docs").glob("*.md")} >= set(PAGES)


def test_every_link_resolves(root):
    broken = [
        f"{document.relative_to(root)}: {link}: {problem}"
        for document in documents(root)
        for link in links_of(document.read_text(encoding="utf-8"))
        if (problem := problem_with(link, document))
    ]
    assert broken == []


def test_links_that_do_not_resolve_are_seen(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A `b.c`: d\n\n    # code\n\n## Twice\n\n## Twice\n")
    text = "# Here\n[a](other.md) [b](other.md#twice-1) [c](#here) [d](https://e.org/#f) `[g](h)`\n"
    page.write_text(f"{text}[i](gone.md) [j](other.md#code) [k](#there)\n")
    assert links_of(text) == ["other.md", "other.md#twice-1", "#here"]
    assert anchors_of(other.read_text()) == {"a-bc-d", "twice", "twice-1"}
    assert [problem_with(link, page) for link in links_of(page.read_text())] == [
        *(None, None, None),
        *("no such file", "no such heading", "no such heading"),
    ]


def test_readme_is_short_and_names_both_scripts_and_every_page(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    assert "\n    scripts/demo" in text
    assert "\n    scripts/test\n" in text
    assert "`scripts/test` is the test command" in text
    assert set(links_of(text)) >= {*(f"docs/{page}.md" for page in PAGES), *NAMED[1:], "examples/"}


def test_settings_are_those_of_the_code(settings_table):
    document = settings_table.DOCUMENT.read_text(encoding="utf-8")
    hint = "run scripts/settings-table"
    assert settings_table.replace_tables(document, settings_table.render_tables()) == document, hint


def test_settings_table_has_each_setting_with_its_variable_flag_and_default(settings_table):
    for settings in (ServiceSettings, WorkerSettings):
        table = rows(settings_table.render_table(settings))
        variables = [f"`ROLLOUT_{name.upper()}`" for name in settings.model_fields]
        assert [row[0] for row in table] == variables
    table = {row[0]: row[1:3] for row in rows(settings_table.render_tables())}
    assert table["`ROLLOUT_STANDALONE`"] == ["`--standalone`", "`false`"]
    assert table["`ROLLOUT_REQUIRE_CONFINEMENT`"] == ["`--require-confinement`", "`false`"]
    assert table["`ROLLOUT_BATCH_CLIPS`"] == ["`--batch-clips`", "–"]


@pytest.mark.parametrize("command", ["service", "worker"])
def test_flags_of_the_settings_table_are_those_of_the_command(settings_table, command):
    settings = {"service": ServiceSettings, "worker": WorkerSettings}[command]
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for _, flag, *_ in rows(settings_table.render_table(settings)):
        assert flag.strip("`").split()[0] in done.stdout


@pytest.mark.parametrize("text", ["", "<!-- settings:start -->", "{0}{0}{1}", "{1}"])
def test_document_without_its_markers_is_refused(settings_table, text):
    text = text.format(settings_table.START, settings_table.END)
    with pytest.raises(ValueError, match="once each"):
        settings_table.replace_tables(text, "")


def test_settings_script_runs_the_generator(root):
    script = root / "scripts" / "settings-table"
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "settings_table.py" in script.read_text()
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_error_table_has_every_code_and_no_other(error_classes, literals, error_table, inner_codes):
    known = {*error_classes, *literals, *FRAMEWORK_CODES}
    assert len(known) > 30
    assert inner_codes.isdisjoint(error_table)
    assert {*error_table, *inner_codes} == known


def test_error_table_has_the_statuses_of_the_code(error_classes, literals, error_table):
    for code, places in error_table.items():
        (status,) = [place for place in places if place != "job"] or (None,)
        if status is None:
            assert code in error_classes
        elif code in error_classes:
            assert int(status) == status_of(error_classes[code]), code
        elif code in literals:
            assert int(status) == literals[code], code


def test_a_script_can_ask_for_every_code_with_which_a_job_fails(error_table):
    codes = {code for code, places in error_table.items() if "job" in places}
    assert set(get_args(FailureCode)) == codes


def test_request_fields_are_those_of_the_contract(api):
    named = [row[0].strip("`") for row in rows(section(api, "Request fields"))]
    fields = {*JobOptions.model_fields, *(f"overlay.{name}" for name in Overlay.model_fields)}
    assert fields <= set(named)
    assert {name for name in named if re.fullmatch(r"[a-z_.]+", name)} == fields
