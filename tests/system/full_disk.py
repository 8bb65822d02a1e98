"""Runs a program for which the disk below a folder is full while a file exists.

    python -m tests.system.full_disk FOLDER MARK PROGRAM ARGUMENT …

While MARK exists, the program opens `/dev/full` instead of any file below FOLDER that it opens for
writing, so the kernel raises ENOSPC. Unlike a small file system, this needs no privileges. Child
processes are not affected, nor are files that are created without Python's `open`.
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
    """Replace `open`, then run the program in this process."""
    folder, mark, program, *arguments = sys.argv[1:]
    fill(folder, Path(mark))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def fill(folder: str, mark: Path) -> None:
    """Replace `open` by one for which the disk below `folder` is full while `mark` exists."""
    opened = io.open

    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        is_below = isinstance(file, str | os.PathLike) and str(file).startswith(folder)
        if is_below and set(mode) & set("wxa+") and mark.exists():
            file, mode = FULL, mode.replace("x", "w")
        return opened(file, mode, *args, **kwargs)

    io.open = builtins.open = open_


if __name__ == "__main__":
    main()
