"""On-policy distillation: the velocities of teachers, at states that the map itself comes to.

    L = E w |u_{s,s}(x_s) - b_teacher(x_s)|^2
        + consistency E |u_{s,t} - (t - s) sg[d_s u_{s,t} + grad u_{s,t} u_{s,s}] - u_{s,s}|^2,

x_s on the map's own paths, by K jumps without gradient. Each prompt has its teacher: several maps,
each tuned to a reward of its own, become one. The second term is the Eulerian identity, with its
gradient through u_{s,t} and through the velocity: it keeps the jumps those of the velocity, and a
small weight is enough. Where both vanish the map draws what its teachers' velocities draw.

No reward is asked. A teacher's jumps need not follow its velocity; the map's will.

Reference: FlowMap-OPD, 2026, arXiv 2609.37851.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer import checkpoint
from steer.annotations import Count, NotNegative
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.interpolant import expand
from steer.maps import NoiseTilted
from steer.tilt import Tilt
from steer.training.base import Loss, mean_square
from steer.training.derivatives import Derivative, ForwardMode
from steer.training.times import Uniform
from steer.training.weightings import Plain, Weighting
from steer.tuning.diagonal import members
from steer.tuning.objective import TuningClaim, TuningObjective

__all__ = ["OnPolicyDistillation"]

EVERY = ""


class OnPolicyDistillation(TuningObjective):
    """Regression on the velocity of each prompt's teacher, at the map's own states.

    Args:
        teachers: a flow map or the name of a checkpoint (see `steer.checkpoint.load`), or several,
            by label or text; the base by default.
        jumps: K. A sample has a state in each of K equal intervals, at a uniform time in it.
        consistency: weight of the Eulerian term.
        weighting: w, of the residuals of the velocity.
        derivative: how that of the network is taken; forward mode by default.

    Raises:
        ValueError: settings out of range; a teacher on another path than the map; when called, a
            prompt without a teacher.
    """

    claim: TuningClaim = "teachers"

    def __init__(
        self,
        teachers: Mapping[str | int, FlowMap | str] | FlowMap | str | None = None,
        jumps: Count = 4,
        *,
        consistency: NotNegative = 0.01,
        weighting: Weighting | None = None,
        derivative: Derivative | None = None,
    ):
        super().__init__()
        named: Mapping[Any, Any] = teachers if isinstance(teachers, Mapping) else {EVERY: teachers}
        # a tuple hides the maps from torch
        self.given = tuple((str(name), teacher) for name, teacher in named.items())
        self.jumps = jumps
        self.consistency = consistency
        self.weighting = weighting or Plain()
        self.derivative = derivative or ForwardMode()
        self.names: tuple[str, ...] = ()

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        loaded = {
            name: checkpoint.load(teacher) if isinstance(teacher, str) else teacher or base
            for name, teacher in self.given
        }
        for name, teacher in loaded.items():
            if isinstance(teacher, NoiseTilted):
                raise ValueError(
                    f"teacher {name!r} was tuned in noise space, so that its velocity is its"
                    " base's; take one whose velocity was tuned"
                )
            if teacher.schedule != flow_map.schedule:
                raise ValueError(
                    f"teacher {name!r} is on the path {teacher.schedule} and the map on"
                    f" {flow_map.schedule}; put it on that path by steer.maps.Rescheduled"
                )
        self.names = tuple(loaded)
        self.frozen = tuple(
            teacher if teacher is base else teacher.eval().requires_grad_(False)
            for teacher in loaded.values()
        )

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
        x, s = self.states(flow_map, x0, cond, generator)
        cond = pick(cond, torch.arange(len(x0), device=x.device).repeat(self.jumps))
        v = flow_map.velocity(x, s, cond)
        residual = mean_square(v - self.taught(x, s, cond))
        total = self.weighting(residual, s, s).mean()
        terms = {"diagonal": residual.detach().mean()}
        if self.consistency > 0:
            t = torch.lerp(s, torch.ones_like(s), Uniform().sample(len(s), generator))
            off = self.eulerian(flow_map, x, v, s, t, cond)
            total = total + self.consistency * off.mean()
            terms["off_diagonal"] = off.detach().mean()
        return Loss(total, terms)

    @torch.no_grad()
    def states(
        self, flow_map: ResidualMap, x0: Tensor, cond: Cond, generator: torch.Generator
    ) -> tuple[Float[Tensor, "kb *shape"], Float[Tensor, "kb"]]:
        """Draws the states of the map's own jumps, with their times."""
        inside = Uniform().sample(self.jumps * len(x0), generator).view(self.jumps, -1)
        times = (inside + torch.arange(self.jumps, device=x0.device)[:, None]) / self.jumps
        x, s = x0, torch.zeros_like(times[0])
        states = []
        for t in times:
            x, s = flow_map(x, s, t, cond), t
            states.append(x)
        return torch.cat(states), times.flatten()

    @torch.no_grad()
    def taught(
        self, x: Float[Tensor, "n *shape"], s: Float[Tensor, "n"], cond: Cond
    ) -> Float[Tensor, "n *shape"]:
        """Computes the velocity of each state's teacher.

        Raises:
            ValueError: a condition without a teacher.
        """
        teachers = dict(zip(self.names, self.frozen, strict=True))
        if EVERY in teachers:
            return teachers[EVERY].velocity(x, s, cond)  # type: ignore[operator]
        velocity = torch.empty_like(x)
        for name, mine in members(cond, len(x), x.device).items():
            if name not in teachers:
                raise ValueError(
                    f"no teacher for the prompt {name!r}: there are teachers for"
                    f" {', '.join(teachers)}, by label or text; give one for each"
                )
            of = pick(cond, mine.nonzero()[:, 0])
            velocity[mine] = teachers[name].velocity(x[mine], s[mine], of)  # type: ignore[operator]
        return velocity

    def eulerian(
        self, flow_map: ResidualMap, x: Tensor, v: Tensor, s: Tensor, t: Tensor, cond: Cond
    ) -> Float[Tensor, "n"]:
        """Computes the squared residual of the Eulerian identity along the map's own velocity."""
        u, du = self.derivative(
            lambda x, s: flow_map.average_velocity(x, s, t, cond),
            (x, s),
            (v.detach().to(x.dtype), torch.ones_like(s)),
        )
        return mean_square(u - expand(t - s, x) * du.detach() - v)
