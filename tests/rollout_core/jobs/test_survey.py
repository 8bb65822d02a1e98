import pytest

from rollout_core.jobs.survey import changed_at, survey

TICKET = b'{"id": "x"}'


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    for part in ("upload", "attempts"):
        (folder / part).mkdir(parents=True)
    (folder / "job.json").write_bytes(TICKET)
    (folder / "upload" / "video").write_bytes(bytes(1000))
    return folder


def look(folder):
    return survey(str(folder), ended_name="ended.json")


def test_an_open_job_has_its_ticket_and_its_upload(job):
    seen = look(job)

    assert (seen.has_ended, seen.ended, seen.ticket) == (False, None, TICKET)
    assert seen.total_bytes == 1000 + len(TICKET)
    assert seen.changed == changed_at(str(job))


def test_the_files_of_attempts_count(job):
    before = look(job).total_bytes
    for number in (1, 2):
        (job / "attempts" / str(number) / "deep").mkdir(parents=True)
        (job / "attempts" / str(number) / "overlay.mp4").write_bytes(bytes(100))
        (job / "attempts" / str(number) / "deep" / "x").write_bytes(bytes(5))

    assert look(job).total_bytes - before == 210


@pytest.mark.parametrize(("name", "ended"), [("result.json", None), ("ended.json", bytes(30))])
def test_a_job_with_a_result_folder_has_ended(job, name, ended):
    before = look(job).total_bytes
    (job / "result").mkdir()
    (job / "result" / name).write_bytes(bytes(30))
    (job / "result" / "sheet.png").write_bytes(bytes(12))

    seen = look(job)

    assert (seen.has_ended, seen.ended) == (True, ended)
    assert seen.total_bytes - before == 42


def test_links_count_nothing(job, tmp_path):
    (tmp_path / "large").write_bytes(bytes(10_000))
    before = look(job).total_bytes
    (job / "result").mkdir()
    (job / "result" / "link").symlink_to(tmp_path / "large")

    assert look(job).total_bytes == before


def test_an_expired_job_has_its_ticket_only(job):
    (job / "upload" / "video").unlink()
    (job / "upload").rmdir()
    (job / "attempts").rmdir()

    assert look(job).total_bytes == len(TICKET)


def test_a_folder_without_a_ticket_says_so(job):
    (job / "job.json").unlink()

    assert look(job).ticket is None


@pytest.mark.parametrize("error", [FileNotFoundError, NotADirectoryError, IsADirectoryError])
def test_what_is_no_job_raises(tmp_path, job, error):
    path = tmp_path / "none"
    if error is NotADirectoryError:
        path.touch()
    if error is IsADirectoryError:
        (path / "job.json").mkdir(parents=True)

    with pytest.raises(error):
        look(path)
