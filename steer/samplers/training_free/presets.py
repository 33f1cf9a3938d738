"""Published methods of training-free guidance, as settings of `TrainingFreeGuidance`.

The papers count time downwards; here x_s is the noisier sample and x_t the cleaner one. `more` are
further settings by keyword: norm, lookahead, max_batch. The two gradients are that through the
network (in x_s) and that in the clean guess.

    name       through the network       in the clean guess         draws recurs    norm
    dps        rho = 2.5 / steps         -                          -     -         UnitAtGuess()
    lgd_mc     on the score              -                          n_mc  -         AtMost(CLIP)
    freedom    rho = .5                  -                          -     n_recur   Denoised()
    mpgd       -                         .5 / steps, over alpha_t   -     -         RootMeanSquare()
    ugd        factor 1, on the score    .0002, noise moved         -     n_recur   AtMost(CLIP)
    tfg        rho = .5 / steps, over a  .1 / steps, n_iter times   n_mc    n_recur   AtMost(CLIP)

The default strengths are the best of a grid in `recipes.experiments.strengths`, on worlds that no
table uses, for data of about unit size. Those divided by the number of steps have the same total
effect at any number; those of freedom, ugd and lgd_mc do so by themselves.

The norms of dps, freedom and mpgd are those of the authors' code, sample by sample where that code
takes the whole batch; TFG's clips the gradient for molecules. LGD-MC and UGD leave it as it is and
choose a weight for every task: with any one weight they diverge at some scale of the reward, so
here they are clipped too, where a gradient is longer than those of a reward that pulls as hard as
unit data. With norm=None all are the formulas of the papers.
"""

from collections.abc import Callable
from typing import Any

from steer.samplers.training_free.guidance_schedules import (
    AtMost,
    Carried,
    Denoised,
    Increasing,
    Noisiness,
    Norm,
    OnScore,
    OverAlpha,
    RootMeanSquare,
    Strength,
    UnitAtGuess,
)
from steer.samplers.training_free.training_free_guidance import TrainingFreeGuidance

__all__ = ["dps", "freedom", "lgd_mc", "mpgd", "tfg", "ugd"]

CLIP = 5.0  # largest root mean square of a gradient in lgd_mc, ugd and tfg, for unit data
MPGD = 0.5  # default strengths times the number of steps
TFG_RHO = 0.5
TFG_MU = 0.1
UNIT = UnitAtGuess()
DENOISED = Denoised()
ROOT_MEAN_SQUARE = RootMeanSquare()
CLIPPED = AtMost(CLIP)
Normed = Norm | float | None


def dps(
    steps: int = 100,
    rho: Strength | None = None,
    *,
    eta: float = 1.0,
    norm: Normed = UNIT,
    **more: Any,
) -> TrainingFreeGuidance:
    """Builds Diffusion Posterior Sampling (Chung et al. 2023, arXiv 2209.14687): rho alone.

    The original, for y = A(x1) + noise and D = E[x1 | x_s], subtracts zeta grad_{x_s} |y - A(D)|^2,
    zeta = zeta' / |y - A(D)|: that is rho = 2 zeta' with r(x) = -|y - A(x)| and norm=None. Its
    authors' code follows the gradient of |y - A(D)| itself, the norm of the residual, rho = scale,
    over the whole batch; here every sample has its own, and UnitAtGuess() makes of any reward what
    that norm is for r(x) = -|y - x|^2. Their network also predicts the variance of the step; here
    it is the posterior variance of DDPM. One pass forwards and backwards a step.
    """
    return TrainingFreeGuidance(steps, rho, eta=eta, norm=norm, **more)


def lgd_mc(
    steps: int = 100,
    rho: Strength | None = None,
    gamma: Strength | None = None,
    *,
    n_mc: int = 10,
    eta: float = 1.0,
    norm: Normed = CLIPPED,
    **more: Any,
) -> TrainingFreeGuidance:
    """Builds loss-guided diffusion with Monte Carlo (Song et al. 2023, ICML): rho and n_mc draws.

    The original adds the gradient of log mean exp(-loss) to the score, at draws of standard
    deviation sigma / sqrt(1 + sigma^2) around the denoiser in the notation x = x1 + sigma e. That
    is OnScore(1) and Noisiness(1), the settings here unless others are given: nothing is tuned.
    With a linear reward and Gaussian data it is exact as steps grow, as long as no gradient is
    clipped.
    """
    rho = OnScore() if rho is None else rho
    gamma = Noisiness() if gamma is None else gamma
    return TrainingFreeGuidance(steps, rho, 0.0, gamma, n_mc=n_mc, eta=eta, norm=norm, **more)


