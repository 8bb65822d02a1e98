from dataclasses import replace

import torch

from rollout_core.demo.initial import new_model
from rollout_core.demo.train import ARCHITECTURE

SMALL = replace(ARCHITECTURE, height=32, width=48, dim=32, mlp_dim=64, depth=2, classes=3)


def test_model_has_the_architecture_and_depends_on_the_seed():
    model, same, other = new_model(SMALL, 0), new_model(SMALL, 0), new_model(SMALL, 1)
    assert model.architecture == SMALL
    assert model.pos_embed.shape == (1, 1 + 4 * 6, 32)
    for name, part in model.state_dict().items():
        assert torch.equal(part, same.state_dict()[name])
    assert not torch.equal(model.head.weight, other.head.weight)


def test_neighbours_in_space_and_time_have_similar_embeddings():
    model = new_model(SMALL, 0)
    times = model.time_embed[0]
    gap = (times[:, None] - times).norm(dim=-1)
    assert gap[0, 1] < gap[0, 4]
    places = model.pos_embed[0, 1:].reshape(4, 6, 32)
    assert (places[0, 0] - places[0, 1]).norm() < (places[0, 0] - places[0, 5]).norm()


def test_time_attention_has_an_effect_from_the_start():
    model = new_model(SMALL, 0).eval()
    clip = torch.rand(1, 3, 8, 32, 48)
    assert not torch.allclose(model(clip), model(clip.flip(2)), atol=1e-3)
