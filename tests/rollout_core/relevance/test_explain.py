import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from torch._subclasses.fake_tensor import FakeTensorMode

from rollout_core import resolve
from rollout_core.contract import MethodOptions, PatchQuery, TokenQuery
from rollout_core.errors import InvalidRequest
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model
from rollout_core.model.specs import MOVING_THINGS, spec_of
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance import explain
from rollout_core.relevance.class_contributions import class_contributions
from rollout_core.relevance.difference import explain_difference
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.methods import capture_flow, fuse_heads
from rollout_core.relevance.perturbation import fill_of
from rollout_core.relevance.rollout import patches_of, roll_out
from tests.rollout_core import dense
from tests.rollout_core.models import SMALL, random_clips, random_model

REFERENCE = Path(__file__).parents[1] / "reference"
ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]
ROLLOUTS: list[dict[str, str]] = [
    {"method": "rollout"},
    {"method": "gradient_rollout"},
    {"method": "contribution_rollout", "weighting": "projection"},
    {"method": "contribution_rollout", "weighting": "deviation"},
]
METHODS = [*ROLLOUTS, {"method": "attention"}]


def explained(
    model: TimeSformer,
    clips: torch.Tensor,
    *,
    target: Any = None,
    against: Any = None,
    queries: Sequence[TokenQuery] = ("cls",),
    first_clip: int = 0,
    **options: Any,
) -> Explanation:
    """Explain clips with the given options of a method."""
    return explain_clips(
        model,
        clips,
        MethodOptions(**options),
        target=target,
        against=against,
        queries=queries,
        first_clip=first_clip,
    )


def named(options: dict[str, str]) -> str:
    return " ".join(options.values())


@pytest.fixture(params=["divided", "joint", "space_only"])
def name(request: pytest.FixtureRequest) -> str:
    """Name of a checkpoint for which the published code's outputs are stored."""
    return request.param


@pytest.fixture(params=ATTENTION_TYPES)
def model(request: pytest.FixtureRequest) -> TimeSformer:
    return random_model(attention_type=request.param)


def dense_rollout(model: TimeSformer, clip: torch.Tensor, options: dict[str, str]) -> torch.Tensor:
    """Compute the rollout of every token densely, with the copies of the cls token merged."""
    run = dense.run(model, clip.requires_grad_(options["method"] == "gradient_rollout"))
    if options["method"] == "gradient_rollout":
        run.logits.max().backward()
    matrix_of = {
        "rollout": dense.rollout_matrix,
        "gradient_rollout": dense.gradient_matrix,
    }.get(options["method"]) or dense.contribution_matrix(options.get("weighting", ""))
    with torch.no_grad():
        full = dense.product(run, matrix_of)
    cls, patches = full[: run.copies].mean(dim=0, keepdim=True), full[run.copies :]
    rows = torch.cat([cls, patches])
    return torch.cat([rows[:, : run.copies].sum(dim=1, keepdim=True), rows[:, run.copies :]], dim=1)


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / f"tiny_{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_logits_equal_the_published_code(name: str):
    published = reference(name)
    model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
    close(explained(model, published["clips"]).logits, published["logits"])


def test_attention_equals_the_published_code(name: str):
    published = reference(name)
    model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
    with (
        torch.inference_mode(),
        capture_flow(model, lambda step: fuse_heads(step, "mean")) as flow,
    ):
        model(published["clips"])
    groups = torch.stack(flow.groups)
    if name == "joint":
        # The published order of tokens is (h w) t, ours is t (h w).
        cls, patches = torch.zeros(1, dtype=torch.long), torch.arange(1, 181)
        order = torch.cat([cls, rearrange(patches, "(p t) -> (t p)", t=5)])
        published["space_attention"] = published["space_attention"][:, :, order][:, :, :, order]
    close(rearrange(groups, "l b g q k -> l (b g) q k"), published["space_attention"])
    if name == "divided":
        time = rearrange(torch.stack(flow.time), "l b p q k -> l (b p) q k")
        close(time, published["time_attention"])


