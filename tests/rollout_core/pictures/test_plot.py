import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from rollout_core.contract import Faithfulness, Target
from rollout_core.pictures.plot import LEAST, MOST, RANDOM, plot_faithfulness
from rollout_core.relevance.faithfulness import FILLS, STEPS, summarize

BARE_PROCESS = """
import sys
from pathlib import Path
from worker.sandbox import confine, limit
from worker.messages import MediaOptions
limit(MediaOptions())
confine(Path(sys.argv[2]), Path(sys.argv[2]).parent)
from rollout_core.contract import Faithfulness
from rollout_core.pictures.plot import plot_faithfulness
plot_faithfulness(Faithfulness.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def faithfulness(most=0.1, least=0.8, at_random=0.5, label="left", fills=2) -> Faithfulness:
    """Return a `Faithfulness` whose curves are constant."""
    levels = np.array([most, least, *[at_random] * 5])
    curves = np.broadcast_to(levels[:, None], (len(FILLS), 7, STEPS + 1))
    whole = summarize(curves, Target(label=label, index=0))
    return whole.model_copy(update={"fills": whole.fills[:fills]})


def draw(path: Path, drawn: Faithfulness) -> np.ndarray:
    plot_faithfulness(drawn, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def heights(panel: np.ndarray, colour: str) -> np.ndarray:
    """Return the rows of a panel of which at least half has this colour."""
    near = np.abs(panel - ImageColor.getrgb(colour)).sum(axis=-1) < 60
    return (near.mean(axis=1) > 0.5).nonzero()[0]


def test_deletion_is_on_the_left_and_insertion_on_the_right(tmp_path):
    picture = draw(tmp_path / "plot.png", faithfulness(fills=1))
    left, right = np.array_split(picture[:, 40:], 2, axis=1)
    # Rows count from the top: the most relevant first is low in deletion, high in insertion.
    assert heights(left, MOST).min() > heights(left, LEAST).max() + 50
    assert heights(right, MOST).max() < heights(right, LEAST).min() - 50
    assert np.array_equal(heights(left, MOST), heights(right, LEAST))


def test_random_orders_are_drawn_between_the_other_curves(tmp_path):
    picture = draw(tmp_path / "plot.png", faithfulness(fills=1))
    left = picture[:, 40 : picture.shape[1] // 2]
    # A dashed line over a band that has no height here.
    near = np.abs(left - ImageColor.getrgb(RANDOM)).sum(axis=-1) < 60
    row = int(near.sum(axis=1).argmax())
    assert heights(left, LEAST).max() < row < heights(left, MOST).min()


def test_every_fill_has_a_row(tmp_path):
    one = draw(tmp_path / "one.png", faithfulness(fills=1))
    two = draw(tmp_path / "two.png", faithfulness(fills=2))
    assert one.shape[1] == two.shape[1] == 800
    assert two.shape[0] == one.shape[0] + 260
    groups = np.diff(heights(two[:, 40:400], MOST)) > 20
    assert groups.sum() == 1


def test_plot_file_is_small(tmp_path):
    path = tmp_path / "plot.png"
    draw(path, faithfulness())
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize("label", ["$\\frac", "put " * 40, "a_{b}^c", ""])
def test_any_label_is_drawn_literally(label, tmp_path):
    picture = draw(tmp_path / "plot.png", faithfulness(label=label))
    plain = draw(tmp_path / "plain.png", faithfulness(label="left"))
    assert picture.shape == plain.shape
    assert (picture != plain).any()
    assert (picture[:, -4:] == 255).all()


def test_plot_works_in_the_sandbox_of_the_media_process_without_a_home(tmp_path):
    home, cache, path = tmp_path / "home", tmp_path / "cache", tmp_path / "plot.png"
    cache.mkdir()
    environment = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "MPLCONFIGDIR": str(cache),
        "MPL_IGNORE_SYSTEM_FONTS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE_PROCESS, faithfulness().model_dump_json(), path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["cache", "plot.png"]
    assert [found.suffix for found in cache.iterdir()] == [".json"]
    with Image.open(path) as image:
        assert image.size == (800, 670)
