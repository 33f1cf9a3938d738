"""Standardised advantages and the clipped ratio."""

import pytest
import torch
from toys import seeded

from steer.tilt import NonFiniteReward
from steer.tuning.policy import standardised, surrogate

REWARDS = torch.tensor([1.0, 3.0, 10.0, 5.0, 20.0], dtype=torch.float64)
LABELS = torch.tensor([4, 4, 1, 7, 1])


@pytest.mark.parametrize("cond", [LABELS, ["a", "a", "b", "c", "b"]], ids=["labels", "texts"])
def test_advantages_are_of_each_prompt(cond):
    """Gaps from the means 2, 15 and 5, by deviations 1, 5 and 0, or that of the batch."""
    expected = torch.tensor([-1.0, 1, -1, 0, 1], dtype=torch.float64)
    found = standardised(REWARDS, cond, 5)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=0)
    gaps = torch.tensor([-1.0, 1, -5, 0, 5], dtype=torch.float64)
    found = standardised(REWARDS, cond, 5, of_batch=True)
    torch.testing.assert_close(found, gaps / (REWARDS.var(correction=0).sqrt() + 1e-4))
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = [cond[k] for k in order] if isinstance(cond, list) else cond[order]
    torch.testing.assert_close(
        standardised(REWARDS[order], mixed, 5), expected[order], rtol=2e-4, atol=0
    )


@pytest.mark.parametrize("of_batch", [False, True])
def test_units_do_not_matter_and_outliers_are_clipped(of_batch):
    rewards = torch.randn(64, generator=seeded(), dtype=torch.float64)
    found = standardised(rewards, None, 5, of_batch)
    assert found.mean().abs() < 1e-12
    assert found.square().mean() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(
        standardised(3 * rewards - 70, None, 5, of_batch), found, rtol=2e-4, atol=0
    )
    assert standardised(rewards, None, 0.5, of_batch).abs().max() == 0.5
    assert standardised(0 * rewards + 0.1, None, 5, of_batch).abs().max() < 1e-9


def test_a_hard_constraint_has_no_advantage():
    with pytest.raises(NonFiniteReward, match="sample 1; an advantage needs finite rewards"):
        standardised(torch.tensor([1.0, -torch.inf]), None, 5)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "slope"),
    [(0, 2, -2), (0, -2, 2), (0.1, 2, -2), (0.3, 2, 0), (-0.3, 2, -2), (0.3, -2, 2), (-0.3, -2, 0)],
)
def test_the_surrogate_gains_nothing_beyond_the_clip(log_ratio, advantage, slope):
    """Its slope is -A rho, or 0 where the ratio has left 1 +- .2 the way that A wants."""
    rho = torch.tensor([float(log_ratio)], dtype=torch.float64, requires_grad=True)
    loss = surrogate(rho, torch.tensor([float(advantage)]), 0.2)
    found = torch.autograd.grad(loss.sum(), rho)[0]
    assert found.item() == pytest.approx(slope * rho.exp().item())
    if log_ratio == 0:
        assert loss.item() == -advantage
