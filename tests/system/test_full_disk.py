import os

from tests.system.waiting import WAIT_SECONDS

ENOSPC = "[Errno 28]"


def test_writes_below_the_folder_fail_while_the_mark_exists(run, tmp_path):
    for name in ("store", "elsewhere"):
        (tmp_path / name).mkdir()
    mark = tmp_path / "mark"
    mark.touch()
    options = (str(tmp_path / "store"), str(mark))
    outside = run("tests.system.full_disk", *options, names=("elsewhere/file",))
    assert outside.wait(WAIT_SECONDS) == 0
    assert (tmp_path / "elsewhere" / "file").read_text() == "something"

    inside = run("tests.system.full_disk", *options, names=("store/file",))
    _, said = inside.communicate(timeout=WAIT_SECONDS)
    assert inside.returncode != 0
    assert ENOSPC in said
    assert os.listdir(tmp_path / "store") == []  # noqa: PTH208

    mark.unlink()
    later = run("tests.system.full_disk", *options, names=("store/file",))
    assert later.wait(WAIT_SECONDS) == 0
    assert (tmp_path / "store" / "file").read_text() == "something"
