import pytest
from pydantic import ValidationError

from rollout_core.demo.motions import CLASSES
from rollout_core.errors import InvalidRequest, UnknownModel
from rollout_core.model.specs import MOVING_THINGS, SPECS, ModelSpec, spec_of

PUBLISHED = [spec for spec in SPECS.values() if spec is not MOVING_THINGS]


def test_every_published_model_has_a_spec():
    assert len(PUBLISHED) == 3 * 3 + 4
    assert all(name == spec.name for name, spec in SPECS.items())


@pytest.mark.parametrize(
    ("name", "frames", "size", "top1"),
    [
        ("timesformer-k400", 8, 224, 77.9),
        ("timesformer-hr-k400", 16, 448, 79.6),
        ("timesformer-l-k400", 96, 224, 80.6),
        ("timesformer-k600", 8, 224, 79.1),
        ("timesformer-hr-k600", 16, 448, 81.8),
        ("timesformer-l-k600", 96, 224, 82.2),
        ("timesformer-ssv2", 8, 224, 59.1),
        ("timesformer-hr-ssv2", 16, 448, 61.8),
        ("timesformer-l-ssv2", 64, 224, 62.0),
        ("timesformer-howto100m-8", 8, 224, None),
        ("timesformer-howto100m-32", 32, 224, None),
        ("timesformer-howto100m-64", 64, 448, None),
        ("timesformer-howto100m-96", 96, 224, None),
    ],
)
def test_published_inputs_and_accuracy(name: str, frames: int, size: int, top1: float | None):
    spec = spec_of(name)
    assert (spec.frames, spec.height, spec.width, spec.top1) == (frames, size, size, top1)


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_published_models_share_normalisation_and_licence(spec: ModelSpec):
    assert (spec.mean, spec.std) == ((0.45,) * 3, (0.225,) * 3)
    assert spec.licence == "CC-BY-NC-4.0"
    assert spec.attention_type == "divided_space_time"


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_only_something_something_is_bgr_and_uniform(spec: ModelSpec):
    ssv2 = "ssv2" in spec.name
    assert (spec.channel_order == "BGR") == ssv2
    assert (spec.sampling == "uniform") == ssv2


def test_kinetics_clip_covers_all_its_strides():
    assert spec_of("timesformer-k400").clip_seconds == pytest.approx(8 * 32 / 30)
    assert spec_of("timesformer-hr-k400").clip_seconds == pytest.approx(16 * 16 / 30)
    assert spec_of("timesformer-l-k400").clip_seconds == pytest.approx(96 * 4 / 30)


def test_labels_are_those_of_the_data_set():
    kinetics, ssv2 = spec_of("timesformer-k400"), spec_of("timesformer-ssv2")
    assert [kinetics.label(0), kinetics.label(399)] == ["abseiling", "zumba"]
    assert ssv2.label(0) == "Approaching something with your camera"
    assert ssv2.label(173) != "class 173"


def test_unknown_label_is_the_class_number():
    assert spec_of("timesformer-k600").label(5) == "class 5"
    assert spec_of("timesformer-k400").label(400) == "class 400"


def test_demo_model_has_the_labels_of_its_generator():
    assert MOVING_THINGS.labels == CLASSES
    assert MOVING_THINGS.classes == len(CLASSES)


@pytest.mark.parametrize(
    ("name", "grid", "depth"),
    [
        ("moving-things", (8, 14, 14), 4),
        ("timesformer-k400", (8, 14, 14), 12),
        ("timesformer-hr-ssv2", (16, 28, 28), 12),
        ("timesformer-l-k600", (96, 14, 14), 12),
    ],
)
def test_grid_and_depth_of_a_model(name: str, grid: tuple[int, int, int], depth: int):
    spec = spec_of(name)
    assert (spec.grid, spec.depth) == (grid, depth)


def test_grid_of_an_oblong_input():
    sizes = {"height": 48, "width": 60, "patch_height": 8, "patch_width": 6}
    assert MOVING_THINGS.model_copy(update=sizes).grid == (8, 6, 10)


@pytest.mark.parametrize(
    ("target", "index"),
    [(0, 0), (11, 11), ("0", 0), ("11", 11), ("a thing rises", 2), ("two things meet", 7)],
)
def test_class_is_found_by_index_digits_or_label(target: int | str, index: int):
    assert MOVING_THINGS.class_index(target) == index


@pytest.mark.parametrize(
    "target", [12, -1, "12", "-1", "+1", "07", "", "A thing rises", "²", "9" * 5000]
)
def test_unknown_class_is_refused(target: int | str):
    with pytest.raises(InvalidRequest, match=r"moving-things has no class .* it has 12"):
        MOVING_THINGS.class_index(target)


def test_label_takes_precedence_over_digits():
    spec = MOVING_THINGS.model_copy(update={"labels": ("1", "one"), "classes": 2})
    assert [spec.class_index(target) for target in ("1", "0", 1)] == [0, 0, 1]


def test_name_of_two_classes_is_no_target():
    spec = MOVING_THINGS.model_copy(update={"labels": ("crane", "crane", "1"), "classes": 3})
    with pytest.raises(InvalidRequest, match="several classes 'crane'; give an index: 0, 1"):
        spec.class_index("crane")
    assert [spec.class_index(target) for target in (0, 1, "2")] == [0, 1, 2]


def test_more_labels_than_classes_are_refused():
    with pytest.raises(ValidationError, match="3 labels for 2 classes"):
        ModelSpec.model_validate(
            MOVING_THINGS.model_dump() | {"labels": ["a", "b", "c"], "classes": 2}
        )


def test_class_without_label_is_found_by_number():
    spec = spec_of("timesformer-k600")
    assert spec.class_index("599") == 599
    with pytest.raises(InvalidRequest):
        spec.class_index("zumba")


def test_class_is_found_by_a_label_of_the_data_set():
    assert spec_of("timesformer-k400").class_index("zumba") == 399


def test_unknown_name_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownModel, match="timesformer-k400"):
        spec_of("timesformer-k700")


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_spec_survives_json(spec: ModelSpec):
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
