"""Another revision of the project beside this one, measured by this revision's benchmarks."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Checkout:
    """A folder with the project, and the interpreter that imports it from there."""

    folder: Path
    python: str

    @property
    def commit(self) -> str:
        """The short name of the commit; with a plus if files differ from it."""
        try:
            name = _git(self.folder, "describe", "--always", "--dirty=+", "--exclude=*").strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        return name


PRESENT = Checkout(ROOT, sys.executable)


@contextmanager
def checked_out(revision: str) -> Iterator[Checkout]:
    """Check out a revision in a temporary folder, with the tests of the present one.

    Raises:
        subprocess.CalledProcessError: there is no such revision.
    """
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name) / "project"
        _git(ROOT, "worktree", "add", "--detach", str(folder), revision)
        try:
            ignored = ignore_patterns("__pycache__", "node_modules")
            copytree(ROOT / "tests", folder / "tests", dirs_exist_ok=True, ignore=ignored)
            yield Checkout(folder, _interpreter(Path(name) / "environment", folder))
        finally:
            _git(ROOT, "worktree", "remove", "--force", str(folder))


def _interpreter(environment: Path, project: Path) -> str:
    """Make an environment with the packages of the present one, but another project.

    A path in a `.pth` file is searched, but the `.pth` files that it holds do not count: so the
    present project, which is installed through one, is not found.
    """
    flags = ["--without-pip", str(environment)]
    subprocess.run([sys.executable, "-m", "venv", *flags], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    paths = [str(project), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "bench.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
    return str(environment / "bin" / "python")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
