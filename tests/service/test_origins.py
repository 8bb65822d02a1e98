import pytest

from service.origins import is_own_page
from service.proxies import Caller


def scope(method="POST", host="a.test:8000", scheme="http", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "type": "http",
        "method": method,
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "state": {"caller": Caller(None, scheme, (host,) if host else (), proxied=False)},
    }


@pytest.mark.parametrize(
    ("site", "own"),
    [("same-origin", True), ("same-site", False), ("cross-site", False), ("x", False)],
)
def test_what_the_browser_says_of_the_site_counts_most(site, own):
    for origin in ("http://a.test:8000", "http://b.test", "null"):
        assert is_own_page(scope(sec_fetch_site=site, origin=origin)) is own


def test_without_any_header_nothing_is_known():
    assert is_own_page(scope()) is None


def test_a_person_is_no_page():
    opens = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}

    assert is_own_page(scope(sec_fetch_site="none")) is None
    assert is_own_page(scope("GET", sec_fetch_site="cross-site", **opens)) is None
    assert is_own_page(scope("POST", sec_fetch_site="cross-site", **opens)) is False
    assert is_own_page(scope("GET", sec_fetch_site="same-site", sec_fetch_mode="cors")) is False


@pytest.mark.parametrize(
    ("host", "scheme", "origin", "own"),
    [
        ("a.test:8000", "http", "http://a.test:8000", True),
        ("A.test:80", "http", "http://a.test", True),
        ("a.test", "https", "https://a.test:443", True),
        ("[::1]:8000", "http", "http://[::1]:8000", True),
        ("a.test:8000", "http", "http://a.test", False),
        ("a.test", "http", "https://a.test", False),
        ("a.test", "https", "http://a.test", False),
        ("a.test", "http", "http://b.test", False),
        ("a.test", "http", "http://a.test.b.test", False),
        ("a.test", "http", "http://user@a.test", False),
        ("a.test", "http", "null", False),
        ("a.test", "http", "", False),
        ("", "http", "http://a.test", False),
        ("@", "http", "http://@", False),
    ],
)
def test_else_the_origin_must_be_the_one_that_the_caller_sees(host, scheme, origin, own):
    assert is_own_page(scope(host=host, scheme=scheme, origin=origin)) is own
