"""Two linters of OpenAPI documents find nothing to mend in the committed one."""

import json
import os
import subprocess
from pathlib import Path

from tests.system.node import FOLDER, require_node_package

DOCUMENT = Path(__file__).parents[2] / "openapi" / "openapi.json"


def lint(package, program, *arguments, document=DOCUMENT):
    require_node_package(package)
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    return subprocess.run(
        [FOLDER / "node_modules" / ".bin" / program, "lint", document, *arguments],
        cwd=FOLDER,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def redocly(document=DOCUMENT):
    done = lint("@redocly/cli", "redocly", "--format", "json", document=document)
    return json.loads(done.stdout)["problems"]


def spectral(document=DOCUMENT):
    options = ("--ruleset", "spectral.yaml", "--format", "json", "--fail-severity", "hint")
    done = lint("@stoplight/spectral-cli", "spectral", *options, "--quiet", document=document)
    return json.loads(done.stdout)


def test_redocly_finds_nothing():
    assert [(item["ruleId"], item["message"]) for item in redocly()] == []


def test_spectral_finds_nothing():
    assert [(item["code"], item["message"], item["path"]) for item in spectral()] == []


def test_both_find_what_is_wrong(tmp_path):
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    document["paths"]["/v1/jobs"]["get"]["responses"] = {"200": {}}
    del document["info"]["description"]
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))

    assert redocly(path)
    assert spectral(path)
