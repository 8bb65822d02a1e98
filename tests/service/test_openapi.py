import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from rollout_core import errors as core_errors
from rollout_core.contract import JobOptions
from rollout_core.errors import RolloutError
from service import errors as service_errors
from service.app import create_app
from service.openapi import render
from service.openapi_rules import SCHEMAS, walk
from service.sessions import COOKIE
from service.settings import Settings

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"


@pytest.fixture(scope="module")
def document():
    return create_app(Settings()).openapi()


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def webhooks(document):
    for name, item in document["webhooks"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {name}", operation


def schemas(document, *, of):
    """Return the names of all schemas that requests or answers lead to."""
    part = "requestBody" if of == "requests" else "responses"
    events = [item["requestBody"] for _, item in webhooks(document)]  # an answer, as it may grow
    bodies = [item.get(part) for _, item in operations(document)]
    found, new = set(), references(bodies + (events if of == "answers" else []))
    while new:
        found |= new
        inner = [document["components"]["schemas"][name] for name in new]
        new = references(inner) - found
    return found


def references(node):
    found = (item.get("$ref") for item in walk(node))
    return {ref.removeprefix(SCHEMAS) for ref in found if isinstance(ref, str)}


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
        "GET /v1/jobs/{job_id}/deliveries": "list_deliveries",
        "POST /v1/uploads": "create_upload",
        "GET /v1/uploads": "list_uploads",
        "GET /v1/uploads/{upload_id}": "get_upload",
        "DELETE /v1/uploads/{upload_id}": "delete_upload",
        "POST /v1/session": "begin_session",
        "GET /v1/session": "get_session",
        "DELETE /v1/session": "end_session",
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
            (kind, content), *others = operation["responses"][status]["content"].items()
            assert (kind, others) == ("application/problem+json", []), name
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, name


def test_only_calls_below_the_prefix_need_a_key_or_a_session(document):
    schemes = document["components"]["securitySchemes"]
    assert schemes["key"]["scheme"] == "bearer"
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", COOKIE)
    others = {"POST /v1/session": [{"key": []}], "DELETE /v1/session": []}
    for call, operation in operations(document):
        usual = [{"key": []}, {"session": []}] if " /v1/" in call else []
        assert operation["security"] == others.get(call, usual), call
        assert ("401" in operation["responses"]) == bool(operation["security"]), call


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
        ("/v1/session", "post", "201", {"Set-Cookie"}),
        ("/v1/session", "delete", "204", {"Set-Cookie"}),
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

    schema = document["components"]["schemas"][form["schema"]["$ref"].removeprefix(SCHEMAS)]
    assert schema["required"] == ["video"]
    assert schema["properties"]["video"]["format"] == "binary"
    assert schema["properties"]["request"]["$ref"].endswith("/JobOptions")
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


def test_every_error_code_is_in_the_enum(document):
    codes = set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])

    for module in (core_errors, service_errors):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, RolloutError):
                assert item.code in codes, item
    assert {"not_found", "method_not_allowed", "bad_request", "shutting_down"} <= codes


def test_codes_of_answers_without_a_class_are_in_the_enum(document):
    """Such codes are written as texts in the calls of `ProblemResponse`."""
    codes = set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    sources = Path(create_app.__code__.co_filename).parent.rglob("*.py")
    call = re.compile(r'(?:ProblemResponse|_refuse)\(\s*\d{3},\s*"(\w+)"')
    written = {code for path in sources for code in call.findall(path.read_text(encoding="utf-8"))}

    assert {"shutting_down", "too_many_connections", "bad_request"} <= written <= codes


def test_a_request_refuses_unknown_fields_and_may_leave_out_defaults(document):
    for name in schemas(document, of="requests"):
        schema = document["components"]["schemas"][name]
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False, name
    assert "required" not in document["components"]["schemas"]["JobOptions"]


def test_an_answer_has_all_its_fields_and_may_grow(document):
    names = schemas(document, of="answers")
    for name in names:
        schema = document["components"]["schemas"][name]
        for node in walk(schema):
            assert node.get("additionalProperties") is not False, name
        if schema.get("type") == "object" and name != "Problem":
            assert schema["required"] == list(schema["properties"]), name
    assert not {"JobOptions", "OverlayInput"} & names


def test_nothing_is_written_that_a_generator_drops(document):
    for node in walk([document["components"]["schemas"], document["paths"]]):
        assert not isinstance(node.get("const"), str)
        assert not isinstance(node.get("prefixItems"), list)


