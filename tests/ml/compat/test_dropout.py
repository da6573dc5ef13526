import pytest
import torch
import torch.nn.functional as F

from ml.compat import dropout
from ml.compat.dropout import Dropout, draw_kept


@pytest.mark.parametrize("prob", [0.05, 0.2, 0.5, 0.9])
def test_as_many_elements_go_as_were_asked_for_and_the_mean_stays(prob):
    torch.manual_seed(7)
    kept, factor = draw_kept((1000, 401), prob)

    assert kept.float().mean().item() == pytest.approx(1 - prob, abs=1 / 512 + 0.003)
    assert (kept * factor).mean().item() == pytest.approx(1.0, abs=0.01)


def test_elements_go_independently():
    torch.manual_seed(7)
    kept = draw_kept((50_000, 8), 0.2)[0].double()
    correlations = torch.corrcoef(kept.T) - torch.eye(8)

    assert correlations.abs().max() < 0.02


def test_all_may_go():
    kept, factor = draw_kept((10,), 1.0)

    assert not kept.any()
    assert factor == 0.0


def test_the_same_seed_drops_the_same_elements():
    drop, x = Dropout(0.5), torch.ones(100)
    torch.manual_seed(1)
    first = drop(x)
    torch.manual_seed(1)

    assert torch.equal(drop(x), first)
    assert not torch.equal(drop(x), first)


def test_what_is_dropped_is_zero_the_rest_grows_and_the_residual_is_added():
    drop, x, residual = Dropout(0.25), torch.randn(1000), torch.randn(1000)
    torch.manual_seed(1)
    dropped = drop(x)
    torch.manual_seed(1)
    added = drop(x, residual)

    is_kept = dropped != 0
    torch.testing.assert_close(dropped[is_kept], x[is_kept] / 0.75)
    torch.testing.assert_close(added, dropped + residual)


def test_without_training_nothing_is_dropped():
    drop, x = Dropout(0.5).eval(), torch.randn(10)

    assert torch.equal(drop(x), x)
    assert torch.equal(drop(x, x), x + x)


@pytest.mark.parametrize("with_residual", [False, True])
def test_its_gradients_are_those_of_its_function(with_residual):
    drop = Dropout(0.3)
    x, residual = (torch.randn(4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def seeded(x, residual):
        torch.manual_seed(3)
        return drop(x, residual if with_residual else None)

    assert torch.autograd.gradcheck(seeded, (x, residual))


def test_a_half_precision_input_gets_a_half_precision_gradient():
    x, residual = torch.randn(8, dtype=torch.bfloat16, requires_grad=True), torch.randn(8, requires_grad=True)
    output = Dropout(0.5)(x, residual)
    output.sum().backward()

    assert (output.dtype, x.grad.dtype, residual.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_where_bytes_are_not_drawn_torchs_own_dropout_does_it(monkeypatch):
    monkeypatch.setattr(dropout, "draws_bytes", lambda x: False)
    x, residual = torch.randn(100), torch.randn(100)
    torch.manual_seed(1)
    ours = Dropout(0.3)(x, residual)
    torch.manual_seed(1)

    torch.testing.assert_close(ours, residual + F.dropout(x, 0.3))
