"""Held-out reward and class agreement: means, and standard errors held against the spread of
repeated runs.
"""

import pytest
import torch

from steer.metrics import ClassAgreement, HeldoutReward
from steer.metrics.estimate import over_prompts, particle_mean


def estimate_of(values, log_w=None):
    """The estimate of all prompts at once."""
    return over_prompts(*particle_mean(values, log_w))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equal_weights_give_the_textbook_error():
    values = normal(1, 50)
    mean, error, _ = estimate_of(values)
    torch.testing.assert_close(mean, values.mean())
    torch.testing.assert_close(error, values.std() / 50**0.5)


def test_errors_over_prompts():
    values = normal(4, 30)
    estimate = estimate_of(values, torch.full((4, 30), -7.0))
    torch.testing.assert_close(
        estimate.std_error, values.std(1).square().sum().sqrt() / 30**0.5 / 4
    )
    torch.testing.assert_close(estimate.std_error_over_prompts, values.mean(1).std() / 2)
    assert estimate_of(values[:1]).std_error_over_prompts.isnan()
    assert estimate_of(values[:, :1]).std_error.isnan()
    for gap in (
        20.0,
        36.0,
        40.0,
        800.0,
    ):  # with rounding, all but nothing, or nothing, is left for the others
        assert estimate_of(
            values[:, :2], torch.tensor([0.0, -gap]).expand(len(values), 2)
        ).std_error.isnan(), gap


def test_delta_method_error_is_the_spread_of_weighted_means():
    """x ~ N(0, 1) with log_w = x / 2 has mean 1/2; 400 runs of 500 particles."""
    x = normal(400, 500)
    runs = [estimate_of(x[i : i + 1], x[i : i + 1] / 2) for i in range(400)]
    means = torch.stack([r.mean for r in runs])
    errors = torch.stack([r.std_error for r in runs])
    assert abs(means.mean() - 0.5) < 4 * means.std() / 20 + 0.005
    assert errors.square().mean().sqrt().item() == pytest.approx(means.std().item(), rel=0.15)
    joint = estimate_of(x, x / 2)
    assert joint.std_error.item() == pytest.approx(joint.std_error_over_prompts.item(), rel=0.15)


@pytest.mark.parametrize("as_list", [False, True])
def test_reward_sees_each_particle_with_the_condition_of_its_prompt(as_list):
    x = normal(5, 7, 2)
    cond = torch.arange(5)
    log_w = normal(5, 7, seed=1)

    def reward(x, cond):
        return x.sum(1) * torch.as_tensor(cond)

    metric = HeldoutReward(reward, max_batch=4)
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(x[part], cond[part].tolist() if as_list else cond[part], log_w[part])
    for got, expected in zip(
        metric.compute(), estimate_of(x.sum(-1) * cond[:, None], log_w), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_reward_of_the_sample_alone_and_forward():
    x = normal(3, 8, 1, 2, 2)
    metric = HeldoutReward(lambda x: x.flatten(1).mean(1))
    assert metric(x) == metric.compute() == estimate_of(x.flatten(2).mean(2))


def test_agreement_counts_the_asked_labels():
    """Prompt 0 asks for class 2 and gets it 3 times in 4, prompt 1 asks for class 0 and gets it
    always.
    """
    seen = torch.tensor([[2, 2, 1, 2], [0, 0, 0, 0]])
    x = torch.nn.functional.one_hot(seen, 3).double()
    metric = ClassAgreement(torch.nn.Identity(), max_batch=3)
    metric.update(x, torch.tensor([2, 0]))
    estimate = metric.compute()
    assert estimate.mean.item() == pytest.approx(7 / 8)
    assert estimate.std_error.item() == pytest.approx((0.75 * 0.25 / 3) ** 0.5 / 2)
    metric.reset()
    metric.update(
        x, torch.tensor([2, 0]), torch.tensor([[0, 0, 0, 0], [-1, 0, 0, 0]]).double().log1p()
    )
    assert metric.compute().mean.item() == pytest.approx(7 / 8)


def test_bad_input():
    with pytest.raises(ValueError, match="one row for each of 6"):
        HeldoutReward(lambda x: x.mean()).update(normal(2, 3, 1))
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        HeldoutReward(lambda x: x).update(normal(2, 3, 1))
    with pytest.raises(ValueError, match="not at sample 5"):
        HeldoutReward(lambda x: x[:, 0] / (x[:, 0] != 5), max_batch=4).update(
            torch.arange(6.0).reshape(2, 3, 1)
        )
    with pytest.raises(ValueError, match=r"logits of shape \(B, K\)"):
        ClassAgreement(lambda x: x[:, 0]).update(normal(2, 3, 1), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="got none"), pytest.warns(UserWarning, match="before"):
        HeldoutReward(lambda x: x).compute()
