"""Training-free guidance: one step in closed form, the papers' formulas, distributions, costs."""

import math
from types import SimpleNamespace

import pytest
import torch
from ball import Ball
from one_gaussian import MEAN, STD, OneGaussian
from zoo import noise, seeded

from rewards import JpegSize, Quadratic
from rewards import Linear as LinearReward
from steer.analytic import GaussianMixture
from steer.analytic.benchmarks import ring_of_eight
from steer.build import build
from steer.interpolant import Linear, Trigonometric, VariancePreserving
from steer.lookahead import MapJump, Posterior
from steer.samplers import Jump, Run, TrainingFreeGuidance
from steer.samplers.training_free import dps, freedom, lgd_mc, mpgd, tfg, ugd
from steer.samplers.training_free.guidance_schedules import (
    AtMost,
    Carried,
    Denoised,
    Increasing,
    Noisiness,
    OnScore,
    OverAlpha,
    RootMeanSquare,
    UnitAtGuess,
    ddim_steps,
    on_steps,
)
from steer.tilt import Tilt

A = torch.tensor([0.6, -1.1], dtype=torch.float64)
SCALES = torch.tensor([0.5, -2.0], dtype=torch.float64)  # one per prompt
BETWEEN = 0.4, 0.7
paths = pytest.mark.parametrize(
    "schedule", [Linear(), Trigonometric(), VariancePreserving()], ids=repr
)


def one_step(sampler, flow_map, x, tilt):
    """The sampler's step between two times inside the path."""
    sampler.times = lambda: list(BETWEEN)
    return sampler(flow_map, x, tilt, None, seeded()).x


# --- one step on Gaussian data with a linear reward, where the denoiser is affine: D = m + J (x -
def ddim(c, clean, noise):
    return c.alpha_t * clean + c.sigma_t * noise


def from_noise(c, noise):
    return ddim(c, (c.x - c.sigma_s * noise) / c.alpha_s, noise)


def along(c):
    """What the mean of DDPM's step has of the clean guess; without fresh noise, of DDIM's."""
    return c.alpha_t - c.sigma_t * c.alpha_s / c.sigma_s


def shortened(gradient, most):
    root = gradient.square().mean(-1, keepdim=True).sqrt()
    return torch.where(root > most, most / root, 1.0) * gradient


EXPECTED = {
    "dps": (dps(rho=0.3, eta=0.0, norm=None), lambda c: ddim(c, c.D, c.n) + 0.3 * c.g),
    "freedom": (
        freedom(rho=0.3, n_recur=1, eta=0.0, norm=None),
        lambda c: ddim(c, c.D, c.n) + 0.3 * c.g,
    ),
    # x_t moves by mu, whatever alpha_t.
    "mpgd": (mpgd(mu=0.3, n_iter=2, norm=None), lambda c: ddim(c, c.D, c.n) + 0.6 * c.a),
    # The norms of the authors' code.
    "dps, residual": (dps(rho=0.3, eta=0.0), lambda c: ddim(c, c.D, c.n) + 0.3 * c.slope * c.unit),
    "freedom, denoised": (
        freedom(rho=0.3, n_recur=1, eta=0.0),
        lambda c: (
            ddim(c, c.D, c.n)
            + 0.3 * along(c) * c.sigma_s / c.alpha_s * c.n.norm(dim=-1, keepdim=True) * c.unit
        ),
    ),
    "mpgd, root mean square": (
        mpgd(mu=0.3),
        lambda c: ddim(c, c.D, c.n) + 0.3 * math.sqrt(2) * c.unit,
    ),
    "clipped": (
        TrainingFreeGuidance(2, 0.3, 0.2, norm=AtMost(0.6), eta=0.0),
        # a is longer in the second prompt, g in neither
        lambda c: ddim(c, c.D + 0.2 * shortened(c.a, 0.6), c.n) + 0.3 * shortened(c.g, 0.6),
    ),
    # The score gets the gradient: Tweedie's clean guess and the noise that belongs to it.
    "lgd_mc": (
        lgd_mc(n_mc=3, eta=0.0, norm=None),
        lambda c: ddim(c, c.D + c.sigma_s**2 / c.alpha_s * c.g, c.n - c.sigma_s * c.g),
    ),
    # The noise is changed twice, and the clean guess is what then belongs to it.
    "ugd": (
        ugd(factor=0.7, mu=0.3, n_iter=2, n_recur=1, norm=None),
        lambda c: from_noise(c, c.n - 0.7 * c.sigma_s * c.g - c.alpha_s / c.sigma_s * 0.6 * c.a),
    ),
    "tfg": (
        tfg(rho=lambda t: 0.3 * t, mu=lambda t: 0.2, n_iter=3, n_mc=2, eta=0.0, norm=None),
        lambda c: ddim(c, c.D + 0.6 * c.a, c.n) + 0.3 * 0.4 * c.alpha_t / c.alpha_s * c.g,
    ),
    "dps, map": (
        dps(rho=0.3, eta=0.0, lookahead=MapJump(), norm=None),
        lambda c: ddim(c, c.D, c.n) + 0.3 * c.jump,
    ),
    "norm": (
        TrainingFreeGuidance(2, 0.3, 0.2, norm=1.5, eta=0.0),
        lambda c: ddim(c, c.D + 0.2 * 1.5 * c.unit, c.n) + 0.3 * 1.5 * c.unit,
    ),
}


