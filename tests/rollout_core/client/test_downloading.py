import pytest

from rollout_core.client import (
    ClientError,
    DamagedTransfer,
    NoResult,
    RolloutApiError,
    RolloutConnectionError,
)
from rollout_core.jobs.schemas import Job
from tests.rollout_core.client.contract_server import FILES, contract_server

SHEET = "sheet.png"
FILE = r"/v1/jobs/\w+/artifacts/sheet.png"


@pytest.fixture
def job(server):
    return Job.model_validate(server.ended(server.job(1)), extra="ignore")


def test_all_files_are_written(client, server, job, tmp_path):
    told = []
    paths = client.download(job, tmp_path / "deep" / "out", on_bytes=lambda *b: told.append(b))
    assert {path.name: path.read_bytes() for path in paths} == FILES
    assert {path.name for path in (tmp_path / "deep" / "out").iterdir()} == set(FILES)
    total = sum(map(len, FILES.values()))
    assert told[-1] == (total, total)


def test_named_files_alone(client, job, tmp_path):
    (path,) = client.download(job, tmp_path / "out", [SHEET])
    assert list((tmp_path / "out").iterdir()) == [path]
    with pytest.raises(
        ValueError, match=r"has no file 'other\.png'; it has result\.json, sheet\.png"
    ):
        client.download(job, tmp_path, ["other.png"])


def test_a_broken_download_is_resumed(client, server, job, tmp_path):
    server.cut_downloads = [300_000, 400_000]
    (path,) = client.download(job, tmp_path / "out", [SHEET])
    assert path.read_bytes() == FILES[SHEET]
    first, *others = server.find("GET", FILE)
    assert "range" not in first.headers
    begins = [int(sent.headers["range"].removeprefix("bytes=").rstrip("-")) for sent in others]
    assert begins[0] > 0
    assert begins == sorted(set(begins))


def test_a_later_call_resumes_it(client, server, job, tmp_path):
    server.cut_downloads = [300_000] + [0] * 9
    with pytest.raises(RolloutConnectionError):
        client.download(job, tmp_path / "out", [SHEET])
    assert not (tmp_path / "out" / SHEET).exists()
    server.cut_downloads = []
    server.seen.clear()
    client.download(job, tmp_path / "out", [SHEET])
    assert (tmp_path / "out" / SHEET).read_bytes() == FILES[SHEET]
    assert "range" in server.seen[0].headers
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_what_is_there_is_not_fetched_again(client, server, job, tmp_path):
    client.download(job, tmp_path)
    server.seen.clear()
    client.download(job, tmp_path)
    assert server.seen == []


def test_a_file_of_another_job_is_replaced(client, job, tmp_path):
    (tmp_path / SHEET).write_bytes(b"x" * len(FILES[SHEET]))
    client.download(job, tmp_path)
    assert (tmp_path / SHEET).read_bytes() == FILES[SHEET]


@pytest.mark.parametrize("content", [b"y" * len(FILES[SHEET]), FILES[SHEET] + b"more"])
def test_a_file_with_another_digest_is_refused(client, server, job, tmp_path, content):
    server.files[SHEET] = content
    with pytest.raises(DamagedTransfer, match=r"sheet\.png"):
        client.download(job, tmp_path / "out", [SHEET])
    assert not (tmp_path / "out" / SHEET).exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "..", "", "a/b"])
def test_a_name_that_leaves_the_folder_is_refused(client, server, tmp_path, name):
    server.files = {name: b"evil"}
    job = Job.model_validate(server.ended(server.job(1)), extra="ignore")
    with pytest.raises(ClientError, match="is not a name for a file"):
        client.download(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_job_without_result_says_why(client, server, tmp_path):
    error = {"code": "no_worker", "title": "No worker serves the model", "detail": "none of 2"}
    failed = server.job(1, state="failed", error=error)
    job = Job.model_validate(failed, extra="ignore")
    with pytest.raises(NoResult, match=r"No worker serves the model: none of 2"):
        client.download(job, tmp_path)
    with pytest.raises(NoResult, match="it is queued"):
        client.result(Job.model_validate(server.job(1), extra="ignore"))


class TestLinks:
    """The service redirects downloads to a bucket."""

    @pytest.fixture
    def bucket(self, server):
        with contract_server() as running:
            server.links = f"{running.url}/bucket"
            yield running

    def test_the_bucket_gets_no_api_key(self, open_client, server, bucket, job, tmp_path):
        client = open_client(server.url, api_key="secret")
        paths = client.download(job, tmp_path / "out")
        assert {path.name: path.read_bytes() for path in paths} == FILES
        assert all(seen.headers["authorization"] == "Bearer secret" for seen in server.seen)
        assert len(bucket.seen) == len(FILES)
        for seen in bucket.seen:
            assert not {"authorization", "cookie", "if-range"} & seen.headers.keys()
            assert "secret" not in str(seen)

    def test_no_key_goes_to_a_bucket_at_the_same_address(self, open_client, server, job, tmp_path):
        server.links = f"{server.url}/bucket"
        open_client(server.url, api_key="secret").download(job, tmp_path, [SHEET])
        assert (tmp_path / SHEET).read_bytes() == FILES[SHEET]
        (seen,) = server.find("GET", r"/bucket/.+")
        assert "authorization" not in seen.headers

    def test_a_relative_link_leads_to_the_service(self, client, server, job, tmp_path):
        server.links = "/rollout/bucket"
        client.download(job, tmp_path, [SHEET])
        assert (tmp_path / SHEET).read_bytes() == FILES[SHEET]

    def test_a_broken_download_is_resumed_by_a_new_link(
        self, client, server, bucket, job, tmp_path
    ):
        bucket.cut_downloads = [300_000]
        client.download(job, tmp_path, [SHEET])
        assert (tmp_path / SHEET).read_bytes() == FILES[SHEET]
        assert "range" in bucket.seen[1].headers
        assert server.count("GET", FILE) == 2

    def test_a_link_that_is_refused_is_an_error(self, client, server, job, tmp_path):
        server.links = f"{server.url}/nowhere"
        with pytest.raises(RolloutApiError) as caught:
            client.download(job, tmp_path, [SHEET])
        assert caught.value.status == 404

    def test_a_bucket_that_is_away_is_named_without_its_signature(
        self, client, server, bucket, job, tmp_path
    ):
        server.links = "http://127.0.0.1:9/bucket"
        with pytest.raises(RolloutConnectionError, match=r"cannot connect to http://127.0.0.1:9: "):
            client.download(job, tmp_path, [SHEET])
