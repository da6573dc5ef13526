import torch
import torch.nn.functional as F

from ml.models.attention import attend


def inputs(n_queries=3):
    torch.manual_seed(7)
    query = torch.randn(2, 2, n_queries, 6, dtype=torch.float64, requires_grad=True)
    key_value = torch.randn(2, 2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    is_visible = torch.tensor([[False, False, True, True], [False, True, True, True]])[:, None, None, :]
    return query, key_value, is_visible


def test_gradients_with_dropout_are_those_of_the_function():
    query, key_value, is_visible = inputs()

    def seeded(query, key_value):
        torch.manual_seed(3)
        return attend(query, key_value, is_visible, dropout_prob=0.4)

    assert torch.autograd.gradcheck(seeded, (query, key_value))
    other_order = key_value.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(seeded, (query, other_order))


def test_with_a_dropout_that_drops_nothing_it_is_torchs_own_attention():
    query, key_value, is_visible = inputs()
    rounds_to_nothing = 1e-4

    for mask in (is_visible, None):
        ours = attend(query, key_value, mask, rounds_to_nothing)
        torchs = F.scaled_dot_product_attention(query, *key_value, attn_mask=mask)
        torch.testing.assert_close(ours, torchs)
        gradient = torch.randn_like(ours)
        for one, other in zip(
            torch.autograd.grad(ours, (query, key_value), gradient),
            torch.autograd.grad(torchs, (query, key_value), gradient),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


def test_weights_are_dropped_and_the_mean_stays():
    query, key_value, is_visible = inputs()
    torch.manual_seed(7)
    with torch.no_grad():
        drawn = torch.stack([attend(query, key_value, is_visible, 0.3) for _ in range(4000)])
        expected = attend(query, key_value, is_visible, 0.0)

    assert not torch.allclose(drawn[0], drawn[1], atol=0.05)
    torch.testing.assert_close(drawn.mean(dim=0), expected, atol=0.05, rtol=0)


def test_what_is_not_visible_changes_nothing():
    query, key_value, is_visible = inputs()
    torch.manual_seed(3)
    before = attend(query, key_value, is_visible, 0.3)
    with torch.no_grad():
        key_value[:, :, :, 0] = 1e3
    torch.manual_seed(3)

    assert torch.equal(attend(query, key_value, is_visible, 0.3), before)
