"""Runs a command that must not outlive whoever started it.

    python -m service.die_with_parent PARENT_PID COMMAND …

The kernel asks the command to end when its parent does, however that ends. Only Linux can;
elsewhere the command merely runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>. The wish survives the change into another program."""


def main() -> None:
    """Become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("whoever started this has ended")
    os.execv(command[0], command)  # noqa: S606 (the command is the service's own)


if __name__ == "__main__":
    main()
