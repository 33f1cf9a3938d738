"""Direct reward gradients: the reward of a clean sample, differentiated through its last moves.

    L = -E[scale r(z)] + penalty E int |v - v_base|^2 dt + consistency L_map(z),

z = the end of a rollout of the model being tuned, v the velocity it moves by (see `rollouts`). With
`Jumps(1)` that is the flow map's look-ahead X_{s,1}(x_s), one forward and one backward of the
network; with `EulerSteps(N, last=K)` it is DRaFT-K on an N-step sampler.

Reward gradients move only the jumps they pass through, and the penalty keeps those same jumps near
the base. What keeps the map a flow map is L_map, a training objective on the model's own samples z:
the diagonal learns the velocity of the tuned distribution by flow matching on renoised z, and the
jumps learn to follow the diagonal. So few jumps and many steps go on agreeing, some updates behind:
let the reward settle, and go on until they do. (A penalty on the diagonal would keep many steps at
the base while one jump leaves it.)

The penalty slows the ascent, and does not make the result the tilted distribution. This is a
maximiser: stop by a held-out reward.

References: Clark et al. 2024, arXiv 2309.17400 (DRaFT); Prabhudesai et al. 2023, arXiv 2310.03739
(AlignProp).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tilt import Tilt
from steer.training import FlowMatching, Joint, Loss, Objective, Semigroup
from steer.tuning.objective import (
    TuningClaim,
    TuningObjective,
    differentiable_gain,
    require_gradient,
)
from steer.tuning.rollouts import Jumps, Rollout

__all__ = ["Direct"]


class Direct(TuningObjective):
    """Ascends the reward through a rollout, with a penalty to the base and a consistency term.

    Args:
        rollout: how samples are made and where gradients flow; Jumps(1), the one-jump look-ahead,
            by default.
        penalty: weight of the energy of the change.
        consistency: weight of `objective`; 0 leaves it out.
        objective: L_map; by default Joint(FlowMatching(), Semigroup()), which takes no derivative
            of the network.
        share: part of the batch that penalty and consistency are estimated on, to save evaluations:
            one sample in every round(1 / share).

    Raises:
        ValueError: settings out of range; when called, a reward without a gradient.
        NonFiniteReward: when called, or in the backward pass, naming the sample.
    """

    claim: TuningClaim = "maximiser"
    needs_gradient = True

    def __init__(
        self,
        rollout: Rollout | None = None,
        penalty: float = 0.0,
        consistency: float = 1.0,
        objective: Objective | None = None,
        share: float = 1.0,
    ):
        super().__init__()
        if penalty < 0 or consistency < 0 or not 0 < share <= 1:
            raise ValueError(
                "Direct needs penalty and consistency >= 0 and share in (0, 1];"
                f" got penalty={penalty}, consistency={consistency}, share={share}"
            )
        self.rollout = rollout or Jumps()
        self.penalty = penalty
        self.consistency = consistency
        self.share = share
        self.interpolates = consistency > 0
        self.objective = objective or Joint(FlowMatching(), Semigroup(), diag_fraction=0.5)

    def forward(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        require_gradient(tilt)
        rolled = self.rollout(flow_map, x0, cond, generator)
        z = rolled.z
        gain = differentiable_gain(tilt, z, rolled.conditions(cond))
        loss = self.descent(gain)
        terms = {"tilt": gain.detach().mean()}

        # spread, since a rollout may treat parts of the batch differently
        indices = slice(None, None, round(1 / self.share))
        if self.penalty > 0:
            energy = self.rollout.energy(flow_map, base, rolled, indices, cond, generator).mean()
            loss = loss + self.penalty * energy
            terms["energy"] = energy.detach()
        if self.consistency > 0:
            own = rolled.samples[indices]
            own_cond = pick(cond, indices)
            fresh = torch.randn(own.shape, generator=generator, device=own.device, dtype=own.dtype)
            map_loss = self.objective(flow_map, fresh, own, own_cond, generator, step)
            loss = loss + self.consistency * map_loss.total
            terms["consistency"] = map_loss.total.detach()
        return Loss(loss, terms)

    def descent(self, gain: Float[Tensor, "n"]) -> Tensor:
        """Computes the reward's part of the loss from scale * r(z)."""
        return -gain.mean()
