"""Explain one video by a running service.

    python examples/explain_by_service.py                    # the sample clip
    python examples/explain_by_service.py VIDEO [OUTPUT]

The service is that of ROLLOUT_URL, by default http://127.0.0.1:8000 (`rollout-service
--standalone`). Writes the files of the result into the folder OUTPUT, by default
`rollout-output`. Needs no extra.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import rollout_core
from rollout_core.client import ClientError, RolloutClient

SAMPLE = Path(rollout_core.__file__).parent / "demo" / "sample.mp4"


def explain(client: RolloutClient, video: Path, output: Path) -> None:
    """Explain a video; print the predictions, and when and where the model looked most."""
    job = client.submit(video, clips="tile")
    for event in client.events(job):
        job = event.job or job
        if event.progress is not None:
            progress = event.progress
            print(f"{progress.stage} {progress.done} of {progress.total}", file=sys.stderr)

    for prediction in client.result(job).predictions:
        print(f"{prediction.probability:7.2%}  {prediction.label}")

    arrays = client.arrays(job)
    relevance = arrays.relevance  # clip t h w
    clip, frame, row, column = np.unravel_index(relevance.argmax(), relevance.shape)
    seconds = arrays.pts_seconds[clip, frame]
    print(f"most relevant patch: row {row}, column {column}, at {seconds:.2f} s")

    for path in client.download(job, output):
        print(path)


def main() -> None:
    """Read the command line and explain the video."""
    parser = argparse.ArgumentParser(description="Explain one video by a running service.")
    parser.add_argument("video", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("output", nargs="?", type=Path, default=Path("rollout-output"))
    arguments = parser.parse_args()
    try:
        with RolloutClient() as client:
            explain(client, arguments.video, arguments.output)
    except (ClientError, OSError) as error:
        sys.exit(f"explain_by_service: {error}")


if __name__ == "__main__":
    main()
