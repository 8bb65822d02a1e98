"""Runs a program for which the disk below a folder is full, as long as a file exists.

    python -m tests.system.full_disk FOLDER MARK PROGRAM ARGUMENT …

While MARK exists, every file that the program opens for writing below FOLDER is `/dev/full`
instead, so it is the kernel that says ENOSPC. It needs no privileges, unlike a small file system.
What the program's children write, and what it makes without Python's `open`, is not affected.
"""

import builtins
import io
import os
import runpy
import sys
from pathlib import Path
from typing import Any

FULL = "/dev/full"


def main() -> None:
    """Become the program."""
    folder, mark, program, *arguments = sys.argv[1:]
    fill(folder, Path(mark))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def fill(folder: str, mark: Path) -> None:
    """Put an `open` in place for which the disk below `folder` is full while `mark` exists."""
    opened = io.open

    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        is_ours = isinstance(file, str | os.PathLike) and str(file).startswith(folder)
        if is_ours and set(mode) & set("wxa+") and mark.exists():
            file, mode = FULL, mode.replace("x", "w")
        return opened(file, mode, *args, **kwargs)

    io.open = builtins.open = open_


if __name__ == "__main__":
    main()
