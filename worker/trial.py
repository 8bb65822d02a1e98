"""Which confinement this machine offers to media, found by a trial: see `worker.confine`.

A process that is shut in cannot come out again, so the trial is one of its own:
`python -m worker.trial FOLDER`.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from worker.children import MEDIA_ENVIRONMENT
from worker.confine import confine
from worker.messages import Confinement

TRIAL_SECONDS = 30.0


def try_confinement() -> Confinement:
    """Have a process shut itself in as media does, and return what was in force.

    Raises:
        subprocess.SubprocessError: it could not even try.
    """
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "worker.trial", folder],
            env=MEDIA_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TRIAL_SECONDS,
            check=True,
        )
    return Confinement.model_validate_json(done.stdout)


def main() -> None:
    """Try it on this process, with a folder to work in, and print what is in force."""
    folder = Path(sys.argv[1])
    sys.stdout.write(confine(folder / "video", folder).model_dump_json())


if __name__ == "__main__":
    main()
