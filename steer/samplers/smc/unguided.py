"""Sequential Monte Carlo on the unguided chain, reweighed at every step by the look-ahead's value.

    dx = [b + eps s] dt + sqrt(2 eps) dW,        weights exp(r_t(x') - r_s(x)),    r_t = l_t V_t,

trajectory tilting without its guidance. No gradient is taken, so it serves black-box rewards.
"""

from jaxtyping import Float
from torch import Tensor

from steer.lookahead import Lookahead
from steer.resampling import Scheme, systematic
from steer.samplers.run import Run
from steer.samplers.sde import NoiseLevel, noise_level
from steer.samplers.smc.annealing import Annealing, LevelFunction, proportional
from steer.samplers.smc.incremental_weights import Proposal
from steer.samplers.smc.particles import Particles, particles_at
from steer.samplers.smc.trajectory_tilting import TrajectoryTilting

__all__ = ["UnguidedTilting"]


class UnguidedTilting(TrajectoryTilting):
    """Trajectory tilting of the plain dynamics; exact as steps and particles grow.

    Args:
        steps, lookahead, resample_below, eps, annealing, resampling, max_batch, film, film_every:
            as in TrajectoryTilting.
    """

    needs_gradient = False

    def __init__(
        self,
        steps: int = 100,
        lookahead: Lookahead | None = None,
        resample_below: float = 0.5,
        *,
        eps: float | NoiseLevel = 1.0,
        annealing: float | LevelFunction | Annealing = proportional,
        resampling: Scheme = systematic,
        max_batch: int | None = None,
        film: int = 0,
        film_every: int | None = None,
    ):
        super().__init__(
            steps,
            lookahead,
            resample_below,
            eps=eps,
            annealing=annealing,
            resampling=resampling,
            max_batch=max_batch,
            film=film,
            film_every=film_every,
        )

    def propose(self, run: Run, now: Particles, s: float, t: float) -> Proposal:
        """Takes one Euler-Maruyama step of the plain dynamics."""
        eps = noise_level(self.eps, run, s, t)
        noise = (2 * eps * (t - s)) ** 0.5 * run.normal(now.x)
        assert now.ahead.velocity is not None
        x = now.x + (t - s) * (now.ahead.velocity + eps * now.score) + noise
        return Proposal(x, noise, s, t, eps)

    def look(self, run: Run, x: Tensor, t: float, log_w: Tensor, log_z: Tensor) -> Particles:
        """Looks ahead from every particle: value and velocity."""
        ahead = run.value(self.lookahead, x, t, velocity=True)
        return particles_at(run, x, t, ahead, log_w, log_z)

    def weigh(
        self, run: Run, before: Particles, after: Particles, proposal: Proposal
    ) -> Float[Tensor, "p n"]:
        """Computes r_t(x') - r_s(x)."""
        return run.by_prompt(after.tilt - before.tilt)
