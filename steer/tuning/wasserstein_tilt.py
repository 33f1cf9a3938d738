"""WTF, the Wasserstein tilt of a flow map: the control from the gradient of the policy's own value.

At x_t of the problem of `TransportTuning`, with t uniform and tau uniform in [t, 1],

    V = scale r(X_{tau,1}(x_tau)) - (1 - t)/2 |ubar_tau(x_tau)|^2,      x_tau = X_{t,tau}(x_t),
    p = the total derivative of V in x_t,      ubar_tau = u_{tau,tau} - b_tau,

through the jumps of the map being tuned, whose weights are held fixed. In the mean over tau V is
the value of the map as it is, and p the improved control: policy iteration, without simulation. At
rest u_{t,t} = b_t + the gradient of the best value.

Where r is so curved that tau_c max r'' > 1 (tau_c = pi s / 2 on N(m, s^2)) the best landing jumps
as x0 moves, and no smooth map follows.

Reference: Wasserstein tilt of flow maps (WTF), 2026, arXiv 2609.27033.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import NotNegative
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.tilt import Tilt
from steer.training.base import PairObjective
from steer.training.times import TimeLaw
from steer.tuning.objective import reward_gradient
from steer.tuning.rollouts import squared_norm
from steer.tuning.transport import Control, TransportTuning

__all__ = ["WassersteinTilt"]


class WassersteinTilt(TransportTuning):
    """Policy iteration on the control of the flow, through three jumps of the map.

    Args:
        times, off_diagonal, off_weight: as in TransportTuning.
        euclidean: the gradient of the reward at the landing, in place of its derivative through
            the jumps: cheaper and biased, the form of the largest published runs. The energy is
            differentiated through the first jump as before.
    """

    def __init__(
        self,
        *,
        times: TimeLaw | None = None,
        off_diagonal: PairObjective | None = None,
        off_weight: NotNegative = 1.0,
        euclidean: bool = False,
    ):
        super().__init__(times=times, off_diagonal=off_diagonal, off_weight=off_weight)
        self.euclidean = euclidean

    def control(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        tau: Float[Tensor, "b"],
        cond: Cond,
    ) -> Control:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x_tau = flow_map(x_t, t, tau, cond)
            policy = flow_map.velocity(x_tau, tau, cond) - base.velocity(x_tau, tau, cond)
            energy = ((1 - t) / 2 * squared_norm(policy)).sum()
            with torch.set_grad_enabled(not self.euclidean):
                x1 = flow_map.lookahead(x_tau, tau, cond)
            gain, push = reward_gradient(tilt, x1, cond)
            if self.euclidean:
                p = push - torch.autograd.grad(energy, x_t)[0]
            else:
                (p,) = torch.autograd.grad((x1 * push).sum() - energy, x_t)
        return Control(p, gain, {})
