import torch

from tests.benchmarks.suite.dense import dense_rollout, layer_matrix, matrix_bytes, with_skip

T, P = 2, 3


def softmaxed(*shape):
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return torch.randn(*shape, generator=generator).softmax(dim=-1)


def test_layer_matrix_is_the_product_of_both_attentions_for_each_pair_of_patches():
    space, time = softmaxed(1, T, 1 + P, 1 + P), softmaxed(1, P, T, T)
    matrix = layer_matrix(space, time)
    s, w = with_skip(space)[0], with_skip(time)[0]
    for i in range(T):
        for p in range(P):
            row = matrix[0, 1 + i * P + p]
            assert torch.isclose(row[0], s[i, 1 + p, 0])
            for j in range(T):
                for q in range(P):
                    assert torch.isclose(row[1 + j * P + q], s[i, 1 + p, 1 + q] * w[q, i, j])
    torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(1, 1 + T * P))


def test_classification_token_gets_the_mean_of_its_rows():
    space, time = softmaxed(1, T, 1 + P, 1 + P), softmaxed(1, P, T, T)
    expected = with_skip(space)[0, :, 0, 0].mean()
    torch.testing.assert_close(layer_matrix(space, time)[0, 0, 0], expected)


def test_rollout_multiplies_the_layers_from_last_to_first():
    spaces = [softmaxed(1, T, 1 + P, 1 + P), softmaxed(1, T, 1 + P, 1 + P).flip(-1)]
    times = [softmaxed(1, P, T, T), softmaxed(1, P, T, T).flip(-1)]
    first, last = (layer_matrix(s, t) for s, t in zip(spaces, times, strict=True))
    expected = (last @ first)[:, 0, 1:].reshape(1, T, P)
    torch.testing.assert_close(dense_rollout(spaces, times), expected)


def test_size_of_a_matrix():
    assert matrix_bytes(8, 196) == 4 * 1569**2
