"""Explain one video from Python, with no server.

    python examples/explain_one_video.py                     # the sample clip
    python examples/explain_one_video.py VIDEO [OUTPUT]

Writes `result.json`, `rollout.npz`, `overlay.mp4` and `sheet.png` into the folder OUTPUT, by
default `rollout-output`. Needs the extra `worker`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import rollout_core
from rollout_core.errors import RolloutError

SAMPLE = Path(rollout_core.__file__).parent / "demo" / "sample.mp4"


def explain(video: Path, output: Path) -> None:
    """Explain a video; print the predictions, and when and where the model looked most."""
    explained = rollout_core.explain_file(
        video,
        "moving-things",  # or "/path/to/checkpoint.pyth", or a model of transformers
        method="contribution_rollout",
        weighting="deviation",
        clips="tile",
    )
    for prediction in explained.predictions:
        print(f"{prediction.probability:7.2%}  {prediction.label}")

    relevance = explained.relevance  # clip t h w
    clip, frame, row, column = np.unravel_index(relevance.argmax(), relevance.shape)
    seconds = explained.times_seconds[clip, frame]
    print(f"most relevant patch: row {row}, column {column}, at {seconds:.2f} s")
    explained.save(output)
    print(f"results: {output}")


def main() -> None:
    """Read the command line and explain the video."""
    parser = argparse.ArgumentParser(description="Explain one video, with no server.")
    parser.add_argument("video", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("output", nargs="?", type=Path, default=Path("rollout-output"))
    arguments = parser.parse_args()
    try:
        explain(arguments.video, arguments.output)
    except (RolloutError, OSError) as error:
        sys.exit(f"explain_one_video: {error}")


if __name__ == "__main__":
    main()
