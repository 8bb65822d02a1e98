"""What a caller reads after a wrong request: exact texts, which end the search for the cause."""

import json
import re

import pytest

from rollout_core import suggestions
from rollout_core.patterns import WORDS
from rollout_core.query_text import JSON_PATTERN
from service.settings import Settings as ServiceSettings
from tests.service.test_uploads import END, TYPE, part
from worker.settings import Settings as WorkerSettings

FIELDS = (
    "the fields are: method, weighting, head_fusion, discard_ratio, start_layer, layer, "
    "reference, target, against, query, per_layer, full_rollout, faithfulness, model, sampling, "
    "clips, start_seconds, end_seconds, stream, allow_incomplete, overlay, "
    "preview, fake, tag, webhook, reuse, priority"
)
QUERY = (
    "this is not a query: write 'cls', a patch [CLIP:]FRAME:ROW:COLUMN such as '3:4:5', or a "
    "point X:Y@SECONDS such as '320:180@2.5'"
)
METHODS = "must be rollout, attention, gradient_rollout, contribution_rollout or difference"
PARTS = "its parts are 'video' (the file) and 'request' (JSON)"

REQUESTS = {
    '{"tag": "a\\nb"}': "request.tag: must not have control characters, such as line breaks",
    '{"webhook": {"url": "ftp://a"}}': "request.webhook.url: must be an address that begins with "
    "http:// or https://, without spaces",
    '{"metod": "attention"}': "request.metod: no such field; did you mean method?",
    '{"Method": "attention"}': "request.Method: no such field; did you mean method?",
    '{"zzz": 1}': f"request.zzz: no such field; {FIELDS}",
    '{"zzz": 1, "yyy": 2}': f"request.zzz: no such field; {FIELDS}; request.yyy: no such field",
    '{"method": "rolout"}': f"request.method: {METHODS}; did you mean rollout?",
    '{"method": 5}': f"request.method: {METHODS}",
    '{"clips": "tiles"}': "request.clips: must be one or tile; did you mean tile?",
    '{"discard_ratio": 1}': "request.discard_ratio: must be less than 1",
    '{"discard_ratio": "much"}': "request.discard_ratio: must be a number",
    '{"layer": 3}': "request: layer is for attention, not for rollout",
    '{"target": -1}': "request.target: must be greater than or equal to 0",
    '{"target": {}}': "request.target: must be a whole number or a text",
    '{"method": "difference", "target": [1.5]}': "request.target.0: "
    "must be a whole number or a text",
    '{"method": "difference", "target": []}': "request.target: needs at least 1 item, but has 0",
    '{"method": "difference", "target": ["running", "swiming"]}': "request.target.1: "
    "fake has no class 'swiming'; it has 3; did you mean swimming?",
    '{"method": "contribution_rollout", "target": 0, "against": "running "}': "request.against: "
    "fake has no class 'running '; it has 3; did you mean running?",
    '{"per_layer": "maybe"}': "request.per_layer: must be true or false",
    '{"overlay": "turbo"}': "request.overlay: must be an object",
    '{"overlay": {"colour": 1}}': "request.overlay.colour: no such field; "
    "did you mean contours or colormap?",
    '{"overlay": {"x": 1}}': "request.overlay.x: no such field; "
    "the fields are: colormap, opacity, layout, scale, signed, contours, caption, max_height",
    '{"query": "1:2"}': f"request.query: {QUERY}",
    '{"query": 7}': f"request.query: {QUERY}",
    '{"query": ["cls", "1:2"]}': f"request.query.1: {QUERY}",
    '{"query": []}': "request.query: needs at least 1 item, but has 0",
    '{"query": {"frame": 1, "row": 2}}': "request.query.column: this field is required",
    '{"query": {"x": 1, "y": 2, "seconds": 1, "frame": 2}}': "request.query.frame: no such field; "
    "the fields are: x, y, seconds",
    '{"query": [["cls"]]}': "request.query.0: must be an object",
    '{"overlay": {"colormap": "turbbo"}}': "request.overlay.colormap: "
    "no colormap is named 'turbbo'; did you mean turbo?",
    '{"overlay": {"colormap": "no-such-map"}}': "request.overlay.colormap: no colormap is named "
    "'no-such-map'; the names are those of matplotlib, such as turbo, viridis or magma_r",
    '{"method": "gradient_rollout", "target": "Swiming"}': "request.target: "
    "fake has no class 'Swiming'; it has 3; did you mean swimming?",
    '{"method": "gradient_rollout", "target": "dancing"}': "request.target: "
    "fake has no class 'dancing'; it has 3; the labels are: swimming, running, archery",
    '{"method": "gradient_rollout", "target": 3}': "request.target: fake has no class 3; it has 3; "
    "the indices are 0 to 2",
    '{"method": "attention", "layer": 99}': "request.layer: there is no layer 99; "
    "the model has 12 layers",
    '{"query": ["cls", "9:0:0"]}': "request.query.1: frame is 9, but the last one is 3",
    '{"query": "9:0:0"}': "request.query: frame is 9, but the last one is 3",
    '{"model": "fak"}': "request.model: 'fak' is not known; known: fake; did you mean fake?",
    "": "request: not valid JSON, at line 1, column 0: it ends where a value is expected",
    '{"clips": "one"': "request: not valid JSON, at line 1, column 15: it ends inside an object",
    '{\n "clips": "one",\n}': "request: not valid JSON, at line 3, column 1: "
    "a comma stands before the closing bracket",
    "{'clips': 'one'}": "request: not valid JSON, at line 1, column 2: "
    "a field name in double quotes is expected here",
    '{"clips" "one"}': "request: not valid JSON, at line 1, column 10: a colon is expected here",
    "{clips: 1}": "request: not valid JSON, at line 1, column 2: "
    "a field name in double quotes is expected here",
    '{"clips": one}': "request: not valid JSON, at line 1, column 11: a value is expected here",
    "[]": "request: must be an object",
    '{"clips": "one", "clips": "one"}': "request.clips: given more than once",
}
"""The content of the part `request`, and the detail of the answer."""

