"""Measure which maps are true of the model, on scenes whose evidence is known.

    python -m tests.benchmarks.evidence             # measures what the kept scores lack
    python -m tests.benchmarks.evidence --document  # writes the documents from the kept scores
    python -m tests.benchmarks.evidence --quick     # measures anew, few scenes; keeps nothing

The scores of every scene are in one file for each model, saved after each row of each two scenes:
the same command goes on from there. The report, its plot and the JSON with all figures are written
to `--out`; `--document` writes them to `tests/benchmarks/results` and the tables of
docs/methods.md. What the scores mean is said in `measure.py`.
"""

import argparse
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

from tqdm import tqdm

from rollout_core.demo.layout import ACTS
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks.evidence.cases import SCENES, SEEDS, Part, Scenes
from tests.benchmarks.evidence.maps import ROWS, Row, by_name
from tests.benchmarks.evidence.measure import Truth, about_the_model, judge
from tests.benchmarks.evidence.report import RESULTS, document, write_results
from tests.benchmarks.evidence.sanity import sanity
from tests.benchmarks.evidence.scores import Scores
from tests.benchmarks.evidence.summary import MODEL, summarize

CHECKPOINTS = (
    MOVING_THINGS_PATH,
    Path(__file__).with_name("things-96px.safetensors"),
    Path(__file__).with_name("things-64px.safetensors"),
)
"""The built-in model, and two of other seeds and sizes; see rollout_core/demo/README.md."""

KEPT = RESULTS / "evidence"
"""Scores that the documents show."""


@dataclass(frozen=True)
class Plan:
    """How many scenes to measure, of two clips each.

    Attributes:
        scenes: for most scores.
        dear: for rows that cost many forwards.
        single: for holding each single patch still, as many forwards as a clip has patches.
        curves: for deletion and insertion.
        sanity: for the check with models that have forgotten.
    """

    scenes: int
    dear: int
    single: int
    curves: int
    sanity: int

    def of(self, row: Row) -> "Plan":
        """Return the plan for one row."""
        if not row.is_dear:
            return self
        few = self.at_most(self.dear)
        return replace(few, sanity=min(self.sanity, self.dear // 2))

    def at_most(self, scenes: int) -> "Plan":
        """Return the plan with the number of scenes limited, for each score."""
        return Plan(**{name: min(count, scenes) for name, count in vars(self).items()})


FULL = Plan(scenes=16, dear=2, single=2, curves=4, sanity=4)
QUICK = Plan(scenes=4, dear=0, single=0, curves=2, sanity=2)


@dataclass(frozen=True)
class Batch:
    """Scenes that are measured together; drawn when they are needed."""

    model: TimeSformer
    number: int
    part: Part
    plan: Plan

    @property
    def begin(self) -> int:
        """Number of the first scene."""
        return self.number * SCENES

    def here(self, until: int) -> int:
        """Return how many of the first `until` scenes are in this batch."""
        return max(0, min(SCENES, until - self.begin))

    @cached_property
    def truth(self) -> Truth:
        scenes = Scenes.draw(self.model, self.number, self.part)
        return Truth.find(scenes, single=self.here(self.plan.single))

    def measure(self, row: Row, scores: Scores) -> None:
        """Add a row's scores of these scenes."""
        plan = self.plan.of(row)
        found = judge(row, self.truth, curves=self.here(plan.curves), timed=self.number == 0)
        if few := self.here(plan.sanity):
            case = self.truth.scenes.case.part(slice(0, ACTS * few, ACTS), slice(0, 1))
            found |= sanity(row, case)
        scores.add(row.name, found)


def measure(
    model: TimeSformer, scores: Scores, rows: Iterable[Row], plan: Plan, part: Part
) -> None:
    """Measure what `scores` does not have yet; dear rows last."""
    rows = list(rows)
    batches = range(-(-plan.scenes // SCENES))
    for is_dear in (False, True):
        some = [row for row in rows if row.is_dear == is_dear]
        for number in tqdm(batches, unit="batch", desc="dear rows" if is_dear else "rows"):
            _measure_batch(Batch(model, number, part, plan), some, scores)


def _measure_batch(batch: Batch, rows: Iterable[Row], scores: Scores) -> None:
    if scores.scenes(MODEL) <= batch.begin:
        scores.add(MODEL, about_the_model(batch.truth))
        scores.save()
    for row in rows:
        if scores.scenes(row.name) <= batch.begin < batch.plan.of(row).scenes:
            batch.measure(row, scores)
            scores.save()


def kept_scores(path: Path, part: Part, folder: Path | None) -> Scores:
    """Return the scores of a checkpoint that are in a folder, if there are any."""
    about: dict[str, str | int] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "part": part,
    }
    return Scores.open(folder and folder / f"{path.stem}.json", about)


def main() -> None:
    """Read the command line, measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scores", type=Path, default=KEPT, help="folder for the scores; default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="few scenes, no black boxes")
    parser.add_argument("--scenes", type=int, help="limit of the scenes, for each model")
    parser.add_argument("--part", choices=SEEDS, default="report", help="which scenes")
    parser.add_argument(
        "--checkpoint", type=Path, action="append", help="default: all that are here"
    )
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS])
    parser.add_argument("--again", action="store_true", help="forget what there is of these rows")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the report; default: a new one")
    parser.add_argument(
        "--document", action="store_true", help="measure nothing; write the documents"
    )
    options = parser.parse_args()
    if options.quick and options.document:
        parser.error("--quick keeps no scores that could be documented")
    if options.device != "cpu" and options.scores == KEPT and not options.quick:
        parser.error(f"{KEPT} has times of a CPU; name another folder with --scores")
    plan = QUICK if options.quick else FULL
    if options.scenes is not None:
        plan = plan.at_most(options.scenes)
    rows = [by_name(name) for name in options.row] if options.row else ROWS
    found: dict[str, Scores] = {}
    for path in options.checkpoint or CHECKPOINTS:
        scores = kept_scores(path, options.part, None if options.quick else options.scores)
        if not options.document:
            if options.again:
                for row in rows:
                    scores.forget(row.name)
            measure(load_model(path).to(options.device), scores, rows, plan, options.part)
        found[path.stem] = scores
    if options.document:
        if missing := [name for name, scores in found.items() if not scores.rows]:
            parser.error(f"{options.scores} has no scores of {', '.join(missing)}")
        document(summarize(found))
        return
    out = options.out or Path(mkdtemp(prefix="evidence-"))
    out.mkdir(parents=True, exist_ok=True)
    write_results(summarize(found), out)
    print(out / "evidence.md")


if __name__ == "__main__":
    main()
