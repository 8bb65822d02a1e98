import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.openapi import render
from service.settings import Settings

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"


@pytest.fixture(scope="module")
def document():
    return create_app(Settings()).openapi()


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_the_committed_document_is_the_apps(document):
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == document, "run scripts/openapi"
    assert COMMITTED.read_text(encoding="utf-8") == render(create_app(Settings()))


def test_it_is_printed_without_making_a_data_directory(tmp_path):
    command = [sys.executable, "-m", "service.app"]

    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert printed.stdout == COMMITTED.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_every_call_of_the_contract_is_there(document):
    assert {name: operation["operationId"] for name, operation in operations(document)} == {
        "POST /v1/jobs": "create_job",
        "GET /v1/jobs": "list_jobs",
        "GET /v1/jobs/{job_id}": "get_job",
        "POST /v1/jobs/{job_id}/cancel": "cancel_job",
        "DELETE /v1/jobs/{job_id}": "delete_job",
        "GET /v1/jobs/{job_id}/artifacts/{name}": "get_artifact",
        "GET /v1/jobs/{job_id}/events": "follow_job",
        "POST /v1/uploads": "create_upload",
        "GET /v1/uploads": "list_uploads",
        "GET /v1/uploads/{upload_id}": "get_upload",
        "DELETE /v1/uploads/{upload_id}": "delete_upload",
        "GET /v1/models": "list_models",
        "GET /livez": "get_liveness",
        "GET /readyz": "get_readiness",
    }


def test_every_call_has_one_tag_that_is_explained(document):
    explained = {tag["name"] for tag in document["tags"]}

    for name, operation in operations(document):
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= explained, name
        assert operation["description"], name


def test_every_error_is_a_problem_document(document):
    for name, operation in operations(document):
        errors = {status for status in operation["responses"] if status[0] not in "123"}
        assert "default" in errors, name
        for status in errors:
            assert operation["responses"][status]["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }, name


def test_only_calls_below_the_prefix_need_a_key(document):
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    for call, operation in operations(document):
        guarded = " /v1/" in call
        assert operation.get("security") == ([{name: []}] if guarded else None), call
        assert ("401" in operation["responses"]) == guarded, call


def test_the_errors_worth_naming_are_named(document):
    responses = document["paths"]["/v1/jobs"]["post"]["responses"]

    assert {"202", "400", "408", "413", "415", "422", "429", "507"} <= responses.keys()
    assert "unknown_model" in responses["422"]["description"]


@pytest.mark.parametrize(
    ("path", "method", "status", "names"),
    [
        ("/v1/jobs", "post", "202", {"Location", "Retry-After", "Preference-Applied"}),
        ("/v1/jobs", "post", "429", {"Retry-After"}),
        ("/v1/jobs", "post", "503", {"Retry-After"}),
        ("/v1/jobs", "get", "401", {"WWW-Authenticate"}),
        ("/v1/jobs/{job_id}/artifacts/{name}", "get", "200", {"ETag"}),
        ("/v1/jobs/{job_id}/artifacts/{name}", "get", "206", {"ETag", "Content-Range"}),
        ("/v1/jobs/{job_id}/artifacts/{name}", "get", "304", {"ETag"}),
        ("/v1/jobs/{job_id}/artifacts/{name}", "get", "416", {"Content-Range"}),
    ],
)
def test_headers_that_clients_need_are_described(document, path, method, status, names):
    response = document["paths"][path][method]["responses"][status]

    assert response["headers"].keys() == names


def test_the_upload_is_a_form_of_a_file_and_json(document):
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]

    assert form["schema"]["required"] == ["video"]
    assert form["schema"]["properties"]["video"]["format"] == "binary"
    assert form["schema"]["properties"]["request"]["$ref"].endswith("/JobOptions")
    assert form["encoding"]["request"] == {"contentType": "application/json"}
    assert form["encoding"]["video"]["contentType"].startswith("video/mp4, ")


def test_every_reference_leads_somewhere(document):
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert names <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in text
    assert {"Job", "Problem", "ExplainRequest", "ExplainResult", "FieldError"} <= names


def test_it_is_served(client, document):
    assert client.get("/openapi.json").json() == document
    assert client.get("/docs").status_code == 200
