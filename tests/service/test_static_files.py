import gzip
from hashlib import sha256

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service import static_files
from service.static_files import accepts_gzip, read

TEXT = b"let wave = 'cos';\n" * 200
NOISE = bytes(range(256))


@pytest.fixture
def files(tmp_path):
    """Write a file of each kind; return them by their paths in a URL."""
    contents = {"main.js": TEXT, "look.css": TEXT, "tiny.html": b"<p>", "noise.bin": NOISE}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {f"/page/{name}": tmp_path / name for name in contents}


@pytest.fixture
def client(files):
    app = FastAPI()
    static_files.install(app, files)
    return TestClient(app, headers={"Accept-Encoding": "identity"})


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("look.css", "text/css; charset=utf-8"),
        ("tiny.html", "text/html; charset=utf-8"),
        ("noise.bin", "application/octet-stream"),
    ],
)
def test_a_file_is_answered_with_its_type(client, files, name, media_type):
    response = client.get(f"/page/{name}")

    assert response.content == files[f"/page/{name}"].read_bytes()
    assert response.headers["content-type"] == media_type
    assert response.headers["cache-control"] == "no-cache"


def test_it_is_compressed_for_a_client_that_accepts_that(client):
    with client.stream("GET", "/page/main.js", headers={"Accept-Encoding": "gzip"}) as response:
        sent = b"".join(response.iter_raw())

    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["content-length"] == str(len(sent))
    assert len(sent) < len(TEXT) / 10
    assert gzip.decompress(sent) == TEXT
    assert sent[4:8] == bytes(4)  # no time, so each start of the service sends the same bytes


@pytest.mark.parametrize("name", ["tiny.html", "noise.bin"])
def test_what_compression_would_make_longer_is_sent_as_it_is(client, name):
    response = client.get(f"/page/{name}", headers={"Accept-Encoding": "gzip"})

    assert "content-encoding" not in response.headers
    assert "vary" not in response.headers


def test_both_forms_have_an_etag_of_their_own(client):
    plain = client.get("/page/main.js")
    zipped = client.get("/page/main.js", headers={"Accept-Encoding": "gzip"})

    assert plain.headers["etag"] == f'"{sha256(TEXT).hexdigest()}"'
    assert plain.headers["etag"] != zipped.headers["etag"]
    assert plain.headers["vary"] == zipped.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_current_copy_is_not_sent_again(client, encoding):
    headers = {"Accept-Encoding": encoding}
    etag = client.get("/page/main.js", headers=headers).headers["etag"]

    response = client.get("/page/main.js", headers={**headers, "If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert response.headers["cache-control"] == "no-cache"
    other = client.get("/page/main.js", headers={**headers, "If-None-Match": '"other"'})
    assert other.status_code == 200


def test_head_has_the_headers_of_get(client):
    got, head = client.get("/page/main.js"), client.head("/page/main.js")

    assert (head.content, head.headers) == (b"", got.headers)


def test_a_file_is_read_once(client, files):
    files["/page/main.js"].write_bytes(b"changed")

    assert client.get("/page/main.js").content == TEXT
    assert read(files["/page/main.js"]).content == TEXT


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5", True),
        ("gzip ; q=0.001", True),
        ("*", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("x-gzipped", False),
    ],
)
def test_gzip_is_accepted_only_if_the_client_says_so(header, accepted):
    assert accepts_gzip(header) == accepted