@paths
@pytest.mark.parametrize("name", EXPECTED)
def test_one_step_in_closed_form(name, schedule):
    """Each prompt with its own scale; lgd_mc and tfg blur a linear reward, whose gradient does not
    notice.
    """
    sampler, expected = EXPECTED[name]
    x = noise(2, 5, 2)
    (alpha_s, sigma_s, *_), (alpha_t, sigma_t, *_) = (map(float, schedule(t)) for t in BETWEEN)
    variance = alpha_s**2 * STD**2 + sigma_s**2
    slope = alpha_s * STD**2 / variance
    a = SCALES[:, None, None] * A
    clean = MEAN + slope * (x - alpha_s * MEAN)
    known = SimpleNamespace(
        x=x,
        alpha_s=alpha_s,
        sigma_s=sigma_s,
        alpha_t=alpha_t,
        sigma_t=sigma_t,
        D=clean,
        n=(x - alpha_s * clean) / sigma_s,
        a=a,
        g=slope * a,
        slope=slope,
        jump=STD / math.sqrt(variance) * a,
        unit=SCALES.sign()[:, None, None] * A / A.norm(),
    )
    found = one_step(sampler, OneGaussian(schedule), x, Tilt(LinearReward(A), SCALES))
    torch.testing.assert_close(found, expected(known), rtol=1e-10, atol=1e-10)


