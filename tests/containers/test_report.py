from tests.containers.images import Built
from tests.containers.report import Report
from tests.containers.site import CommandError


class FakeSite:
    def docker(self, *arguments):
        return {"version": "29.0", "compose": "2.40"}[arguments[0]]


def fail():
    raise CommandError("first line\nlast | line")


def test_a_failed_check_is_written_down_and_the_next_one_follows(capsys):
    report = Report()
    report.begin("profile fake")
    report.check("one", fail)
    report.check("two", lambda word: f"found {word}", "it")

    assert [(check.passed, check.phase) for check in report.checks] == [
        (False, "profile fake"),
        (True, "profile fake"),
    ]
    assert report.failures == 1
    assert "FAIL" in capsys.readouterr().out
    text = report.write(FakeSite())
    assert "1 of 2 checks passed" in text
    assert "Docker 29.0, Compose 2.40" in text
    assert "| one | **failed** | 0.0 s | CommandError: first line last \\| line |" in text
    assert "| two | passed | 0.0 s | found it |" in text


def test_images_memory_and_notes_are_tables_and_a_list():
    report = Report(
        images=[Built("api", 354_000_000, 65.4, 33)],
        memory=[("fake", {"redis": "9MiB"})],
        notes=["A stand-in."],
    )
    lines = report.write(FakeSite()).splitlines()
    assert "| api | 354 MB | 65 s | 33 |" in lines
    assert "| fake | redis | 9MiB |" in lines
    assert "- A stand-in." in lines
