import torch

from rollout_core.demo.initial import new_model
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model
from tests.benchmarks.evidence.cases import Case, Scenes
from tests.benchmarks.evidence.maps import by_name
from tests.benchmarks.evidence.sanity import forgetful, sanity
from tests.rollout_core.models import random_clips, random_model


def test_first_the_head_then_the_layers_are_untrained():
    model = random_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = new_model(model.architecture, 0).state_dict()
    gone: tuple[str, ...] = ("norm.", "head.")
    for part, changed in forgetful(model):
        if part == "no layers":
            gone += ("blocks.",)
        for key, value in changed.state_dict().items():
            source = fresh if key.startswith(gone) else before
            assert torch.equal(value, source[key]), key
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_map_of_the_picture_alone_never_changes():
    case = Case(random_model(0), random_clips(), torch.tensor([[0], [1]]), seed=0)
    for values in sanity(by_name("frame differences"), case).values():
        torch.testing.assert_close(values, torch.ones(2))


def test_maps_depend_on_what_was_learned_and_maps_of_a_class_on_the_head():
    scenes = Scenes.draw(load_model(MOVING_THINGS_PATH), 0, "development")
    case = scenes.case.part(slice(0, 4), slice(0, 1))
    for name in ("rollout", "contribution_rollout, deviation", "class contributions, projection"):
        found = {part: values.mean().item() for part, values in sanity(by_name(name), case).items()}
        assert found["no layers"] < 0.5
        assert (found["no head"] < 0.999) == by_name(name).knows_class