# --- each paper's formula, in its own notation (alpha-bar, eps, time downwards), on a mixture wit
WORLD = GaussianMixture(
    [[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], 0.4, [0.5, 0.3, 0.2], VariancePreserving()
)
STEPS = 4


def curved(x):
    return torch.sin(2 * x[:, 0]) - 0.3 * x[:, 1].square() + 0.2 * x[:, 0] * x[:, 1]


class Paper:
    """A diffusion model as papers write it: x = sqrt(abar) x0 + sqrt(1 - abar) eps; and the chance
    a sampler would draw.
    """

    def __init__(self, x, tilt):
        self.tilt, self.t = tilt, [k / STEPS for k in range(STEPS + 1)]
        self.abar = [float(WORLD.schedule(t).alpha) ** 2 for t in self.t]
        self.run = Run(WORLD, x, tilt, None, seeded())
        self.scale = tilt.scale_for(x.shape[0] * x.shape[1])

    def eps(self, x, k):
        return -math.sqrt(1 - self.abar[k]) * WORLD.score(x, self.t[k])

    def x0(self, x, eps, k):
        return (x - math.sqrt(1 - self.abar[k]) * eps) / math.sqrt(self.abar[k])

    def ddim(self, x0, eps, k, eta):
        """Song et al. 2021, equation 12, with sigma of equation 16."""
        now, after = self.abar[k], self.abar[k + 1]
        sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        x = math.sqrt(after) * x0 + math.sqrt(max(1 - after - sigma**2, 0)) * eps
        return x + sigma * self.run.normal(x) if sigma else x

    def back(self, x, k):
        ratio = self.abar[k] / self.abar[k + 1]
        return math.sqrt(ratio) * x + math.sqrt(1 - ratio) * self.run.normal(x)

    def log_f(self, x0):
        return self.scale * curved(x0)

    def grad(self, function, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(function(x).sum(), x)[0]


def paper_dps(p, x, k):
    g = p.grad(lambda x: p.log_f(p.x0(x, p.eps(x, k), k)), x)
    eps = p.eps(x, k)
    return p.ddim(p.x0(x, eps, k), eps, k, 1.0) + 0.2 * g


def paper_freedom(p, x, k):
    for again in (True, False):
        x_prev = paper_dps(p, x, k)
        if again:
            x = p.back(x_prev, k)
    return x_prev


def paper_mpgd(p, x, k):
    eps = p.eps(x, k)
    x0 = p.x0(x, eps, k)
    return p.ddim(x0 + 0.2 * p.grad(p.log_f, x0), eps, k, 0.0)


def paper_lgd(p, x, k):
    std = math.sqrt(1 - p.abar[k])  # sigma / sqrt(1 + sigma^2) with sigma^2 = (1 - abar) / abar
    draws = [std * p.run.normal(x) for _ in range(3)]
    g = p.grad(
        lambda x: (
            torch.stack([p.log_f(p.x0(x, p.eps(x, k), k) + e) for e in draws]).exp().mean(0).log()
        ),
        x,
    )
    eps = -std * (WORLD.score(x, p.t[k]) + g)
    return p.ddim(p.x0(x, eps, k), eps, k, 1.0)


def paper_ugd(p, x, k):
    for again in (True, False):
        eps, root = p.eps(x, k), math.sqrt(1 - p.abar[k])
        x0 = delta = p.x0(x, eps, k)
        forward = eps - 0.5 * root * p.grad(lambda x: p.log_f(p.x0(x, p.eps(x, k), k)), x)
        for _ in range(3):
            delta = delta + 0.1 * p.grad(p.log_f, delta)
        eps = forward - math.sqrt(p.abar[k] / (1 - p.abar[k])) * (delta - x0)
        x_prev = p.ddim(p.x0(x, eps, k), eps, k, 0.0)
        if again:
            x = p.back(x_prev, k)
    return x_prev


def paper_tfg(p, x, k):
    alphas = [now / after for now, after in zip(p.abar, p.abar[1:], strict=False)]
    rho, mu = (mean * alphas[k] * STEPS / sum(alphas) for mean in (0.2, 0.1))
    for again in (True, False):
        draws = [0.5 * math.sqrt(1 - p.abar[k]) * p.run.normal(x) for _ in range(3)]

        def log_f(x0, draws=draws):
            return torch.stack([p.log_f(x0 + e) for e in draws]).exp().mean(0).log()

        eps = p.eps(x, k)
        x0 = better = p.x0(x, eps, k)
        push = rho * p.grad(lambda x, log_f=log_f: log_f(p.x0(x, p.eps(x, k), k)), x)
        for _ in range(2):
            better = better + mu * p.grad(log_f, better)
        x_prev = (
            p.ddim(x0, eps, k, 1.0)
            + push / math.sqrt(alphas[k])
            + math.sqrt(p.abar[k + 1]) * (better - x0)
        )
        if again:
            x = p.back(x_prev, k)
    return x_prev


# The authors' code, of one sample at a time: there all norms are of the whole batch.
Y = torch.tensor([0.7, -0.4], dtype=torch.float64)


def residual(x0):
    """-|y - x0|, up for positive scales and down for negative ones."""
    return -(x0 - Y).norm(dim=1)


def code_dps(p, x, k):
    g = p.grad(lambda x: p.scale.sign() * residual(p.x0(x, p.eps(x, k), k)), x)
    eps = p.eps(x, k)
    return p.ddim(p.x0(x, eps, k), eps, k, 1.0) + 0.2 * g


def code_freedom(p, x, k):
    now, after = p.abar[k], p.abar[k + 1]
    for again in (True, False):
        eps = p.eps(x, k)
        c1 = math.sqrt(after) * (1 - now / after) / (1 - now)
        g = p.grad(lambda x: p.log_f(p.x0(x, p.eps(x, k), k)), x)
        l1 = eps.square().mean(1).sqrt() * math.sqrt((1 - now) / now) * c1
        rho = 0.2 * l1 / g.square().mean(1).sqrt()
        x_prev = p.ddim(p.x0(x, eps, k), eps, k, 1.0) + rho[:, None] * g
        if again:
            x = p.back(x_prev, k)
    return x_prev


def code_mpgd(p, x, k):
    eps, after = p.eps(x, k), p.abar[k + 1]
    x0 = p.x0(x, eps, k)
    g = p.grad(p.log_f, x0)
    rho = 0.2 / g.square().mean(1, keepdim=True).sqrt() / math.sqrt(after)
    return p.ddim(x0 + rho * g, eps, k, 0.5)


PAPERS = {
    "dps": (paper_dps, dps(STEPS, 0.2, norm=None)),
    "freedom": (paper_freedom, freedom(STEPS, 0.2, n_recur=2, norm=None)),
    "mpgd": (paper_mpgd, mpgd(STEPS, lambda t: 0.2, norm=None)),
    "lgd_mc": (paper_lgd, lgd_mc(STEPS, n_mc=3, norm=None)),
    "ugd": (paper_ugd, ugd(STEPS, 0.5, 0.1, n_iter=3, n_recur=2, norm=None)),
    "tfg": (paper_tfg, tfg(STEPS, 0.2, 0.1, 0.5, n_iter=2, n_mc=3, n_recur=2, norm=None)),
    "dps, code": (code_dps, dps(STEPS, 0.2)),
    "freedom, code": (code_freedom, freedom(STEPS, 0.2, n_recur=2)),
    "mpgd, code": (code_mpgd, mpgd(STEPS, 0.2, eta=0.5)),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_settings_are_the_paper(name):
    """The whole path, with the same chance."""
    step, sampler = PAPERS[name]
    reward = (lambda x: -(x - Y).square().sum(1)) if name == "dps, code" else curved
    start, tilt = noise(2, 6, 2), Tilt(reward, SCALES)
    paper, x = Paper(start, tilt), start.flatten(0, 1)
    with torch.no_grad():
        for k in range(STEPS):
            x = step(paper, x, k)
    found = sampler(WORLD, start, tilt, None, seeded()).x.flatten(0, 1)
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


# --- laws ---------------------------------------------------------------------------------------
@paths
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_leg_forth_and_back_keeps_the_law(schedule, eta):
    """The forward process from x_t has the law of x_s for any variance of x1, and DDIM the noise
    level of x_t.
    """
    for leg in ddim_steps(schedule, [k / 7 for k in range(8)], eta):
        for var in (0.1, 1.0, 9.0):
            there, here = (
                a**2 * var + b**2
                for a, b in ((leg.alpha_t, leg.sigma_t), (leg.alpha_s, leg.sigma_s))
            )
            assert leg.ratio**2 * there + leg.back**2 == pytest.approx(here, rel=1e-12)
        assert leg.kept**2 + leg.fresh**2 == pytest.approx(leg.sigma_t**2, abs=1e-15)
        assert 0 < leg.s < leg.t or float(schedule(0.0).alpha) > 0


def variance_of(steps, n_recur):
    """On standard normal data a step without reward is linear: Var x_t = c^2 Var x_s + fresh^2."""
    v = 1.0
    for leg in ddim_steps(Linear(), [k / steps for k in range(steps + 1)], 1.0):
        slope = leg.alpha_s / (leg.alpha_s**2 + leg.sigma_s**2)
        c = leg.alpha_t * slope + leg.kept * (1 - leg.alpha_s * slope) / leg.sigma_s
        for k in range(n_recur):
            v = leg.ratio**2 * v + leg.back**2 if k else v
            v = c**2 * v + leg.fresh**2
    return v


def test_without_a_reward_recurrence_keeps_the_law():
    """At every number of steps the variance is the closed form's, and that tends to 1, recurrence
    or not.
    """
    result = freedom(20, n_recur=3)(
        Ball(), noise(1, 20000, 1), Tilt(lambda x: x.sum(1), 0.0), None, seeded()
    )
    x, expected = result.x[0, :, 0], variance_of(20, 3)
    assert abs(x.mean()) < 4 * x.std() / math.sqrt(len(x))
    assert abs(x.var() - expected) < 4 * expected * math.sqrt(2 / len(x))
    for n_recur in (1, 3):
        coarse, fine = (abs(variance_of(steps, n_recur) - 1) for steps in (50, 100))
        assert fine < 0.07
        assert coarse / fine == pytest.approx(2, rel=0.1)


@paths
def test_on_the_score_a_linear_reward_is_tilted_to_exactly(schedule):
    """The tilt moves the mean of Gaussian data by scale STD^2 a; DDIM follows the tilted flow, to
    first order in the steps.
    """
    x0, tilt = noise(2, 8, 2), Tilt(LinearReward(A), SCALES)
    alpha, sigma, *_ = map(float, schedule(0.0))
    mean = MEAN + STD**2 * SCALES[:, None, None] * A
    end = mean + STD / math.sqrt(alpha**2 * STD**2 + sigma**2) * (x0 - alpha * mean)
    errors = []
    for steps in (100, 200):
        found = TrainingFreeGuidance(steps, OnScore(), eta=0.0, norm=None)(
            OneGaussian(schedule), x0, tilt
        ).x
        errors.append(float((found - end).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3)


def test_blur_of_a_quadratic_reward_widens_it():
    """log E exp(-c p/2 |z + gamma e - y|^2) has the gradient -c p (z - y) / (1 + c p gamma^2)."""
    gamma, precision, y = 0.7, 1.5, torch.tensor([0.5, -0.3], dtype=torch.float64)
    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = noise(1, 1, 2).expand(2, 64, 2)
    sampler = TrainingFreeGuidance(2, 0.0, 1.0, gamma, n_mc=1000, eta=0.0, norm=None)
    plain = TrainingFreeGuidance(2, 0.0, eta=0.0)
    tilt, schedule = Tilt(Quadratic(y, precision), scales), Trigonometric()
    moved = one_step(sampler, OneGaussian(schedule), x, tilt) - one_step(
        plain, OneGaussian(schedule), x, tilt
    )
    gradient = moved / float(schedule(BETWEEN[1]).alpha)
    stiff = (scales * precision)[:, None]
    z = OneGaussian(schedule).denoise(x[0, :1], BETWEEN[0])
    expected = -stiff * (z - y) / (1 + stiff * gamma**2)
    error = gradient.std(1) / math.sqrt(64)
    assert ((gradient.mean(1) - expected).abs() < 4 * error).all()
    assert (error < 0.05 * expected.abs()).all()


def test_a_gradient_of_zero_has_no_length_to_be_brought_to():
    x, plain = noise(1, 3, 2), Tilt(lambda x: 0 * x.sum(1))
    without = one_step(dps(2, eta=0.0, norm=None), Ball(), x, plain)
    for norm in (2.0, UnitAtGuess(), Denoised(), RootMeanSquare(), AtMost(1.0)):
        assert torch.equal(one_step(dps(2, eta=0.0, norm=norm), Ball(), x, plain), without)


def test_the_trace_has_the_reward_where_the_step_set_out():
    """At t = 0 on the linear path the denoiser sees the mean of the data, within the margin."""
    result = dps(4, rho=0.0)(
        OneGaussian(Linear()), noise(2, 3, 2), Tilt(LinearReward(A), SCALES), None, seeded()
    )
    assert result.trace["reward"].shape == (4, 2)
    torch.testing.assert_close(result.trace["reward"][0], (MEAN @ A).expand(2), atol=0.01, rtol=0)
    assert torch.equal(result.log_w, torch.zeros(2, 3, dtype=torch.float64))
    assert result.log_z is None


RING = ring_of_eight()


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("build", [dps, lgd_mc, freedom, mpgd, ugd, tfg])
def test_the_defaults_do_not_blow_up(build, steps, recwarn):
    """The ring at scale 10, where dps reached 8e25, mpgd 2e20 and freedom 5e73: now all move toward
    what is asked for.
    """
    x0, tilt = noise(1, 64, 2), Tilt(RING.reward, 10.0)
    sampler = build(steps, n_iter=2) if build in (ugd, tfg) else build(steps)
    result = sampler(RING.flow_map, x0, tilt, None, seeded())
    assert result.x.abs().max() < 10
    unsteered = RING.reward(Jump(4)(RING.flow_map, x0).x[0]).mean()
    assert RING.reward(result.x[0]).mean() > 0.75 * unsteered
    assert not recwarn.list


@pytest.mark.slow
def test_the_default_strengths_push_as_far_in_all_at_any_number_of_steps():
    """On the path x_t of one Gaussian, with a linear reward and no noise: the displacement of x1
    settles as steps grow.
    """
    for make, more in ((dps, {}), (mpgd, {}), (tfg, {"n_mc": 1, "n_iter": 2})):
        ends = []
        for steps in (50, 100):
            sampler = make(steps, eta=0.0, **more)
            x0, world = noise(1, 2, 2), OneGaussian(Trigonometric())
            steered, plain = (
                sampler(world, x0, Tilt(LinearReward(A), scale)).x for scale in (1.0, 0.0)
            )
            ends.append(steered - plain)
        torch.testing.assert_close(ends[0], ends[1], rtol=0.04, atol=0.0)


def test_samples_are_as_they_would_be_alone():
    """No norm is of the batch."""
    x0, tilt = noise(1, 6, 2), Tilt(curved)
    for norm in (UnitAtGuess(), Denoised(), RootMeanSquare(), AtMost(0.5)):
        sampler = TrainingFreeGuidance(5, 0.2, 0.1, norm=norm, eta=0.0)
        together = sampler(WORLD, x0, tilt).x
        torch.testing.assert_close(
            sampler(WORLD, x0[:, 2:3], tilt).x, together[:, 2:3], rtol=1e-12, atol=1e-12
        )


# --- strengths ----------------------------------------------------------------------------------
def test_guidance_schedules():
    ahead = ddim_steps(Trigonometric(), [0.2, 0.5, 0.7, 1.0], 1.0)
    ratios = [leg.alpha_s / leg.alpha_t for leg in ahead]
    values = on_steps(Increasing(0.4), ahead)
    assert sum(values) / 3 == pytest.approx(0.4)
    assert values[0] / values[1] == pytest.approx((ratios[0] / ratios[1]) ** 2)
    assert on_steps(Carried(2.0), ahead) == pytest.approx([2.0 / a for a in ratios])
    assert on_steps(OverAlpha(2.0), ahead) == pytest.approx([2.0 / leg.alpha_t for leg in ahead])
    assert on_steps(lambda t: t**2, ahead) == pytest.approx([0.04, 0.25, 0.49])
    assert on_steps(Noisiness(0.3), ahead) == pytest.approx([0.3 * leg.sigma_s for leg in ahead])
    assert on_steps(Noisiness(0.3), ddim_steps(Linear(), [0.5, 1.0], 1.0)) == pytest.approx(
        [0.3 * math.sqrt(0.5)]
    )
    # DDPM's mean with a score: (x_s + (sigma_s^2 - a^2 sigma_t^2) score) / a.
    assert on_steps(OnScore(0.5), ahead) == pytest.approx(
        [0.5 * leg.back**2 / leg.ratio for leg in ahead]
    )


def test_recurrence_on_a_stretch_of_the_path():
    """Three times on the second and third of four steps."""
    sampler = freedom(4, n_recur=lambda t: 3 if 0.2 < t < 0.6 else 1)
    found = sampler(Ball(), noise(1, 4, 2), Tilt(LinearReward(A)), None, seeded())
    assert found.evaluations.network_forward == 8


# --- costs --------------------------------------------------------------------------------------
N = 5


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (dps(N), (N, N, N + 1, N)),
        (dps(N, lookahead=MapJump()), (2 * N, N, N + 1, N)),  # DDIM's velocity, and the jump
        (lgd_mc(N, n_mc=3), (N, N, 3 * N + 1, 3 * N)),
        (freedom(N, n_recur=2), (2 * N, 2 * N, 2 * N + 1, 2 * N)),
        (mpgd(N), (N, 0, N + 1, N)),
        (
            ugd(N, n_iter=3, n_recur=1),
            (N, N, 3 * N + 1, 3 * N),
        ),  # the first look serves both gradients
        (tfg(N, n_iter=2, n_mc=3, n_recur=2), (2 * N, 2 * N, 12 * N + 1, 12 * N)),
        (dps(N, rho=0.0), (N, 0, N + 1, 0)),
    ],
)
def test_cost_per_returned_sample(sampler, expected):
    for most in (None, 3):
        sampler.max_batch = most
        e = sampler(
            Ball(), noise(2, 4, 2), Tilt(Quadratic([1.0, 0.0], 3.0)), None, seeded()
        ).evaluations
        assert (
            e.network_forward,
            e.network_backward,
            e.reward_forward,
            e.reward_backward,
        ) == pytest.approx(expected)


# --- configs and refusals -----------------------------------------------------------------------
def test_a_config_names_a_special_case():
    target, lookahead = "steer.samplers.training_free.ugd", {"_target_": "steer.lookahead.MapJump"}
    sampler = build(
        {"_target_": target, "steps": 3, "factor": 2.0, "norm": 1.0, "lookahead": lookahead}
    )
    assert isinstance(sampler, TrainingFreeGuidance)
    assert (sampler.steps, sampler.norm.length, sampler.keep_noise) == (3, 1.0, False)
    assert isinstance(sampler.rho, OnScore)
    with pytest.raises(ValueError, match="strength"):
        build({"_target_": "steer.samplers.training_free.dps", "steps": 3, "strength": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_iter": 0}, "at least 1; got 0, 1 and 1"),
        ({"n_recur": 0}, "at least 1"),
        ({"eta": 1.5}, r"eta is in \[0, 1\]"),
        ({"norm": 0.0}, "norm is a positive length, a Norm or None; got 0.0"),
        ({"lookahead": Posterior(2)}, "without chance; Posterior draws"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingFreeGuidance(3, **settings)


def test_refusals_of_a_run():
    x0, tilt = noise(1, 2, 2), Tilt(LinearReward(A))
    with pytest.raises(ValueError, match=r"follows a reward; pass tilt="):
        dps(3)(Ball(), x0)
    with pytest.raises(ValueError, match=r"JpegSize has no gradient .* use FkSteering or BestOfN"):
        dps(3)(Ball(), torch.rand(1, 2, 1, 8, 8), Tilt(JpegSize()))
    for sampler in (dps(3), mpgd(3)):
        with pytest.raises(ValueError, match=r"has no gradient \(torch cannot follow"):
            sampler(Ball(), x0, Tilt(lambda x: x.detach().sum(1)))
    with pytest.raises(
        ValueError, match=r"gamma >= 0 are finite numbers; at t = 0.001 they are \(1.0, 0.0, -1.0\)"
    ):
        TrainingFreeGuidance(3, 1.0, gamma=-1.0)(Ball(), x0, tilt)
    with pytest.raises(ValueError, match=r"at t = 0.3333 they are \(nan"):
        TrainingFreeGuidance(3, rho=lambda t: math.nan if t > 0.3 else 1.0)(Ball(), x0, tilt)
    with pytest.raises(ValueError, match="n_recur is at least 1; at t = 0 it is 0"):
        freedom(3, n_recur=lambda t: 0)(Ball(), x0, tilt)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"no_grad\(\) instead"):
        dps(3)(Ball(), x0, tilt)
    bad = Tilt(lambda x: (x[:, 0] - x[:, 0]).sqrt())
    with pytest.raises(
        ValueError, match=r"the gradient of <lambda> is not finite for sample 0 at t = 0\.001"
    ):
        mpgd(3)(Ball(), x0, bad)
