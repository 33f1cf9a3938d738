"""Is trajectory tilting exact for every look-ahead? log Z and mode weights on a ring of eight against the closed form.

    python -m recipes.figures.ring_tilting        # about an hour on one core, nearly all of it the oracle's own jumps

Quadratic reward (center (3, 2), precision 1/2), 4096 particles, 10 seeds, eps = 1 - t, extra drift chi = 0 or (1 - t)/2.
"""

from functools import partial

import torch

from recipes.figures.cells import Cells
from rewards import Quadratic
from steer.analytic import ring
from steer.lookahead import Denoiser, Identity, Lookahead, MapJump
from steer.samplers import PathWeights, TrajectoryTilting, TransitionWeights
from steer.tilt import Tilt

SEEDS, PARTICLES, STEPS = 10, 4096, (50, 100, 200, 400)
LOOKAHEADS: dict[str, Lookahead] = {"identity": Identity(), "denoiser": Denoiser(), "map": MapJump()}
WEIGHTINGS = {"path": PathWeights(), "left": PathWeights(trapezoidal=False), "transition": TransitionWeights()}


def measure(lookahead: Lookahead, weighting: str, chi: float, steps: int) -> dict:
    """Errors of one setting over the seeds: log Z (mean, standard error), the worst mode weight, ESS, resamples."""
    world, reward = ring(), Quadratic(torch.tensor([3.0, 2.0], dtype=torch.float64), 0.5)
    law, log_z = world.tilted(reward)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SEEDS, PARTICLES, 2, generator=generator, dtype=torch.float64)
    sampler = TrajectoryTilting(
        steps,
        lookahead,
        chi=(lambda t: chi * (1 - t)) if chi else None,
        weighting=WEIGHTINGS[weighting],
        max_batch=8192,
    )
    result = sampler(world, x0, Tilt(reward), generator=generator)
    assert result.log_z is not None
    error = result.log_z - log_z
    modes = law.responsibilities(result.x.flatten(0, 1)).unflatten(0, (SEEDS, PARTICLES))
    weights = (result.log_w.softmax(1)[..., None] * modes).sum(1)
    worst = int((weights.mean(0) - law.weights).abs().argmax())
    return {
        "log_z_error": float(error.mean()),
        "log_z_std_error": float(error.std() / SEEDS**0.5),
        "mode_weight_error": float((weights.mean(0) - law.weights)[worst]),
        "mode_weight_std_error": float(weights[:, worst].std() / SEEDS**0.5),
        "ess_min": float(result.trace["ess"].min()),
        "resamples": float(result.trace["resampled"].sum() / SEEDS),
    }


def main() -> None:
    cells = Cells("ring_tilting")
    for name, lookahead in LOOKAHEADS.items():
        for weighting, chi in (("path", 0.0), ("path", 0.5), ("transition", 0.0), ("left", 0.0)):
            for steps in STEPS:
                if not (name == "map" and weighting in ("transition", "left") and steps > 100):
                    key = f"{name} {weighting} chi={chi} steps={steps}"
                    cells.get(key, partial(measure, lookahead, weighting, chi, steps))


if __name__ == "__main__":
    main()
