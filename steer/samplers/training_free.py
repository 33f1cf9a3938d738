"""The special cases of training-free guidance, each a function that returns `TrainingFreeGuidance` with its settings.

What a setting means is told there. The papers count time downwards; here x_s is the noisier sample and x_t the cleaner one.
`more` are further settings by keyword: lookahead, norm, max_batch.

    name       gradient through the network     gradient on the clean guess      draws    recurrence
    dps        rho                              -                                -        -
    lgd_mc     on the score                     -                                n_mc     -
    freedom    rho                              -                                -        n_recur
    mpgd       -                                mu, noise kept                   -        -
    ugd        on the score                     mu n_iter times, noise moved     -        n_recur
    tfg        rho / a                          mu n_iter times, noise kept      n_mc     n_recur
"""

from collections.abc import Callable

from steer.samplers.strengths import Carried, Increasing, Noisiness, OnScore, Strength
from steer.samplers.training_free_guidance import TrainingFreeGuidance


def dps(steps: int = 100, rho: Strength = 1.0, *, eta: float = 1.0, **more) -> TrainingFreeGuidance:
    """Diffusion Posterior Sampling (Chung et al. 2023, arXiv 2209.14687): rho alone, added to the ancestral step as it is.

    The original, for y = A(x1) + noise and D = E[x1 | x_s], subtracts zeta grad_{x_s} |y - A(D)|^2, zeta = zeta' / |y -
    A(D)|: that is rho = 2 zeta' with r(x) = -|y - A(x)|, and with zeta constant rho = zeta and r(x) = -|y - A(x)|^2. Its
    authors' code follows the gradient of |y - A(D)| itself, rho = scale, the norm over the whole batch; here every sample
    has its own. Their network also predicts the variance of the step; here it is the posterior variance of DDPM. One pass
    forwards and backwards a step.
    """
    return TrainingFreeGuidance(steps, rho, eta=eta, **more)


def lgd_mc(
    steps: int = 100,
    rho: Strength | None = None,
    gamma: Strength | None = None,
    *,
    n_mc: int = 10,
    eta: float = 1.0,
    **more,
) -> TrainingFreeGuidance:
    """Loss-guided diffusion with Monte Carlo (Song et al. 2023, ICML): rho, and the reward blurred by n_mc draws.

    The original adds the gradient of log mean exp(-loss) to the score, at draws of standard deviation
    sigma / sqrt(1 + sigma^2) around the denoiser in the notation x = x1 + sigma e. That is OnScore(1) and Noisiness(1), the
    settings here unless others are given. With a linear reward and Gaussian data it is exact as steps grow.
    """
    rho, gamma = OnScore() if rho is None else rho, Noisiness() if gamma is None else gamma
    return TrainingFreeGuidance(steps, rho, 0.0, gamma, n_mc=n_mc, eta=eta, **more)


def freedom(
    steps: int = 100, rho: Strength = 1.0, *, n_recur: int | Callable[[float], int] = 3, eta: float = 1.0, **more
) -> TrainingFreeGuidance:
    """FreeDoM (Yu et al. 2023, arXiv 2303.09833): rho alone, added to x_t as it is, and every step taken n_recur times.

    The original repeats ("time travel") on a middle stretch of the path only: give n_recur as a function of t. Its authors'
    code takes the ancestral step with the posterior variance, as here, for CLIP, with rho by norms over the whole batch, so
    that samples depend on their batch mates (`norm` does so for each by itself); for faces it takes DDIM at eta = 1/2 with
    rho proportional to alpha_s, and no push in the last steps.
    """
    return TrainingFreeGuidance(steps, rho, n_recur=n_recur, eta=eta, **more)


def mpgd(steps: int = 100, mu: Strength = 1.0, *, n_iter: int = 1, eta: float = 0.0, **more) -> TrainingFreeGuidance:
    """Manifold Preserving Guided Diffusion (He et al. 2023, arXiv 2311.16424): mu alone, nothing through the network.

    The original moves the clean guess by c_t times the gradient there and takes the DDIM step with the noise as it was; its
    authors' code has c_t = scale / alpha_s. This is its shortcut without a projection; the variants that project the guess
    by an autoencoder are not here.
    """
    return TrainingFreeGuidance(steps, 0.0, mu, n_iter=n_iter, eta=eta, **more)


def ugd(
    steps: int = 100,
    factor: float = 1.0,
    mu: Strength = 1.0,
    *,
    n_iter: int = 10,
    n_recur: int | Callable[[float], int] = 1,
    eta: float = 0.0,
    **more,
) -> TrainingFreeGuidance:
    """Universal guidance (Bansal et al. 2023, arXiv 2302.07121): both pushes as changes of the predicted noise, and recurrence.

    The original takes eps - factor sigma_s grad_{x_s} r for the noise (forward guidance), which is `factor` times the gradient
    added to the score; then n_iter steps of descent on the clean guess seen with eps itself, whose displacement d changes
    the noise by -(alpha_s / sigma_s) d (backward guidance). Hence OnScore(factor), mu, and keep_noise=False.
    """
    return TrainingFreeGuidance(
        steps, OnScore(factor), mu, n_iter=n_iter, n_recur=n_recur, eta=eta, keep_noise=False, **more
    )


def tfg(
    steps: int = 100,
    rho: Strength = 1.0,
    mu: Strength = 1.0,
    gamma: Strength = 0.1,
    *,
    n_iter: int = 4,
    n_mc: int = 4,
    n_recur: int | Callable[[float], int] = 1,
    eta: float = 1.0,
    **more,
) -> TrainingFreeGuidance:
    """TFG as published (Ye et al. 2024, arXiv 2409.15761): everything at once.

    A number is, as there, the mean of an "increase" schedule for rho and mu, and a factor of the noise level for gamma
    (Increasing, Noisiness); anything else is taken as it is. rho displaces x_s and is carried to x_t by 1 / a (Carried). Its
    authors search the numbers for each task; the ones here are no recommendation.
    """
    rho, mu = (Increasing(value) if isinstance(value, int | float) else value for value in (rho, mu))
    gamma = Noisiness(gamma) if isinstance(gamma, int | float) else gamma
    return TrainingFreeGuidance(
        steps, Carried(rho), mu, gamma, n_iter=n_iter, n_mc=n_mc, n_recur=n_recur, eta=eta, **more
    )
