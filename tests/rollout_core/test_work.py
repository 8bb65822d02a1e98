import pytest

from rollout_core import explain_file
from rollout_core.archive import ARRAYS
from rollout_core.contract import ExplainRequest, Method
from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.errors import TooMuchWork
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.work import FORWARDS, check_array_bytes, work_of

EVERYTHING = ExplainRequest(query=("cls", "0:1:2", "0:3:4"), per_layer=True, clips="tile")


@pytest.mark.parametrize(
    "request_",
    [
        ExplainRequest(),
        EVERYTHING,
        ExplainRequest(full_rollout=True),
        ExplainRequest(method="contribution_rollout", target=(0, 1, 2, 3)),
        ExplainRequest(method="attention", query=("cls", "0:1:2"), per_layer=True),
    ],
    ids=["default", "everything", "full rollout", "targets", "attention"],
)
def test_the_bytes_are_those_of_a_result(request_):
    explained = explain_file(SAMPLE_PATH, **request_.model_dump(exclude_unset=True))
    arrays = (getattr(explained.arrays, name) for name in ARRAYS)
    found = sum(array.nbytes for array in arrays if array is not None)
    work = work_of(request_, MOVING_THINGS, explained.result.clips)

    assert 0.9 * found < work.array_bytes < 1.1 * found


def test_clips_and_methods_count():
    one, ten = (work_of(EVERYTHING, MOVING_THINGS, clips) for clips in (1, 10))
    assert (one.clips, one.queries, one.targets, one.layers) == (1, 3, 0, MOVING_THINGS.depth)
    assert (ten.forwards, ten.array_bytes) == (10, 10 * one.array_bytes)
    difference = ExplainRequest(method="difference")
    assert work_of(difference, MOVING_THINGS, 10).forwards == 60


def test_every_method_has_a_number_of_forwards():
    assert FORWARDS.keys() == set(Method.__args__)


def test_too_large_arrays_are_refused_with_the_numbers():
    work = work_of(EVERYTHING, MOVING_THINGS, 1200)
    check_array_bytes(work, work.array_bytes)

    with pytest.raises(TooMuchWork) as refused:
        check_array_bytes(work, 10_000_000)

    assert str(refused.value) == (
        "the arrays of 1,200 clips, 3 queries, 0 targets and 4 layers take 60,268,800 bytes; "
        "10,000,000 are allowed. Ask for a shorter span, fewer queries or targets, or no per_layer"
    )
