"""What a wheel of the project contains besides code: the files that the service answers with."""

import subprocess
import tomllib

import pytest

FOLDERS = ("service/static", "service/page/static")


def test_packages_are_in_the_wheel_with_all_their_files(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert wheel == {"packages": ["rollout_core", "service", "worker"]}


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_for_browsers_are_not_ignored(root, folder):
    """The wheel leaves out what git ignores."""
    files = [str(path.relative_to(root)) for path in (root / folder).rglob("*") if path.is_file()]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], cwd=root, capture_output=True, text=True
    )

    assert len(files) > 3
    assert (ignored.returncode, ignored.stdout) == (1, "")