def test_an_operation_with_several_bodies_has_an_optional_parameter(document):
    for name, operation in operations(document):
        if len(operation.get("requestBody", {}).get("content", ())) > 1:
            assert not all(item["required"] for item in operation["parameters"]), name


def test_defaults_are_in_the_descriptions(document):
    for node in walk(document["components"]["schemas"]):
        assert not (node.keys() & {"type", "anyOf", "oneOf", "$ref"} and "default" in node)
    fields = document["components"]["schemas"]["JobOptions"]["properties"]
    assert fields["discard_ratio"]["description"].endswith(" Default: `0.0`.")
    overlay = document["components"]["schemas"]["JobOptions"]["properties"]["overlay"]

    assert 'Default: `{"colormap": "plasma"' in overlay["description"]


def test_every_schema_has_examples_that_are_valid(document):
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("examples"), f"add an example of {name} to service/examples.json"
        for example in schema["examples"]:
            validate(document, {"$ref": f"{SCHEMAS}{name}"}, example)


def test_every_operation_has_examples_that_are_valid(document):
    for name, operation in [*operations(document), *webhooks(document)]:
        bodies = operation.get("requestBody", {}).get("content", {})
        answers = [answer.get("content", {}) for answer in operation["responses"].values()]
        for kind, content in [pair for part in (bodies, *answers) for pair in part.items()]:
            examples = [item["value"] for item in content.get("examples", {}).values()]
            examples += [content["example"]] if "example" in content else []
            assert examples or not kind.endswith("json"), (name, kind)
            for example in examples:
                validate(document, content["schema"], example)


def validate(document, schema, value):
    whole = {"components": document["components"], **schema}
    faults = Draft202012Validator(whole).iter_errors(value)
    assert [f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in faults] == []


def test_the_examples_of_a_request_are_accepted(client, announce, mp4, document):
    announce("moving-things", labels=("a thing moves left", "a thing moves right", "a thing rises"))
    form = document["components"]["schemas"]["JobForm"]["examples"]
    options = document["components"]["schemas"]["JobOptions"]["examples"]

    for example in [*(item["request"] for item in form), *options]:
        files = {"video": mp4, "request": (None, json.dumps(example), "application/json")}
        assert client.post("/v1/jobs", files=files).status_code == 202, example


def test_every_request_field_is_described(document):
    for name in ("JobOptions", "JobRequest"):
        fields = document["components"]["schemas"][name]["properties"]
        assert fields.keys() >= JobOptions.model_fields.keys()
        assert [
            field for field, described in fields.items() if not described.get("description")
        ] == []


def test_a_summary_says_what_happens(document):
    for name, operation in [*operations(document), *webhooks(document)]:
        summary = operation["summary"]
        assert len(summary.split()) >= 3, name
        assert len(summary) < 120, name
        assert not re.search(r"[.`](\s|$)", summary), name
        assert operation["description"].replace("`", "").startswith(summary), name


def test_every_parameter_is_described_and_never_null(document):
    for name, operation in [*operations(document), *webhooks(document)]:
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (name, parameter["name"])
            assert "anyOf" not in parameter["schema"], (name, parameter["name"])


def test_operations_are_named_like_functions(document):
    both = [*operations(document), *webhooks(document)]
    names = [operation["operationId"] for _, operation in both]

    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)


def test_answers_are_described(document):
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"] not in ("", "Successful Response"), (name, status)


def test_the_webhook_is_described_as_it_is_sent(document):
    """`test_webhooks.py` compares the headers and the body with what is sent."""
    ((_, event),) = webhooks(document)
    kinds = document["components"]["schemas"]["JobEvent"]["properties"]["type"]["enum"]

    assert kinds == ["job.succeeded", "job.failed", "job.canceled"]
    assert event["requestBody"]["content"].keys() == {"application/json"}
    assert {parameter["in"] for parameter in event["parameters"]} == {"header"}


def test_bytes_come_before_json_where_both_are_possible(document):
    """A generator that reads only one of several media types takes the first."""
    artifact = document["paths"]["/v1/jobs/{job_id}/artifacts/{name}"]["get"]["responses"]["200"]

    assert next(iter(artifact["content"])) == "application/octet-stream"
    assert "application/json" in artifact["content"]


def test_who_made_it_and_where_it_runs_is_told(document):
    assert document["openapi"] == "3.1.0"
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["info"]["contact"]["name"]
    assert document["info"]["description"]
    assert [server["url"] for server in document["servers"]] == ["/"]
