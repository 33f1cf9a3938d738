"""The oracle against independent mathematics: numerical integration, finite differences and an
adaptive ODE solver.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.integrate import quad, solve_ivp

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer.analytic import GaussianMixture, ring
from steer.interpolant import Linear, Trigonometric, VariancePreserving

SCHEDULES = [Linear(), Trigonometric(), VariancePreserving()]


def points(n, d=2, seed=0, spread=2.0):
    return spread * torch.randn(
        n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def correlated(schedule=None):
    """Three components in three dimensions with full covariances and unequal weights."""
    g = torch.Generator().manual_seed(1)
    roots = torch.randn(3, 3, 3, generator=g, dtype=torch.float64) / 2
    covariances = roots @ roots.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    means = 2 * torch.randn(3, 3, generator=g, dtype=torch.float64)
    return GaussianMixture.from_covariances(
        means, covariances, weights=[0.5, 0.3, 0.2], schedule=schedule
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_density_is_the_mixture_of_transported_gaussians(schedule, t):
    mixture = correlated(schedule)
    x = points(16, 3)
    alpha, sigma, _, _ = schedule(t)
    covariances = mixture.axes @ torch.diag_embed(mixture.std**2) @ mixture.axes.mT
    law = torch.distributions.MultivariateNormal(
        alpha * mixture.means, alpha**2 * covariances + sigma**2 * torch.eye(3, dtype=torch.float64)
    )
    expected = torch.logsumexp(law.log_prob(x[:, None]) + mixture.weights.log(), dim=1)
    assert torch.allclose(mixture.log_prob(x, t), expected, rtol=1e-10)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_score_is_the_gradient_of_the_log_density(t):
    mixture = correlated()
    x = points(16, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), x)
    assert torch.allclose(mixture.score(x.detach(), t), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_velocity_carries_the_density(schedule):
    """The continuity equation d_t p + div(p b) = 0, by automatic differentiation at random points."""
    mixture = correlated(schedule)
    t = torch.tensor(0.6, dtype=torch.float64)
    for x in points(4, 3):
        d_t = torch.func.grad(lambda t, x: mixture.log_prob(x[None], t).exp()[0])(t, x)
        flux = torch.func.jacrev(
            lambda x: mixture.log_prob(x[None], t).exp()[0] * mixture.velocity(x[None], t)[0]
        )(x)
        assert torch.allclose(d_t, -flux.trace(), rtol=1e-8, atol=1e-14)


def test_denoiser_and_noise_rebuild_the_point():
    mixture = correlated(Trigonometric())
    x = points(16, 3)
    clean, noise = mixture.endpoints(x, 0.4)
    alpha, sigma, _, _ = mixture.schedule(0.4)
    assert torch.allclose(alpha * clean + sigma * noise, x, rtol=1e-12)


def test_round_mixtures_take_the_fast_way_to_the_same_velocity():
    mixture = ring()
    x = points(32, spread=4.0)
    for t in (0.0, 0.5, 1.0):
        slow = mixture.schedule.velocity(mixture.endpoints(x, t), x, t)
        assert torch.allclose(mixture.velocity(x, t), slow, rtol=1e-10, atol=1e-12)


def test_a_condition_names_a_component():
    mixture = correlated()
    x = points(6, 3)
    labels = torch.tensor([0, 1, 2, -1, 0, -1])
    for i, k in enumerate(labels.tolist()):
        one = slice(k, k + 1)
        alone = (
            mixture
            if k < 0
            else GaussianMixture(mixture.means[one], mixture.std[one], axes=mixture.axes[one])
        )
        assert torch.allclose(
            mixture.velocity(x, 0.5, labels)[i], alone.velocity(x[i : i + 1], 0.5)[0]
        )
        assert torch.allclose(
            mixture.log_prob(x, 0.5, labels)[i], alone.log_prob(x[i : i + 1], 0.5)[0]
        )


@pytest.mark.parametrize("std", [1.0, 0.3, 0.1])
def test_flow_map_errs_no_more_than_stated(std):
    mixture = ring(std=std)
    x = points(32, spread=1.0)

    def field(t, y):
        return mixture.velocity(torch.as_tensor(y).view(-1, 2), t).flatten().numpy()

    exact = solve_ivp(
        field, (0, 1), x.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-11
    ).y[:, -1]
    error = (mixture(x, 0.0, 1.0) - torch.as_tensor(exact).view(-1, 2)).norm(dim=1)
    assert error.median() < 5e-6
    assert error.max() < 2e-4


def test_flow_map_composes_returns_and_stays():
    mixture = ring()
    x = points(16, spread=1.0)
    assert torch.equal(mixture(x, 0.4, 0.4), x)
    assert torch.allclose(mixture(mixture(x, 0.0, 0.5), 0.5, 1.0), mixture(x, 0.0, 1.0), atol=1e-4)
    assert torch.allclose(mixture(mixture(x, 0.0, 0.7), 0.7, 0.0), x, atol=1e-4)


def test_single_gaussian_flow_map_is_affine():
    """For one Gaussian, X_{0,1}(x) = m + std x exactly, whatever the schedule."""
    for schedule in (Linear(), Trigonometric()):
        one = GaussianMixture([[1.0, -2.0]], 0.5, schedule=schedule)
        x = points(8)
        assert torch.allclose(one(x, 0.0, 1.0), one.means + 0.5 * x, atol=1e-5)


def test_posterior_draws_have_the_posterior_mean_and_covariance():
    mixture = correlated()
    x = points(3, 3)
    t = 0.4
    n = 40_000
    draws = mixture.posterior_sample(x, t, n, torch.Generator().manual_seed(2))
    mean = draws.mean(1)
    std = draws.std(1)
    assert ((mean - mixture.denoise(x, t)).abs() < 4 * std / n**0.5).all()
    # Second-order Tweedie: Cov(x1 | x_t) = (sigma^2 / alpha) d D / d x.
    alpha, sigma, _, _ = mixture.schedule(t)
    for i in range(3):
        jacobian = torch.func.jacrev(lambda x: mixture.denoise(x[None], t)[0])(x[i])
        centred = draws[i] - mean[i]
        products = centred[:, :, None] * centred[:, None, :]
        assert (
            (products.mean(0) - sigma**2 / alpha * jacobian).abs() < 4 * products.std(0) / n**0.5
        ).all()


def test_weighted_guesses_agree_with_plain_draws():
    mixture = correlated()
    x = points(2, 3)
    t = 0.5
    guesses = mixture.posterior_guesses(x, t, 30_000, torch.Generator().manual_seed(3))
    assert torch.allclose(guesses.log_w.exp().sum(0), torch.ones(2, dtype=torch.float64))
    mean = (guesses.log_w.exp()[..., None] * guesses.x1).sum(0)
    assert torch.allclose(mean, mixture.denoise(x, t), atol=4 * float(guesses.x1.std()) / 100)


def test_tilted_law_and_log_z_against_quadrature():
    mixture = GaussianMixture([[-1.0], [1.5]], torch.tensor([0.3, 0.6]), [0.3, 0.7])
    for reward in (Quadratic([0.5], 2.0), Quadratic([0.5], 0.0), LinearReward([1.3])):
        law, log_z = mixture.tilted(reward)

        def density(x, reward=reward):
            point = torch.tensor([[x]], dtype=torch.float64)
            return float((mixture.log_prob(point) + reward(point)).exp())

        z = quad(density, -12, 12, points=[-1, 0.5, 1.5], epsabs=1e-12)[0]
        assert math.isclose(float(log_z), math.log(z), rel_tol=1e-8, abs_tol=1e-9)
        x = torch.tensor([[-0.7], [0.2], [2.0]], dtype=torch.float64)
        assert torch.allclose(law.log_prob(x), mixture.log_prob(x) + reward(x) - log_z, rtol=1e-10)


def test_tilt_of_correlated_components_in_any_dimension():
    mixture = correlated()
    reward = Quadratic([1.0, 0.0, -1.0], 0.7)
    x = points(8, 3)
    law, log_z = mixture.tilted(reward)
    assert torch.allclose(law.log_prob(x), mixture.log_prob(x) + reward(x) - log_z, rtol=1e-9)


@pytest.mark.parametrize(
    "reward", [Quadratic([1.0, 0.0, -1.0], 0.7), LinearReward([0.5, 0.2, -0.4])]
)
def test_value_is_the_log_mean_of_the_tilt_over_the_posterior(reward):
    mixture = correlated()
    x = points(2, 3)
    t = 0.6
    n = 50_000
    tilts = (
        reward(mixture.posterior_sample(x, t, n, torch.Generator().manual_seed(4)).flatten(0, 1))
        .view(2, n)
        .exp()
    )
    std_error = tilts.std(1) / n**0.5
    assert ((mixture.value(reward, x, t).exp() - tilts.mean(1)).abs() < 4 * std_error).all()
    assert torch.allclose(mixture.value(reward, x, 1.0), reward(x))
    assert torch.allclose(mixture.value(reward, x, 0.0), mixture.tilted(reward)[1].expand(2))


def test_bad_mixtures_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        GaussianMixture([[0.0]], 0.0)
    with pytest.raises(ValueError, match="shape \\(K, d\\)"):
        GaussianMixture(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="no mean"):
        ring(std=1.0).tilted(SimpleNamespace(center=[0.0, 0.0], precision=-2.0))
    with pytest.raises(ValueError, match="closed form"):
        ring().tilted(lambda x: x)
    with pytest.raises(ValueError, match=r"0..7, or -1 for none; got \[-1, 8\]"):
        ring().velocity(points(2), 0.5, torch.tensor([8, -1]))


def test_a_jump_does_not_depend_on_its_batch_mates():
    mixture = ring(std=0.3)
    x = points(6, spread=1.0)
    s = torch.tensor([0.0, 0.1, 0.97, 0.5, 1.0, 0.33], dtype=torch.float64)
    t = torch.tensor([1.0, 0.2, 1.0, 0.5, 0.4, 0.34], dtype=torch.float64)
    together = mixture(x, s, t)
    for i in range(6):
        assert torch.allclose(together[i], mixture(x[i : i + 1], s[i], t[i])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.4, 1.0])
def test_a_jump_is_differentiable_in_its_start_also_on_the_nodes_of_the_solver(t):
    """d_t X_{t,1} = -(b . grad) X_{t,1}."""
    mixture = ring()
    x = points(4).requires_grad_()
    times = torch.full((4,), t, dtype=torch.float64, requires_grad=True)
    for axis in range(2):
        d_t, grad = torch.autograd.grad(mixture(x, times, 1.0)[:, axis].sum(), (times, x))
        along_flow = (grad * mixture.velocity(x, t)).sum(1)
        assert torch.allclose(d_t, -along_flow, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 2), (4,)])
@pytest.mark.parametrize("std", [0.5, [0.5, 1.0]], ids=["round", "of two sizes"])
def test_samples_of_another_shape_are_refused(shape, std):
    law = GaussianMixture([[0.0, 1.0], [2.0, 0.0]], torch.as_tensor(std))
    x = torch.zeros(shape, dtype=torch.float64)
    for ask in (law.velocity, law.log_prob, law.score, law.denoise, law.lookahead):
        with pytest.raises(ValueError, match=r"this mixture takes samples \(B, 2\); got \(4"):
            ask(x, 0.5)
