import pytest
import torch
from torch import Tensor, nn

from rollout_core.model.timesformer import Attention
from rollout_core.relevance import secants
from tests.rollout_core.models import SMALL

B, S, N, C = 2, 3, 5, 16


def operations() -> dict[str, object]:
    """Return each operation with random parameters; it takes a pair `b s n c`."""
    torch.manual_seed(0)
    linear, norm, attention = nn.Linear(C, 7), nn.LayerNorm(C), Attention(SMALL)
    for module in (linear, norm, attention):
        for parameter in module.parameters():
            nn.init.normal_(parameter.requires_grad_(False))
    return {
        "linear": lambda pair: secants.linear(linear, pair),
        "layer_norm": lambda pair: secants.layer_norm(norm, pair),
        "gelu": secants.gelu,
        "attention": lambda pair: secants.attention(attention, pair),
    }


NAMES = [*operations()]


@pytest.fixture(params=NAMES)
def operation(request):
    return operations()[request.param]


def pair_of(distance: float, *, seed: int = 1) -> Tensor:
    """Return clips and references, `2b s n c`, that lie this far apart."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(B, S, N, C, generator=generator)
    change = torch.randn(B, S, N, C, generator=generator)
    return torch.cat([reference + distance * change, reference])


@pytest.mark.parametrize("distance", [1e-2, 0.3, 3.0, 30.0])
def test_multipliers_times_the_change_of_the_input_is_the_change_of_the_output(operation, distance):
    pair = pair_of(distance)
    outputs, pull = operation(pair)
    multipliers = torch.randn(*outputs.chunk(2)[0].shape)
    ours = (pull(multipliers) * secants.difference(pair)).sum((1, 2, 3))
    expected = (multipliers * secants.difference(outputs)).sum((1, 2, 3))
    scale = (multipliers * secants.difference(outputs)).abs().sum((1, 2, 3))
    assert ((ours - expected).abs() / scale).max() < 1e-5


def test_without_a_change_the_multipliers_are_the_gradient(operation):
    pair = pair_of(0.0)
    outputs, pull = operation(pair)
    multipliers = torch.randn(*outputs.chunk(2)[0].shape)
    inputs = pair.clone().requires_grad_()
    twice = torch.cat([multipliers, torch.zeros_like(multipliers)])
    (gradient,) = torch.autograd.grad(operation(inputs)[0], inputs, twice)
    expected = gradient.chunk(2)[0]
    assert (pull(multipliers) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_logarithmic_mean_worked_by_hand():
    values = torch.tensor([[1.0, 0.5, 0.25], [torch.e, 0.5, 0.25 * (1 + 1e-6)]])
    found = secants.logarithmic_mean(values, values.log())
    torch.testing.assert_close(found, torch.tensor([[torch.e - 1, 0.5, 0.25]]))


@pytest.mark.parametrize("distance", [0.01, 0.99, 1.01, 5.0, 90.0])
def test_logarithmic_mean_is_exact_at_every_distance(distance):
    logs = torch.tensor([[-0.1], [-0.1 - distance]])
    precise = logs.double().exp()
    expected = (precise[0] - precise[1]) / distance
    found = secants.logarithmic_mean(logs.exp(), logs)
    torch.testing.assert_close(found[0], expected.float(), rtol=2e-6, atol=0)
