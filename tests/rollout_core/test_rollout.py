import pytest
import torch
from torch import Tensor

from rollout_core.rollout import discard_smallest, divided_rollout, grouped_rollout, push
from tests.rollout_core import dense

LAYERS, BATCH = 3, 2


def random_attention(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).mul(2).softmax(dim=-1)


def divided_attention(t: int, p: int) -> tuple[list[Tensor], list[Tensor]]:
    space = [random_attention(BATCH, t, 1 + p, 1 + p).roll(i) for i in range(LAYERS)]
    time = [random_attention(BATCH, p, t, t) for _ in range(LAYERS)]
    return [s / s.sum(-1, keepdim=True) for s in space], time


def test_push_twice_is_the_product_worked_by_hand():
    first, second = torch.tensor([[0.5, 0.5], [0, 1]]), torch.tensor([[0.0, 1], [1, 0]])
    for start in ([1.0, 0], [0.0, 1]):
        row = push(push(torch.tensor(start), second), first)
        torch.testing.assert_close(row, torch.tensor([0.375, 0.625]))


def test_push_renormalises_rows_that_do_not_sum_to_one():
    # Row 0 of A + I is [2, 2]: half goes each way.
    row = push(torch.tensor([1.0, 0]), torch.tensor([[1.0, 2], [0, 1]]))
    torch.testing.assert_close(row, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(("t", "p"), [(3, 6), (5, 4), (1, 7), (4, 1)])
def test_divided_rollout_equals_the_dense_product(t: int, p: int):
    space, time = divided_attention(t, p)
    expected = dense.divided_rollout(space, time)
    torch.testing.assert_close(divided_rollout(space, time), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_rollout_equals_the_dense_product(groups: int):
    attention = [random_attention(BATCH, groups, 7, 7) for _ in range(LAYERS)]
    expected = dense.grouped_rollout(attention)
    torch.testing.assert_close(grouped_rollout(attention), expected, atol=1e-6, rtol=0)


def test_dense_rows_sum_to_one():
    space, time = divided_attention(3, 4)
    rows = dense.divided_layer(space[0], time[0]).sum(dim=-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_one_layer_of_uniform_attention_worked_by_hand():
    t, p = 2, 3
    space, time = [torch.full((1, t, 1 + p, 1 + p), 0.25)], [torch.full((1, p, t, t), 0.5)]
    # Half stays on the token. Of the other half each of 4 tokens gets a quarter: 1/8 a location,
    # which the frames share evenly.
    expected = torch.full((1, t, p), 1 / 16)
    torch.testing.assert_close(divided_rollout(space, time), expected)


def test_two_layers_of_uniform_attention_worked_by_hand():
    t, p = 2, 3
    space, time = [torch.full((1, t, 1 + p, 1 + p), 0.25)] * 2, [torch.full((1, p, t, t), 0.5)] * 2
    # After the last layer the token holds 5/8 and each location 1/8. The token hands each location
    # 1/8 of its 5/8; a location keeps half of its own and gives every token 1/8 of it, of three:
    # 5/64 + 1/16 + 3/64 = 12/64 = 3/16 a location, over two frames.
    expected = torch.full((1, t, p), 3 / 32)
    torch.testing.assert_close(divided_rollout(space, time), expected)


def test_the_token_takes_no_part_in_time_attention():
    # Space attention of nothing but the token itself: no patch is reached, whatever time does.
    space = torch.zeros(1, 2, 4, 4)
    space[..., 0] = 1
    relevance = divided_rollout([space], [random_attention(1, 3, 2, 2)])
    assert relevance.abs().max() == 0


def test_time_moves_relevance_between_frames_and_not_between_locations():
    t, p = 2, 3
    space = torch.eye(1 + p).repeat(1, t, 1, 1)
    space[:, 0, 0] = torch.tensor([0, 0, 1.0, 0])  # in frame 0 the token sees location 1 only
    time = torch.eye(t).repeat(1, p, 1, 1)
    time[:, 1, 0] = torch.tensor([0, 1.0])  # there, frame 0 looks at frame 1 only
    relevance = divided_rollout([space], [time])
    # A quarter leaves the token, in frame 0; half of it stays there, half goes to frame 1.
    expected = torch.zeros(1, t, p)
    expected[0, :, 1] = 0.125
    torch.testing.assert_close(relevance, expected)


def test_swapped_axes_are_noticed():
    space, time = divided_attention(3, 3)
    swapped = [layer.transpose(-1, -2) for layer in time]
    difference = divided_rollout(space, time) - divided_rollout(space, swapped)
    assert difference.abs().max() > 1e-3


def test_discard_zeroes_the_smallest_share_of_the_whole_matrix():
    attention = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.1, 0.5], [0.3, 0.3, 0.4]])
    kept = discard_smallest(attention, 0.34)  # 3 of 9: 0.0, and the two 0.3
    expected = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.1, 0.5], [0.0, 0.0, 0.4]])
    torch.testing.assert_close(kept, expected)


def test_discard_never_takes_the_diagonal():
    attention = random_attention(2, 3, 5, 5)
    kept = discard_smallest(attention, 0.999)
    off_diagonal = kept - torch.diag_embed(attention.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() == 0


def test_discard_of_nothing_changes_nothing():
    attention = random_attention(2, 5, 5)
    assert discard_smallest(attention, 0.0) is attention


def test_discard_keeps_relevance_a_distribution():
    attention = [random_attention(BATCH, 1, 7, 7) for _ in range(LAYERS)]
    row = torch.zeros(BATCH, 1, 7)
    row[..., 0] = 1
    for layer in reversed(attention):
        row = push(row, discard_smallest(layer, 0.5))
    torch.testing.assert_close(row.sum(-1), torch.ones(BATCH, 1))
    assert not torch.allclose(row[..., 1:], grouped_rollout(attention))
    torch.testing.assert_close(row[..., 1:], grouped_rollout(attention, discard_ratio=0.5))
