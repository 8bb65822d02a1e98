"""Runs a command that ends when its parent process ends.

    python -m service.die_with_parent PARENT_PID COMMAND …

On Linux, the kernel sends SIGTERM to the command when the parent ends for any reason. On other
systems the command runs without this.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>. The setting survives `exec`."""


def main() -> None:
    """Replace this process with the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent process has ended already")
    os.execv(command[0], command)  # noqa: S606 (the command is the service's own)


if __name__ == "__main__":
    main()
