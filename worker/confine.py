"""Limits that a process sets on itself before it touches a stranger's bytes."""

import resource

from worker.messages import MediaOptions

OPEN_FILES = 64


def confine(options: MediaOptions) -> None:
    """Limit this process's memory, files and processor time; it cannot undo that.

    There is no limit on processes: the kernel counts all those of the user, ours or not.
    """
    limits = {
        resource.RLIMIT_AS: options.memory_bytes,
        resource.RLIMIT_FSIZE: options.file_bytes,
        resource.RLIMIT_CPU: options.cpu_seconds,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        _, ceiling = resource.getrlimit(kind)
        bounded = limit if ceiling == resource.RLIM_INFINITY else min(limit, ceiling)
        resource.setrlimit(kind, (bounded, bounded))