def freedom(
    steps: int = 100,
    rho: Strength = 0.5,
    *,
    n_recur: int | Callable[[float], int] = 3,
    eta: float = 1.0,
    norm: Normed = DENOISED,
    **more: Any,
) -> TrainingFreeGuidance:
    """Builds FreeDoM (Yu et al. 2023, arXiv 2303.09833): rho alone, each step n_recur times.

    The original repeats ("time travel") on a middle stretch of the path only: give n_recur as a
    function of t. Its authors' code takes the ancestral step with the posterior variance, as here,
    for CLIP, with a push of .02 times what the step takes away of the noise (Denoised(), there over
    the whole batch, so that samples depend on their batch mates); for faces it takes DDIM at eta =
    1/2 with rho proportional to alpha_s on the norm of the residual, and no push in the last steps.
    """
    return TrainingFreeGuidance(steps, rho, n_recur=n_recur, eta=eta, norm=norm, **more)


def mpgd(
    steps: int = 100,
    mu: Strength | None = None,
    *,
    n_iter: int = 1,
    eta: float = 0.0,
    norm: Normed = ROOT_MEAN_SQUARE,
    **more: Any,
) -> TrainingFreeGuidance:
    """Manifold Preserving Guided Diffusion (He et al. 2023, arXiv 2311.16424): mu alone, nothing
    through the network.

    The original moves the clean guess by c_t times the gradient there and takes the DDIM step with
    the noise as it was. Its authors' code has c_t = scale / alpha_t, of the cleaner end, times a
    gradient of root mean square 1 (over the whole batch, here of each sample): x_t moves by scale
    in every step. A number is that scale; anything else is taken as it is. This is its shortcut
    without a projection; the variants that project the guess by an autoencoder are not here.
    """
    mu = MPGD / steps if mu is None else mu
    mu = OverAlpha(mu) if isinstance(mu, int | float) else mu
    return TrainingFreeGuidance(steps, 0.0, mu, n_iter=n_iter, eta=eta, norm=norm, **more)


def ugd(
    steps: int = 100,
    factor: float = 1.0,
    mu: Strength = 0.0002,
    *,
    n_iter: int = 10,
    n_recur: int | Callable[[float], int] = 4,
    eta: float = 0.0,
    norm: Normed = CLIPPED,
    **more: Any,
) -> TrainingFreeGuidance:
    """Builds universal guidance (Bansal et al. 2023, arXiv 2302.07121).

    The original takes eps - factor sigma_s grad_{x_s} r for the noise (forward guidance), which is
    `factor` times the gradient added to the score; then n_iter steps of descent on the clean guess
    seen with eps itself, whose displacement d changes the noise by -(alpha_s / sigma_s) d (backward
    guidance). Hence OnScore(factor), mu, and keep_noise=False. Its recurrence is 4 to 10 times in
    the authors' code, by task. On the worlds of `recipes.experiments.strengths` backward guidance
    gains nothing beside a factor of 1, and the less it is the better: the default mu is small.
    """
    return TrainingFreeGuidance(
        steps,
        OnScore(factor),
        mu,
        n_iter=n_iter,
        n_recur=n_recur,
        eta=eta,
        keep_noise=False,
        norm=norm,
        **more,
    )


def tfg(
    steps: int = 100,
    rho: Strength | None = None,
    mu: Strength | None = None,
    gamma: Strength = 0.1,
    *,
    n_iter: int = 4,
    n_mc: int = 4,
    n_recur: int | Callable[[float], int] = 1,
    eta: float = 1.0,
    norm: Normed = CLIPPED,
    **more: Any,
) -> TrainingFreeGuidance:
    """Builds TFG as published (Ye et al. 2024, arXiv 2409.15761).

    A number is, as there, the mean of an "increase" schedule for rho and mu, and a factor of the
    noise level for gamma (Increasing, Noisiness); anything else is taken as it is. rho displaces
    x_s and is carried to x_t by 1 / a (Carried). Its authors search the numbers for each task.
    """
    rho = TFG_RHO / steps if rho is None else rho
    mu = TFG_MU / steps if mu is None else mu
    rho = Increasing(rho) if isinstance(rho, int | float) else rho
    mu = Increasing(mu) if isinstance(mu, int | float) else mu
    gamma = Noisiness(gamma) if isinstance(gamma, int | float) else gamma
    return TrainingFreeGuidance(
        steps,
        Carried(rho),
        mu,
        gamma,
        n_iter=n_iter,
        n_mc=n_mc,
        n_recur=n_recur,
        eta=eta,
        norm=norm,
        **more,
    )
