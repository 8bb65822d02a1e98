import os

ENOSPC = "[Errno 28]"


def test_what_is_written_below_the_folder_fails_while_the_mark_is_there(run, tmp_path):
    for name in ("store", "elsewhere"):
        (tmp_path / name).mkdir()
    mark = tmp_path / "mark"
    mark.touch()
    options = (str(tmp_path / "store"), str(mark))
    outside = run("tests.system.full_disk", *options, names=("elsewhere/file",))
    assert outside.wait(10) == 0
    assert (tmp_path / "elsewhere" / "file").read_text() == "something"

    inside = run("tests.system.full_disk", *options, names=("store/file",))
    _, said = inside.communicate(timeout=10)
    assert inside.returncode != 0
    assert ENOSPC in said
    assert os.listdir(tmp_path / "store") == []  # noqa: PTH208

    mark.unlink()
    later = run("tests.system.full_disk", *options, names=("store/file",))
    assert later.wait(10) == 0
    assert (tmp_path / "store" / "file").read_text() == "something"