def test_relevance_equals_the_published_dense_rollout():
    published = reference("divided")
    model = load_model(REFERENCE / "tiny_divided.pyth", num_heads=4)
    relevance = explained(model, published["clips"]).relevance
    assert relevance.shape == (2, 5, 6, 6)
    expected = rearrange(published["rollout_hwt"], "b h w t -> b t h w")
    close(relevance, expected, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_every_row_equals_the_dense_rollout(model: TimeSformer, options: dict[str, str]):
    clips = random_clips()
    explanation = explained(model, clips, **options, full_rollout=True)
    for index, clip in enumerate(clips):
        expected = dense_rollout(model, clip, options)
        relevance = rearrange(explanation.relevance[index], "t h w -> (t h w)")
        close(relevance, expected[0, 1:])
        close(explanation.full_rollout[index].float(), expected, atol=1e-3)  # half precision


@pytest.mark.parametrize("t", [1, 5])
@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_other_frame_counts_equal_the_dense_rollout(
    t: int, model: TimeSformer, options: dict[str, str]
):
    clips = random_clips(batch=1, t=t)
    relevance = explained(model, clips, **options).relevance
    expected = dense_rollout(model, clips[0], options)
    close(rearrange(relevance, "1 t h w -> (t h w)"), expected[0, 1:])


@pytest.mark.parametrize("t", [1, 2])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_one_patch_and_one_head_equal_the_dense_rollout(
    options: dict[str, str], attention_type: str, t: int
):
    model = random_model(attention_type=attention_type, height=8, width=4, heads=1)
    clips = random_clips(batch=1, t=t, height=8, width=4)
    relevance = explained(model, clips, **options).relevance
    expected = dense_rollout(model, clips[0], options)
    close(rearrange(relevance, "1 t 1 1 -> t"), expected[0, 1:])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("options", METHODS, ids=named)
def test_trainable_parameters_change_nothing(
    model: TimeSformer, options: dict[str, str], mode: type
):
    expected = explained(model, random_clips(), **options)
    model.requires_grad_(True)
    with mode():
        explanation = explained(model, random_clips(), **options)
    assert torch.equal(explanation.relevance, expected.relevance)
    assert not explanation.relevance.requires_grad
    assert not explanation.logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("options", METHODS, ids=named)
def test_all_tensors_are_made_on_the_models_device(options: dict[str, str]):
    queries = [PatchQuery(frame=0, row=1, column=5), "cls"]
    full = {"full_rollout": True} if options in ROLLOUTS else {}
    target = {"target": [3, 1]} if options["method"] == "gradient_rollout" else {}
    with FakeTensorMode():  # refuses to mix devices
        with torch.device("meta"):
            model, clips = TimeSformer(SMALL), torch.empty(2, 3, 3, 16, 24)
        explanation = explained(
            model, clips, **options, **full, **target, queries=queries, per_layer=True
        )
    found = [part for part in vars(explanation).values() if part is not None]
    assert {part.device.type for part in found} == {"cpu"}


def test_attention_shows_one_layer(model: TimeSformer):
    clips = random_clips()
    run = dense.run(model, clips[0])
    per_layer = len(run.steps) // 3
    for layer in range(3):
        run_of_layer = dense.DenseRun(
            run.steps[per_layer * layer : per_layer * (layer + 1)], run.logits, run.copies
        )
        expected = dense.product(run_of_layer, dense.raw_matrix)[: run.copies].mean(dim=0)
        relevance = explained(model, clips, method="attention", layer=layer).relevance
        close(rearrange(relevance[0], "t h w -> (t h w)"), expected[run.copies :])
    last = explained(model, clips, method="attention").relevance
    close(last, relevance)


@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_query_relevance_is_a_row_of_the_full_rollout(model: TimeSformer, options: dict[str, str]):
    queries = [
        PatchQuery(frame=0, row=1, column=5),
        "cls",
        PatchQuery(clip=1, frame=2, row=0, column=3),
    ]
    explanation = explained(model, random_clips(), **options, queries=queries, full_rollout=True)
    full = rearrange(
        explanation.full_rollout[:, :, 1:].float(), "b q (t h w) -> b q t h w", t=3, h=2
    )
    asked = explanation.query_relevance
    close(asked[0, 0], full[0, 1 + 11], atol=1e-3)
    close(asked[:, 1], full[:, 0], atol=1e-3)
    close(asked[1, 2], full[1, 1 + 24 + 3], atol=1e-3)
    assert asked[1, 0].abs().max() == asked[0, 2].abs().max() == 0
    close(explanation.relevance, asked[:, 0])


@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_temporal_rollout_is_the_mean_over_the_rows_of_a_frame(
    model: TimeSformer, options: dict[str, str]
):
    explanation = explained(model, random_clips(), **options, full_rollout=True)
    expected = reduce(
        explanation.full_rollout[:, 1:, 1:].float(), "b (q p) (k n) -> b q p k", "sum", q=3, k=3
    ).mean(dim=2)
    close(explanation.temporal_rollout, expected, atol=2e-3)


@pytest.mark.parametrize("options", METHODS, ids=named)
def test_many_queries_need_one_forward(monkeypatch: pytest.MonkeyPatch, options: dict[str, str]):
    model, forwards = random_model(), []
    embed = TimeSformer.embed
    monkeypatch.setattr(
        TimeSformer, "embed", lambda self, clips: forwards.append(1) or embed(self, clips)
    )
    queries = [PatchQuery(frame=t, row=0, column=c) for t in range(3) for c in range(6)]
    explanation = explained(model, random_clips(), **options, queries=queries)
    assert explanation.query_relevance.shape == (2, 18, 3, 2, 6)
    assert len(forwards) == 1


def test_queries_count_from_the_first_clip():
    model, clips = random_model(), random_clips()
    query = PatchQuery(clip=7, frame=1, row=1, column=2)
    here = explained(model, clips, queries=[query], first_clip=6)
    assert here.relevance[0].abs().max() == 0
    own = PatchQuery(clip=1, frame=1, row=1, column=2)
    close(here.relevance, explained(model, clips, queries=[own]).relevance)
    close(here.frame_relevance.sum(dim=1), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("options", METHODS, ids=named)
def test_frame_relevance_is_the_share_of_each_frame(model: TimeSformer, options: dict[str, str]):
    explanation = explained(model, random_clips(), **options)
    frames = explanation.relevance.sum(dim=(2, 3))
    close(explanation.frame_relevance, frames / frames.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("options", ROLLOUTS, ids=named)
def test_layer_relevance_is_that_of_a_rollout_from_the_layer(
    model: TimeSformer, options: dict[str, str]
):
    clips = random_clips()
    explanation = explained(model, clips, **options, per_layer=True, start_layer=1)
    layers = explanation.layer_relevance
    assert layers.shape == (2, 3, 3, 2, 6)
    close(layers[:, 0], explanation.relevance)
    close(layers[:, 1], explanation.relevance)
    close(layers[:, 2], explained(model, clips, **options, start_layer=2).relevance)
    assert (layers[:, 1] - layers[:, 2]).abs().max() > 1e-5


def test_layer_relevance_of_attention_is_each_layers_attention(model: TimeSformer):
    clips = random_clips()
    layers = explained(model, clips, method="attention", per_layer=True).layer_relevance
    for layer in range(3):
        alone = explained(model, clips, method="attention", layer=layer).relevance
        close(layers[:, layer], alone)


@pytest.mark.parametrize("options", METHODS, ids=named)
def test_batch_equals_its_clips_one_by_one(model: TimeSformer, options: dict[str, str]):
    clips = random_clips(batch=2)
    both = explained(model, clips, **options)
    for index in range(2):
        alone = explained(model, clips[index : index + 1], **options)
        close(both.relevance[index : index + 1], alone.relevance, atol=1e-6)
        close(both.logits[index : index + 1], alone.logits)


@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
def test_relevance_is_at_least_0_and_sums_to_less_than_1(model: TimeSformer, head_fusion: str):
    relevance = explained(
        model, random_clips(), head_fusion=head_fusion, discard_ratio=0.3
    ).relevance
    assert relevance.dtype == torch.float32
    assert relevance.min() >= 0
    assert (relevance.sum(dim=(1, 2, 3)) > 0.05).all()
    assert (relevance.sum(dim=(1, 2, 3)) < 1).all()


@pytest.mark.parametrize("options", [o for o in ROLLOUTS if "gradient" not in named(o)], ids=named)
def test_relevance_of_patches_and_cls_token_sums_to_one(
    model: TimeSformer, options: dict[str, str]
):
    explanation = explained(model, random_clips(), **options, full_rollout=True)
    rows = explanation.full_rollout.float().sum(dim=2)
    close(rows, torch.ones_like(rows), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"head_fusion": "max"}, {"head_fusion": "min"}, {"discard_ratio": 0.5}, {"start_layer": 1}],
)
def test_every_option_has_an_effect(options: dict[str, object]):
    model, clips = random_model(), random_clips()
    plain, other = explained(model, clips), explained(model, clips, **options)
    assert (plain.relevance - other.relevance).abs().max() > 1e-4
    close(plain.logits, other.logits)


def test_target_is_one_class_or_one_per_clip():
    model, clips = random_model(), random_clips()
    both = explained(model, clips, method="gradient_rollout", target=[3, 1])
    assert both.targets.tolist() == [3, 1]
    three = explained(model, clips, method="gradient_rollout", target=3)
    assert three.targets.tolist() == [3, 3]
    close(both.relevance[0], three.relevance[0])
    assert (both.relevance[1] - three.relevance[1]).abs().max() > 1e-5
    predicted = explained(model, clips, method="gradient_rollout")
    assert predicted.targets.tolist() == predicted.logits.argmax(dim=1).tolist()


CLASS_MAPS: list[dict[str, Any]] = [
    {"method": "contribution_rollout"},
    {"method": "contribution_rollout", "weighting": "deviation"},
    {"method": "contribution_rollout", "against": 2},
    {"method": "difference"},
    {"method": "difference", "reference": "blur"},
    {"method": "difference", "reference": "mean"},
]


@pytest.mark.parametrize("options", CLASS_MAPS, ids=lambda options: " ".join(map(str, options)))
def test_maps_of_classes_are_those_of_the_method(model: TimeSformer, options: dict[str, Any]):
    clips, targets = random_clips(), [[0, "predicted"], [4, 1]]
    found = explained(model, clips, **options, target=targets, per_layer=True)
    best = int(found.logits[0].argmax())
    assert found.target_classes.tolist() == [[0, best], [4, 1]]
    assert found.targets.tolist() == [0, 4]
    assert found.temporal_rollout is None
    if options["method"] == "difference":
        references = fill_of(clips, options.get("reference", "still"), (8, 4)).expand_as(clips)
        expected = explain_difference(model, clips, references, targets).relevance
        total = found.logits - model(references)
        sums = expected.sum(dim=(2, 3, 4))
        close(sums, total.gather(1, found.target_classes))
    else:
        known = {name: options.get(name) for name in ("against",)}
        weighting = options.get("weighting", "projection")
        parts = class_contributions(model, clips, targets, weighting=weighting, **known)
        *_, rows = roll_out(torch.zeros_like(parts.direct[0]), parts.flow, parts.direct)
        expected = rearrange(patches_of(rows), "b r (t h w) -> b r t h w", t=3, h=2)
    close(found.target_relevance, expected)
    close(found.query_relevance, expected[:, :1])
    close(found.layer_relevance[:, 0], found.relevance)
    assert found.layer_relevance.shape == (2, 3, 3, 2, 6)
    assert (found.target_relevance.amin(dim=(2, 3, 4)) < 0).all()
    positive = found.relevance.clamp(min=0).sum(dim=(2, 3))
    close(found.frame_relevance, positive / positive.sum(dim=1, keepdim=True))


def test_layer_relevance_of_a_class_is_that_from_the_layer_on(model: TimeSformer):
    options = {"method": "contribution_rollout", "target": 1, "start_layer": 1}
    layers = explained(model, random_clips(), **options, per_layer=True).layer_relevance
    close(layers[:, 0], layers[:, 1])
    last = explained(model, random_clips(), **options | {"start_layer": 2}).relevance
    close(layers[:, 2], last)
    assert (layers[:, 1] - layers[:, 2]).abs().max() > 1e-5


def test_difference_explains_the_predicted_class_by_default():
    found = explained(random_model(), random_clips(), method="difference")
    assert found.target_classes.tolist() == found.logits.argmax(dim=1, keepdim=True).tolist()
    assert found.layer_relevance is None


@pytest.mark.parametrize("options", [CLASS_MAPS[0], CLASS_MAPS[3]], ids=["A", "B"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_maps_of_classes_leave_parameters_alone(options: dict[str, Any], mode: type):
    model = random_model()
    expected = explained(model, random_clips(), **options, target=2)
    model.requires_grad_(True)
    with mode():
        found = explained(model, random_clips(), **options, target=2)
    close(found.relevance, expected.relevance, atol=1e-6)
    assert not found.relevance.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("options", [CLASS_MAPS[2], CLASS_MAPS[4]], ids=["A", "B"])
def test_tensors_of_maps_of_classes_are_made_on_the_models_device(options: dict[str, Any]):
    with FakeTensorMode():  # refuses to mix devices
        with torch.device("meta"):
            model, clips = TimeSformer(SMALL), torch.empty(2, 3, 3, 16, 24)
        found = explained(model, clips, **options, target=[[0, 1], [3, 4]], per_layer=True)
    parts = [part for part in vars(found).values() if part is not None]
    assert {part.device.type for part in parts} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradient_rollout", "target": [[0, 1], [0, 1]]}, "several targets are not for"),
        ({"method": "difference", "target": [[0, 1], [0]]}, "target is [[0, 1], [0]], but"),
        ({"method": "difference", "target": [[], []]}, "2 clips"),
        ({"method": "difference", "target": "left"}, "target is left, but"),
        ({"method": "difference", "target": 1, "against": 0}, "against is for"),
        ({"method": "contribution_rollout", "against": 0}, "against is for"),
        ({"method": "contribution_rollout", "target": 1, "against": 5}, "against is 5, but"),
        ({"method": "contribution_rollout", "target": 1, "against": 1}, "this class is a target"),
        (
            {"method": "difference", "queries": [PatchQuery(frame=0, row=0, column=0)]},
            "maps of classes are for the query 'cls'",
        ),
        (
            {"method": "contribution_rollout", "target": 1, "full_rollout": True},
            "full_rollout is not for maps of classes",
        ),
        ({"start_layer": 3}, "start_layer: there is no layer 3; the model has 3 layers"),
        ({"method": "attention", "layer": 3}, "layer: there is no layer 3; the model has 3 layers"),
        ({"method": "gradient_rollout", "target": 5}, "target is 5"),
        ({"method": "gradient_rollout", "target": [0]}, "2 clips"),
        ({"target": 1}, "target is for gradient_rollout, contribution_rollout, difference, not"),
        ({"queries": [PatchQuery(frame=3, row=0, column=0)]}, "frame is 3, but"),
        ({"queries": [PatchQuery(frame=0, row=0, column=6)]}, "column is 6, but"),
    ],
)
def test_request_that_does_not_fit_the_model_is_refused(options: dict[str, object], message: str):
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        explained(random_model(), random_clips(), **options)


def test_too_large_full_rollout_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resolve, "MAX_FULL_ROLLOUT_TOKENS", 36)
    with pytest.raises(InvalidRequest, match="the clip has 37 tokens, more than 36"):
        explained(random_model(), random_clips(), full_rollout=True)


