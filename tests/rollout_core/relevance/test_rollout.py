import pytest
import torch
from torch import Tensor

from rollout_core.relevance.rollout import (
    Flow,
    add_skip,
    cls_row,
    discard_smallest,
    frame_rows,
    patch_rows,
    patches_of,
    push,
    roll_out,
    tokens_of,
)

LAYERS, BATCH = 3, 2


def random_shares(*shape: int) -> Tensor:
    """Return random maps whose rows sum to 1."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).mul(2).softmax(dim=-1)


def divided_flow(t: int, p: int) -> Flow:
    groups = random_shares(LAYERS, BATCH, t, 1 + p, 1 + p)
    return Flow(list(groups), list(random_shares(LAYERS, BATCH, p, t, t)))


def rolled(rows: Tensor, flow: Flow) -> Tensor:
    """Return the rows at the input of the first layer."""
    *_, last = roll_out(rows, flow)
    return last


def cls_relevance(flow: Flow) -> Tensor:
    return patches_of(rolled(cls_row(flow.groups[0]), flow))[:, 0]


def dense_groups(groups: Tensor) -> Tensor:
    """Return `b t n n` as one matrix over the classification token and all patches, `(t p)`."""
    b, t, n, _ = groups.shape
    dense = torch.zeros(b, 1 + t * (n - 1), 1 + t * (n - 1))
    for i in range(t):
        tokens = [0, *(1 + i * (n - 1) + q for q in range(n - 1))]
        for row, a in enumerate(tokens):
            for column, c in enumerate(tokens):
                dense[:, a, c] += groups[:, i, row, column] / (t if a == 0 else 1)
    return dense


def dense_time(time: Tensor) -> Tensor:
    """Return `b p t t` as one matrix over the classification token, unchanged, and all patches."""
    b, p, t, _ = time.shape
    dense = torch.zeros(b, 1 + t * p, 1 + t * p)
    dense[:, 0, 0] = 1
    for q in range(p):
        for i in range(t):
            for j in range(t):
                dense[:, 1 + i * p + q, 1 + j * p + q] = time[:, q, i, j]
    return dense


def dense_rollout(flow: Flow) -> Tensor:
    product = torch.eye(1 + flow.time[0].shape[1] * flow.time[0].shape[2])
    for groups, time in zip(flow.groups, flow.time, strict=True):
        product = dense_groups(groups) @ dense_time(time) @ product
    return product


def test_pushing_twice_is_the_product_worked_by_hand():
    first, second = torch.tensor([[0.5, 0.5], [0, 1]]), torch.tensor([[0.0, 1], [1, 0]])
    flow = Flow([add_skip(first)[None, None], add_skip(second)[None, None]])
    rows = torch.eye(2)[None, :, None]  # b r g n
    expected = torch.tensor([[0.375, 0.625], [0.375, 0.625]])
    halves = [0.5 * (first + torch.eye(2)), 0.5 * (second + torch.eye(2))]
    torch.testing.assert_close(halves[1] @ halves[0], expected)
    torch.testing.assert_close(rolled(rows, flow)[0, :, 0], expected)


def test_rows_that_do_not_sum_to_one_are_renormalised():
    # Row 0 of A + I is [2, 2]: half goes each way.
    shares = add_skip(torch.tensor([[1.0, 2], [0, 1]]))
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [0, 1]]))


@pytest.mark.parametrize(("t", "p"), [(3, 6), (5, 4), (1, 7), (4, 1)])
def test_every_row_equals_the_dense_product(t: int, p: int):
    flow = divided_flow(t, p)
    every = patch_rows(torch.eye(t * p).expand(BATCH, -1, -1), g=t)
    rows = torch.cat([cls_row(flow.groups[0]), every], dim=1)
    actual = tokens_of(rolled(rows, flow))
    torch.testing.assert_close(actual, dense_rollout(flow), atol=1e-6, rtol=0)


@pytest.mark.parametrize("groups", [1, 3])
def test_separate_groups_equal_their_own_products(groups: int):
    flow = Flow(list(random_shares(LAYERS, BATCH, groups, 7, 7)))
    product = torch.eye(7)
    for layer in flow.groups:
        product = layer @ product
    row = rolled(cls_row(flow.groups[0]), flow)[:, 0]
    torch.testing.assert_close(row, product[:, :, 0] / groups, atol=1e-6, rtol=0)


def test_rows_keep_their_sum():
    flow = divided_flow(3, 4)
    rows = torch.cat([cls_row(flow.groups[0]), frame_rows(flow.groups[0], t=3)], dim=1)
    for pushed in roll_out(rows, flow):
        torch.testing.assert_close(pushed.sum(dim=(2, 3)), torch.ones(BATCH, 4))


def test_layers_are_yielded_last_first():
    flow = divided_flow(3, 4)
    rows = cls_row(flow.groups[0])
    pushed = list(roll_out(rows, flow))
    assert len(pushed) == LAYERS
    torch.testing.assert_close(pushed[0], rolled(rows, flow.layer(2)))
    torch.testing.assert_close(pushed[1], rolled(pushed[0], flow.layer(1)))


def test_one_layer_of_uniform_attention_worked_by_hand():
    t, p = 2, 3
    groups, time = torch.full((1, t, 1 + p, 1 + p), 0.25), torch.full((1, p, t, t), 0.5)
    flow = Flow([add_skip(groups)], [add_skip(time)])
    # Half stays on the token. The other half is divided among 4 tokens: 1/8 per location, divided
    # evenly among the frames.
    torch.testing.assert_close(cls_relevance(flow), torch.full((1, t * p), 1 / 16))


def test_two_layers_of_uniform_attention_worked_by_hand():
    t, p = 2, 3
    groups, time = torch.full((1, t, 1 + p, 1 + p), 0.25), torch.full((1, p, t, t), 0.5)
    flow = Flow([add_skip(groups)] * 2, [add_skip(time)] * 2)
    # After the last layer the token has 5/8 and each location 1/8. The token passes 1/8 of its 5/8
    # to each location. A location keeps half of its 1/8 and gets 1/8 of each of the three 1/8:
    # 5/64 + 1/16 + 3/64 = 12/64 = 3/16 per location, over two frames.
    torch.testing.assert_close(cls_relevance(flow), torch.full((1, t * p), 3 / 32))


def test_classification_token_takes_no_part_in_time_attention():
    # All space attention goes to the token itself, so no patch gets relevance.
    groups = torch.zeros(1, 2, 4, 4)
    groups[..., 0] = 1
    relevance = cls_relevance(Flow([groups], [random_shares(1, 3, 2, 2)]))
    assert relevance.abs().max() == 0


def test_time_moves_relevance_between_frames_and_not_between_locations():
    t, p = 2, 3
    groups = torch.eye(1 + p).repeat(1, t, 1, 1)
    groups[:, 0, 0] = torch.tensor(
        [0, 0, 1.0, 0]
    )  # in frame 0 the token attends to location 1 only
    time = torch.eye(t).repeat(1, p, 1, 1)
    time[:, 1, 0] = torch.tensor([0, 1.0])  # at location 1, frame 0 attends to frame 1 only
    relevance = cls_relevance(Flow([groups], [time]))
    expected = torch.zeros(1, t, p)
    expected[0, 1, 1] = 0.5
    torch.testing.assert_close(relevance, expected.flatten(1))


def test_swapped_time_axes_change_the_result():
    flow = divided_flow(3, 3)
    swapped = Flow(flow.groups, [layer.transpose(-1, -2) for layer in flow.time])
    assert (cls_relevance(flow) - cls_relevance(swapped)).abs().max() > 1e-3


def test_frame_rows_are_spread_over_the_patches_of_one_frame():
    divided = frame_rows(torch.zeros(1, 2, 4, 4), t=2)
    torch.testing.assert_close(divided[0, 1, 1], torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))
    assert divided[0, 1, 0].abs().max() == 0
    joint = frame_rows(torch.zeros(1, 1, 7, 7), t=2)
    torch.testing.assert_close(joint[0, 0, 0], torch.tensor([0] + [1 / 3] * 3 + [0] * 3))


def test_push_treats_rows_independently():
    shares = random_shares(BATCH, 3, 4, 4)
    rows = torch.rand(BATCH, 5, 3, 4)
    every = push(rows, shares)
    for row in range(5):
        alone = push(rows[:, row : row + 1], shares)
        torch.testing.assert_close(every[:, row : row + 1], alone)


def test_discard_zeroes_the_smallest_share_of_the_whole_matrix():
    attention = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.1, 0.5], [0.3, 0.3, 0.4]])
    kept = discard_smallest(attention, 0.34)  # 3 of 9: 0.0, and the two 0.3
    expected = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.1, 0.5], [0.0, 0.0, 0.4]])
    torch.testing.assert_close(kept, expected)


def test_discard_keeps_the_diagonal():
    attention = random_shares(2, 3, 5, 5)
    kept = discard_smallest(attention, 0.999)
    off_diagonal = kept - torch.diag_embed(attention.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() == 0


def test_zero_ratio_discards_nothing():
    attention = random_shares(2, 5, 5)
    assert discard_smallest(attention, 0.0) is attention


def test_relevance_sums_to_one_after_discarding():
    attention = random_shares(LAYERS, BATCH, 1, 7, 7)
    kept = Flow([add_skip(discard_smallest(layer, 0.5)) for layer in attention])
    row = rolled(cls_row(attention[0]), kept)
    torch.testing.assert_close(row.sum(dim=(1, 2, 3)), torch.ones(BATCH))
    whole = rolled(cls_row(attention[0]), Flow([add_skip(layer) for layer in attention]))
    assert (row - whole).abs().max() > 1e-3


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs a batched product")
def test_sequences_are_multiplied_together_whatever_the_layout():
    t, p = 8, 64
    rows = torch.rand(1, 9, t, p).transpose(2, 3)  # as time attention gets them: b r p t
    shares = random_shares(1, p, t, t)
    push(rows, shares)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        push(rows, shares)
    operations = sum(event.count for event in profile.key_averages())
    assert operations < p  # one by one, each sequence takes several