FORMS = {
    "file": f"the form has an unexpected part 'file'; {PARTS}",
    "method": "the form has an unexpected part 'method'; "
    "put this field into the JSON of the part 'request'",
    None: f"the form has no part named 'video'; {PARTS}",
}
"""The name of the only part, and the detail of the answer."""

PARAMETERS = {
    "/v1/jobs?stat=queued": "query.stat: no such parameter; did you mean state?",
    "/v1/models?name=a": "query.name: this call has no parameters",
    "/v1/jobs?state=done": "query.state: must be queued, running, succeeded, failed or canceled",
    "/v1/jobs?state=success": "query.state: must be queued, running, succeeded, failed or "
    "canceled; did you mean succeeded?",
    "/v1/jobs?limit=many": "query.limit: must be a whole number",
    "/v1/jobs?limit=0": "query.limit: must be greater than or equal to 1",
    "/v1/jobs?cursor=2": "query.cursor: must be the next_cursor of a page",
    "/v1/jobs?model=A": "query.model: must be the name of a model: 1 to 64 lower-case letters, "
    "digits and . _ -, the first one a letter or a digit",
    "/v1/jobs?limit=1&limit=2": "query.limit: given more than once",
}

TAGS_OF_OURS = (
    "several",
    "one.",
    "Tuple",
    "tuple",
    "union",
    "function-",
    "Literal",
    "Input should",
)
"""Words of pydantic and of our models that no caller has written."""


@pytest.fixture
def post(client, announce, mp4):
    announce(labels=("swimming", "running", "archery"))

    def send(*parts):
        body = b"".join(parts) + END
        return client.post("/v1/jobs", content=body, headers={"Content-Type": TYPE})

    return send


@pytest.mark.parametrize(("text", "detail"), REQUESTS.items())
def test_a_wrong_request_is_explained(post, mp4, text, detail):
    if text:
        response = post(part("request", text.encode()), part("video", mp4))
    else:  # an empty part counts as left out; a mark alone does not
        response = post(part("request", b"\xef\xbb\xbf"), part("video", mp4))

    assert response.status_code == 422
    assert response.json()["detail"] == detail
    faults = response.json()["errors"]
    assert "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults) == detail
    assert not any(word in response.text for word in TAGS_OF_OURS)


