"""A media process for tests, whose messages the test writes: pass it to `Children(start_media=…)`.

It speaks the protocol of `worker.wire` over a real socket, and its process is real, so that it can
be watched, signalled and killed as the media process that `worker.children` starts.
"""

import subprocess
from multiprocessing import Pipe

from worker.child import ChildProcess
from worker.children import Media
from worker.messages import MediaOptions

LIFETIME_SECONDS = 600
"""The process ends by itself after this time, in case the test was killed."""


class ScriptedMedia(Media):
    """A media process that does nothing; the test sends its messages.

    Attributes:
        script: the child's end of the socket. It stays open when the process is killed, so that
            the test can read what the child was sent.
    """

    def __init__(self, options: MediaOptions) -> None:
        ours, self.script = Pipe()
        process = subprocess.Popen(["/bin/sleep", str(LIFETIME_SECONDS)], stdin=subprocess.DEVNULL)
        super().__init__(options, ChildProcess(process, ours))
