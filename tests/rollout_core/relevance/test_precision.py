"""The choice of a precision: with scripted times and answers, and on the built-in model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rollout_core.errors import DeviceError, OutOfMemory
from rollout_core.model.checkpoints import LoadedModel, open_model
from rollout_core.model.specs import spec_of
from rollout_core.relevance import precision as precision_module
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.precision import (
    MAX_MAP_ERROR,
    MAX_ROUNDS,
    MAX_TIE,
    choose,
    map_error,
    measuring_clip,
    open_dtype,
    precision_of,
    settle_precision,
)

CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.0, 3.0, 1.0]])
RELEVANCE = torch.linspace(0.1, 1, 8).reshape(1, 1, 2, 2, 2)


class Scripted:
    """Precisions that take the seconds, and give the answers, that a test says."""

    def __init__(self, **seconds: float) -> None:
        self.calls: list[str] = []
        self.logits: dict[str, Tensor] = {}
        self.relevance: dict[str, Tensor] = {}
        self.errors: dict[str, Exception] = {}
        self._seconds = seconds
        self._now = 0.0

    def choose(self) -> tuple[str, str]:
        """Return the choice, and why the last precision is refused."""
        trials: dict[Callable[[], Explanation], str] = {}

        def open_trial(precision: str) -> Callable[[], Explanation]:
            def trial() -> Explanation:
                return self._explain(precision)

            trials[trial] = precision
            return trial

        best, measured = choose(tuple(self._seconds), open_trial, lambda: self._now)
        assert [each.precision for each in measured] == list(self._seconds)
        return trials[best], measured[-1].refusal

    def _explain(self, precision: str) -> Explanation:
        self.calls.append(precision)
        self._now += self._seconds[precision]
        if precision in self.errors:
            raise self.errors[precision]
        return Explanation(
            logits=self.logits.get(precision, LOGITS),
            targets=None,
            query_relevance=self.relevance.get(precision, RELEVANCE),
        )


class TestChoice:
    def test_the_fastest_that_agrees_is_used(self):
        script = Scripted(float32=0.03, tf32=0.01, bfloat16=0.005, float16=0.02)
        assert script.choose() == ("bfloat16", "")

    def test_less_than_five_percent_is_not_faster(self):
        assert Scripted(float32=0.0103, bfloat16=0.01).choose() == ("float32", "not faster")
        assert Scripted(float32=0.0107, bfloat16=0.01).choose() == ("bfloat16", "")

    def test_another_class_is_refused(self):
        script = Scripted(float32=1, bfloat16=0.1)
        script.logits["bfloat16"] = torch.tensor([[3.0, 0.0, 1.0]])
        assert script.choose() == ("float32", "predicts another class")

    def test_a_class_that_is_as_probable_is_not_another_one(self):
        script = Scripted(float32=1, bfloat16=0.1)
        script.logits["float32"] = torch.tensor([[3.0, 3.0 + MAX_TIE, 0.0]])
        script.logits["bfloat16"] = torch.tensor([[3.0, 2.9, 0.0]])
        assert script.choose() == ("bfloat16", "")

    def test_infinite_logits_are_refused(self):
        script = Scripted(float32=1, bfloat16=0.1)
        script.logits["bfloat16"] = torch.tensor([[0.0, torch.inf, 1.0]])
        assert script.choose() == ("float32", "has infinite logits")

    @pytest.mark.parametrize(("error", "choice"), [(0.9, "bfloat16"), (1.1, "float32")])
    def test_a_map_that_differs_too_much_is_refused(self, error, choice):
        script = Scripted(float32=1, bfloat16=0.1)
        script.relevance["bfloat16"] = RELEVANCE * (1 + error * MAX_MAP_ERROR)
        assert script.choose()[0] == choice

    @pytest.mark.parametrize(
        ("error", "refusal"),
        [
            (torch.OutOfMemoryError("no memory"), "does not fit in memory"),
            (MemoryError(), "does not fit in memory"),
            (RuntimeError("not implemented for 'Half'\nat line 3"), "not implemented for 'Half'"),
        ],
    )
    def test_one_that_cannot_be_used_is_refused(self, error, refusal):
        script = Scripted(float32=1, bfloat16=0.1)
        script.errors["bfloat16"] = error
        assert script.choose() == ("float32", refusal)

    def test_errors_of_float32_are_raised(self):
        script = Scripted(float32=1, bfloat16=0.1)
        script.errors["float32"] = torch.OutOfMemoryError("no memory")
        with pytest.raises(torch.OutOfMemoryError):
            script.choose()


class TestRounds:
    def test_a_large_model_is_called_once_in_each_if_that_is_clear(self):
        script = Scripted(float32=4, bfloat16=1)
        assert script.choose()[0] == "bfloat16"
        assert script.calls == ["float32", "bfloat16"]

    def test_a_large_model_is_called_again_if_it_is_not(self):
        script = Scripted(float32=4, bfloat16=3.5)
        assert script.choose()[0] == "bfloat16"
        assert script.calls == ["float32", "bfloat16"] * 3

    def test_one_that_is_far_slower_is_called_once(self):
        script = Scripted(float32=1, bfloat16=9)
        assert script.choose() == ("float32", "not faster")
        assert script.calls == ["float32", "bfloat16"]

    def test_a_small_model_has_many_rounds(self):
        script = Scripted(float32=0.01, bfloat16=0.008)
        assert script.choose()[0] == "bfloat16"
        assert script.calls == ["float32", "bfloat16"] * (1 + MAX_ROUNDS)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return open_model("moving-things")


class TestModel:
    """The built-in model on this CPU."""

    def test_what_auto_chooses_agrees_with_float32(self, loaded):
        chosen, report = settle_precision(loaded, "auto")
        precision = precision_of(chosen.model)
        assert report.startswith(f"{precision}; measured: float32 ")
        clip = measuring_clip(loaded.spec)
        found, expected = (explained(each, clip) for each in (chosen, loaded))
        assert map_error(found, expected) <= MAX_MAP_ERROR

    def test_bfloat16_agrees_whether_it_is_faster_or_not(self, loaded, monkeypatch):
        monkeypatch.setattr(precision_module, "MIN_SPEEDUP", 0.0)
        monkeypatch.setattr(precision_module, "PRODUCT_SLOWDOWN", float("inf"))
        monkeypatch.setattr(precision_module, "HOPELESS_SLOWDOWN", float("inf"))
        chosen, _ = settle_precision(loaded, "auto")
        assert precision_of(chosen.model) == "bfloat16"
        assert precision_of(loaded.model) == "float32"

    def test_slow_products_are_not_waited_for(self, loaded, monkeypatch):
        monkeypatch.setattr(precision_module, "PRODUCT_SLOWDOWN", 0.0)
        chosen, report = settle_precision(loaded, "auto")
        assert chosen.model is loaded.model
        assert report.endswith("bfloat16 matrix products are slower")

    def test_a_precision_that_is_named_is_not_measured(self, loaded, monkeypatch):
        monkeypatch.setattr(precision_module, "choose", None)
        assert settle_precision(loaded, "float32") == (loaded, "float32")

    def test_batches_are_halved_to_one_clip_if_they_do_not_fit(self, loaded, monkeypatch):
        sizes = []

        def explain(_, clips):
            sizes.append(len(clips))
            if len(clips) > 1:
                raise torch.OutOfMemoryError
            return explain_clips(loaded.model, clips)

        monkeypatch.setattr(precision_module, "explain_clips", explain)
        settle_precision(loaded, "auto", clips=8)
        assert sizes[:2] == [8, 1]

    def test_a_clip_that_does_not_fit_is_an_error(self, loaded, monkeypatch):
        def explain(*_):
            raise torch.OutOfMemoryError

        monkeypatch.setattr(precision_module, "explain_clips", explain)
        with pytest.raises(OutOfMemory, match="one clip of 8 frames"):
            settle_precision(loaded, "auto")


def explained(loaded: LoadedModel, frames: np.ndarray) -> Explanation:
    dtype = next(loaded.model.parameters()).dtype
    return explain_clips(loaded.model, prepare_clips(frames, loaded.spec, device=CPU, dtype=dtype))


@pytest.mark.parametrize("name", ["moving-things", "timesformer-k400"])
def test_the_clip_has_the_size_of_the_model_moves_and_is_not_flat(name):
    spec = spec_of(name)
    clip = measuring_clip(spec)
    assert clip.shape == (1, spec.frames, spec.height, spec.width, 3)
    assert (clip == measuring_clip(spec)).all()
    assert clip.std() > 20
    assert (clip[0, 0] != clip[0, -1]).mean() > 0.5


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_parameters_are_loaded_in_the_format_of_the_choice(choice, dtype):
    assert open_dtype(choice, CPU) == dtype


@pytest.mark.parametrize("choice", ["tf32", "float16"])
def test_a_precision_that_a_cpu_lacks_is_an_error(choice):
    with pytest.raises(DeviceError, match=f"{choice} is not for the device cpu"):
        open_dtype(choice, CPU)
