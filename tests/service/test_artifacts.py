import pytest

from rollout_core.contract import Artifact
from service.artifacts import ArtifactResponse, find, not_modified
from service.errors import ArtifactNotFound

ETAG = '"abc"'


@pytest.mark.parametrize(
    "header", ['"abc"', 'W/"abc"', '"x","abc"', '"x" , W/"abc"', "*", ' "abc" ']
)
def test_the_same_version(header):
    assert not_modified(header, ETAG)


@pytest.mark.parametrize("header", ["", '"ab"', "abc", '"x", "y"', '"*"', 'w/"abc"'])
def test_another_version(header):
    assert not not_modified(header, ETAG)


def test_an_unknown_suffix_is_a_download(tmp_path):
    artifact = Artifact(name="notes.html", bytes=1, sha256="0" * 64)
    (tmp_path / "notes.html").write_text("x")

    response = ArtifactResponse(tmp_path / "notes.html", artifact, job_id="1" * 32)

    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")


def test_a_listed_file_that_is_gone(queue, store, new_job, worker):
    job_id = new_job()
    worker.succeed(job_id)
    job = queue.get(job_id)
    path, artifact = find(store, job, "sheet.png")
    assert (path.name, artifact.bytes) == ("sheet.png", path.stat().st_size)

    path.unlink()

    with pytest.raises(ArtifactNotFound):
        find(store, job, "sheet.png")


def test_a_file_that_goes_while_it_is_asked_for(tmp_path):
    artifact = Artifact(name="sheet.png", bytes=1, sha256="0" * 64)

    with pytest.raises(ArtifactNotFound):
        ArtifactResponse(tmp_path / "sheet.png", artifact, job_id="1" * 32)
