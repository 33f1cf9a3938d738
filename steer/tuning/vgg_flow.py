"""VGG-Flow: the control from a network that learns the gradient of the value.

For the problem of `TransportTuning`,

    p_t(x) = eta_t sg[grad r(D_t(x))] + nu_t(x),      D_t the posterior mean,  eta_t = t^power,

with nu trained beside the map on the equation that the gradient of the best value solves,

    L_nu = E |d_t p + grad p . sg[b + p] + (grad b)^T p|^2,      p_1 = grad r,

b the velocity of the base. The end condition holds by construction, as the value network is

    nu_t = (1 - t) (w_{t,t} - b_t),

w a copy of the map: zero until it is trained, for any architecture. (The paper has a network that
starts anew and a penalty at t = 1.) The derivative of the reward's part along the flow is a central
difference of step h, as no second derivative of a reward can be relied on; that of nu is exact.
(grad b)^T p is differentiated in p, a second derivative of the base in reverse mode: networks with
recompute=True do not have it. Without nu, p is biased.

Reference: VGG-Flow, 2025, arXiv 2512.05116 (in its notation, beta scales the reward).
"""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import NotNegative, Positive
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import expand
from steer.tilt import Tilt
from steer.training.base import PairObjective, mean_square
from steer.training.derivatives import Derivative, ForwardMode
from steer.training.times import TimeLaw
from steer.tuning.objective import reward_gradient
from steer.tuning.transport import Control, TransportTuning

__all__ = ["VggFlow"]


class VggFlow(TransportTuning):
    """Regression on a learned gradient of the value; the value network is trained beside the map.

    Args:
        times, off_diagonal, off_weight: as in TransportTuning.
        power: eta_t = t^power.
        h: half the distance of the difference, in units of time.
        derivative: how the derivative of nu is taken; forward mode by default.
    """

    value: ResidualMap

    def __init__(
        self,
        *,
        times: TimeLaw | None = None,
        off_diagonal: PairObjective | None = None,
        off_weight: NotNegative = 1.0,
        power: NotNegative = 2.0,
        h: Positive = 0.005,
        derivative: Derivative | None = None,
    ):
        super().__init__(times=times, off_diagonal=off_diagonal, off_weight=off_weight)
        self.power = power
        self.h = h
        self.derivative = derivative or ForwardMode()

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        self.value = deepcopy(flow_map)

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
        def first(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                clean = flow_map.denoise(x, t, cond)
            gain, gradient = reward_gradient(tilt, clean, cond)
            return gain, expand(t**self.power, x) * gradient

        def nu(x: Tensor, t: Tensor) -> Tensor:
            return expand(1 - t, x) * (self.value.velocity(x, t, cond) - base.velocity(x, t, cond))

        gain, p_first = first(x_t, t)
        with torch.no_grad():
            p = p_first + nu(x_t, t)
            along = base.velocity(x_t, t, cond) + p
            ahead, behind = (t + self.h).clamp_max(1), (t - self.h).clamp_min(0)
            rise = (
                first(x_t + expand(ahead - t, x_t) * along, ahead)[1]
                - first(x_t + expand(behind - t, x_t) * along, behind)[1]
            ) / expand(ahead - behind, x_t)
        nu_t, d_nu = self.derivative(nu, (x_t, t), (along, torch.ones_like(t)))
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            b = base.velocity(x, t, cond)
            (carried,) = torch.autograd.grad(b, x, p_first + nu_t, create_graph=True)
        return Control(p, gain, {"value": mean_square(rise + d_nu + carried)})