def test_full_rollout_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch):
    def full() -> Explanation:
        return explained(random_model(), random_clips(), full_rollout=True)

    whole = full()
    monkeypatch.setattr(explain, "FULL_ROLLOUT_ROWS", 5)
    close(full().full_rollout, whole.full_rollout, atol=1e-6)


@pytest.mark.parametrize("options", METHODS, ids=named)
def test_half_precision_changes_relevance_little(options: dict[str, str]):
    model = load_model(MOVING_THINGS_PATH)
    clips = random_clips(batch=1, t=8, height=64, width=64)
    target = {"target": 0} if options["method"] == "gradient_rollout" else {}
    exact = explained(model, clips, **options, **target).relevance
    half = explained(model.bfloat16(), clips.bfloat16(), **options, **target).relevance
    assert half.dtype == torch.float32
    difference = (half - exact).norm() / exact.norm()
    assert 0 < difference < (0.02 if options["method"] == "rollout" else 0.1)


def test_prepare_normalises_and_keeps_rgb():
    frames = np.zeros((1, 2, 4, 6, 3), dtype=np.uint8)
    frames[..., 0] = 255
    clips = prepare_clips(frames, MOVING_THINGS, device=torch.device("cpu"), dtype=torch.float32)
    assert clips.shape == (1, 3, 2, 4, 6)
    close(clips[0, :, 0, 0, 0], torch.tensor([(1 - 0.45) / 0.225, -2.0, -2.0]))


def test_prepare_swaps_channels_for_bgr():
    frames = np.zeros((1, 1, 2, 2, 3), dtype=np.uint8)
    frames[..., 0] = 255
    spec = spec_of("timesformer-ssv2")
    clips = prepare_clips(frames, spec, device=torch.device("cpu"), dtype=torch.float32)
    close(clips[0, :, 0, 0, 0], torch.tensor([-2.0, -2.0, (1 - 0.45) / 0.225]))
