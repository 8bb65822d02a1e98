import pytest
from starlette.routing import Route

from service.app import ROUTERS
from service.route_templates import RouteTemplates

TEMPLATES = RouteTemplates([route for router in ROUTERS for route in router.routes])
JOB = "0" * 32


def template(path, root_path="", method="GET"):
    scope = {"type": "http", "path": root_path + path, "root_path": root_path, "method": method}
    return TEMPLATES.of(scope)


@pytest.mark.parametrize("root_path", ["", "/explain"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/jobs", "/v1/jobs"),
        (f"/v1/jobs/{JOB}", "/v1/jobs/{job_id}"),
        ("/v1/jobs/whatever", "/v1/jobs/{job_id}"),
        (f"/v1/jobs/{JOB}/artifacts/sheet.png", "/v1/jobs/{job_id}/artifacts/{name}"),
        (f"/v1/jobs/{JOB}/events", "/v1/jobs/{job_id}/events"),
        (f"/v1/uploads/{JOB}", "/v1/uploads/{upload_id}"),
        ("/livez", "/livez"),
        ("/", "page"),
        ("", "page"),
        ("/page/main.js", "page"),
        ("/page/../../etc/passwd", "page"),
        ("/docs", "docs"),
        ("/docs/start.js", "docs"),
        ("/openapi.json", "docs"),
        ("/docsy", "unmatched"),
        ("/v1/jobs/", "unmatched"),
        (f"/v1/jobs/{JOB}/more", "unmatched"),
        ("/wp-login.php", "unmatched"),
    ],
)
def test_a_path_has_one_of_few_names(path, expected, root_path):
    assert template(path, root_path) == expected


def test_the_method_makes_no_difference():
    assert template(f"/v1/jobs/{JOB}", method="BREW") == "/v1/jobs/{job_id}"


def test_every_route_of_the_api_has_its_template():
    paths = {r.path for router in ROUTERS for r in router.routes if isinstance(r, Route)}

    found = {template(path.replace("{", "").replace("}", "")) for path in paths}

    assert found == paths
    assert len(paths) > 10