def test_a_text_of_the_wrong_form_is_explained_without_the_pattern(client):
    wrong = {"video_url": "ftp://a", "upload": "a"}
    faults = client.post("/v1/jobs", json=wrong).json()["errors"]
    header = client.post("/v1/jobs", content=b"", headers={"Idempotency-Key": "a b"}).json()

    assert {fault["field"]: fault["message"] for fault in faults + header["errors"]} == {
        "upload": "must be an id of 32 hexadecimal digits, in lower case",
        "video_url": "must be an address that begins with http:// or https://, without spaces",
        "header.idempotency-key": "must have visible ASCII characters only, and no spaces",
    }


def test_every_pattern_of_a_request_and_of_the_settings_has_words(client):
    schemas = [client.get("/openapi.json").json()]
    schemas += [settings.model_json_schema() for settings in (ServiceSettings, WorkerSettings)]
    found = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(schemas)))

    assert {json.loads(text) for text in found} - {JSON_PATTERN} == set(WORDS)


def test_json_names_the_field_as_it_was_written(client, announce, mp4):
    announce()
    upload = client.post("/v1/uploads", content=mp4).json()["id"]
    given = {"upload": upload, "method": "attention", "layer": 99}

    problem = client.post("/v1/jobs", json=given).json()

    assert problem["errors"] == [
        {"field": "layer", "message": "there is no layer 99; the model has 12 layers"}
    ]


@pytest.mark.parametrize(("name", "detail"), FORMS.items())
def test_a_wrong_form_is_explained(post, mp4, name, detail):
    response = post(part(name, b"content")) if name else post(part("request", b"{}"))

    assert response.status_code == 422
    assert response.json()["detail"] == detail


def test_a_body_that_is_no_form_is_told_what_it_must_be(client, mp4):
    response = client.post("/v1/jobs", content=mp4, headers={"Content-Type": "video/mp4"})

    assert response.status_code == 415
    assert "multipart/form-data" in response.json()["detail"]
    assert "'video'" in response.json()["detail"]


@pytest.mark.parametrize(("path", "detail"), PARAMETERS.items())
def test_a_wrong_parameter_is_explained(client, path, detail):
    response = client.get(path)

    assert response.status_code == 422
    assert response.json()["detail"] == detail


def test_an_unknown_parameter_far_from_all_gets_the_list(client):
    detail = client.get("/v1/jobs?zzz=1").json()["detail"]

    assert detail.startswith("query.zzz: no such parameter; the parameters are: cursor, ")


def test_an_unknown_artifact_names_those_that_exist(client, new_job, worker):
    job_id = new_job()
    worker.succeed(job_id)

    detail = client.get(f"/v1/jobs/{job_id}/artifacts/sheet.jpg").json()["detail"]

    assert detail.startswith("the job has no artifact of this name; it has ")
    assert "sheet.png" in detail


@pytest.mark.parametrize("query", ["3:1:2", "0:3:1:2", "20:10@0.5", ["cls", "3:1:2", ".5:1.@2"]])
def test_queries_may_be_short(post, mp4, query):
    response = post(part("request", json.dumps({"query": query}).encode()), part("video", mp4))

    assert response.status_code == 202, response.text
    found = response.json()["request"]["query"]
    patch = {"clip": 0, "frame": 3, "row": 1, "column": 2}
    point = {"x": 20, "y": 10, "seconds": 0.5}
    several = ["cls", patch, {"x": 0.5, "y": 1, "seconds": 2}]
    assert found == (several if isinstance(query, list) else point if "@" in query else patch)


def test_of_many_errors_few_are_explained(post, mp4, monkeypatch):
    """A part of 64 KiB could name thousands of unknown fields; each would be compared."""
    compared = []
    compare = suggestions.get_close_matches
    monkeypatch.setattr(
        suggestions, "get_close_matches", lambda *args: compared.append(args) or compare(*args)
    )
    text = json.dumps({f"{number}{'metod' * 4}": 1 for number in range(2000)})

    response = post(part("request", text.encode()), part("video", mp4))

    assert response.status_code == 422
    assert len(response.json()["errors"]) <= 20
    assert 0 < len(compared) <= 2 * 20  # by the field and by the request
