"""Calls a function before each file call of this process below a folder: a slow or an ill disk."""

import io
import os
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

NAMES = (
    *("access", "chmod", "link", "listdir", "lstat", "mkdir", "open", "readlink", "remove"),
    *("rename", "replace", "rmdir", "scandir", "stat", "statvfs", "symlink", "truncate"),
    *("unlink", "utime"),
)
"""Functions of `os` that get a path first."""

OF_DESCRIPTORS = ("fsync", "fdatasync", "ftruncate")
"""Functions of `os` that get a descriptor; they are counted whatever it belongs to."""

WRITING = {"mkdir", "open", "remove", "rename", "replace", "rmdir", "unlink", "fsync"}
"""Those that an ill disk refuses although it can be read. `open` only for writing."""


@contextmanager
def file_calls(folder: Path, before: Callable[[str], None]):
    """Call `before` with the name of the function before each file call below `folder`.

    Calls to open for reading are named "read".
    """
    root = str(folder)

    def is_below(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(root)

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if name in OF_DESCRIPTORS or is_below(path):
                is_read = name == "open" and not _writes(*args, **kwargs)
                before("read" if is_read else name)
            return function(path, *args, **kwargs)

        return watched

    with ExitStack() as stack:
        for name in (*NAMES, *OF_DESCRIPTORS):
            patch = mock.patch.object(os, name, watch(name, getattr(os, name)))
            stack.enter_context(patch)
        opener = watch("open", io.open)
        stack.enter_context(mock.patch.object(io, "open", opener))
        stack.enter_context(mock.patch("builtins.open", opener))
        yield


def _writes(mode: object = "r", *_: object, **options: object) -> bool:
    """Return whether a call of `open` or `os.open`, without its path, may write."""
    mode = options.get("mode", options.get("flags", mode))
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return bool(set(str(mode)) & set("wxa+"))
