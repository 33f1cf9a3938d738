"""Flow Map Reward Guidance (FMRG): a deterministic path guided at each of a few jumps.

With u = (X_{s,t}(x) - x) / (t - s) the map's average velocity over a step and z = X_{s,1}(x) the
landing point of x,

    J (Jacobian):  y = x, then n_opt steps of ascent on scale r(X_{s,1}(y)),
                   x_t = x + (t - s) (u + y - x);
    E (endpoint):  z' = z, then n_opt steps of ascent on scale r(z'),
                   x_t = x + (t - s) u + w (z' - z).

J follows from an optimal control problem with the map's look-ahead for its value, and its gradient
passes through the map. E omits the Jacobian: only the reward is differentiated. The weight w =
alpha_t sigma_s: a clean guess that moves by d moves x_t = alpha_t x1 + sigma_t x0 by alpha_t d with
the noise as it was, on any path, and d is trusted by the share sigma_s, as FlowDPS has it (Kim et
al. 2025, arXiv 2503.08136). On the linear path w = (1 - s) t, as published.

The steps are Adam's (Kingma & Ba 2015, arXiv 1412.6980), started afresh at every jump, at rate
strength (1 - s): as in the authors' code, whose rate falls with the share of steps done. The first
moves every coordinate by the rate, along the sign of its gradient, so the scale of the reward
counts for little but its sign. Plain ascent, y + strength grad, is an option, with each sample's
gradient brought to the length of u or left as it is.

Left out: the authors' warm-up, which restarts from the best of several particles, and their noisy
variant of J.

Reference: Huang, Lin, Shah, Nair & Boffi 2026, arXiv 2604.27147.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import Cond, FlowMap
from steer.samplers.base import Result, Stepwise, unweighted_result
from steer.samplers.run import Run
from steer.samplers.training_free.guidance_schedules import of_length
from steer.tilt import Tilt, check_gradient, no_gradient
from steer.value import require_gradient

__all__ = ["FlowMapRewardGuidance"]

INSTEAD = "FkSteering or BestOfN"
Form = Literal["jacobian", "endpoint"]
STRENGTHS: dict[str, float] = {"jacobian": 2.0, "endpoint": 1.0}  # of Adam


class State(NamedTuple):
    """Samples after a step (B, *shape), and r at the landing point it set out for (B,)."""

    x: Tensor
    reward: Tensor


class FlowMapRewardGuidance(Stepwise[Tensor]):
    """FMRG in either form. A maximiser: the optimal control of one path, with no stated law.

    Args:
        steps: jumps from noise to data; of the grid, if not all of them are guided.
        form: "jacobian" or "endpoint".
        strength: t -> float or a number. Of Adam the rate at s = 0, in units of x; of plain ascent
            what a gradient of one moves by, and with `rescale` 1 is as far as the map itself goes.
            By default 2 for J and 1 for E, the best of `recipes.experiments.strengths` at 8 steps
            of Adam, for data of unit size (3 for latents in the authors' code), and 1 without Adam.
            What E adds grows with the number of steps.
        n_opt: steps of ascent at each jump.
        adam: steps by Adam; by default unless `rescale`.
        rescale: bring every sample's gradient to the length of its average velocity, and take plain
            steps.
        chord: step along u = (X_{s,1}(x) - x) / (1 - s), which is known already, instead of
            evaluating X_{s,t}(x): one evaluation less a step, exact only for straight flow lines.
        guided: how many of the steps, the first ones, are guided; one plain jump covers what is
            left. All by default.
        max_batch: as in Stepwise.

    Raises:
        ValueError: settings out of range; when called, without a reward or with one that has no
            gradient.
    """

    claim = "maximiser"
    needs_gradient = True
    deterministic = True

    def __init__(
        self,
        steps: int = 8,
        form: Form = "jacobian",
        strength: float | Callable[[float], float] | None = None,
        n_opt: int = 1,
        *,
        adam: bool | None = None,
        rescale: bool = False,
        chord: bool = False,
        guided: int | None = None,
        max_batch: int | None = None,
    ):
        super().__init__(steps, max_batch)
        if form not in get_args(Form):
            raise ValueError(f"form is one of {', '.join(get_args(Form))}; got {form!r}")
        if n_opt < 1 or (guided is not None and not 0 <= guided <= steps):
            raise ValueError(
                f"n_opt is at least 1 and guided in 0 ... steps; got n_opt={n_opt}, guided={guided}"
            )
        if adam and rescale:
            raise ValueError(
                "Adam is invariant to the length of a gradient, so rescale has no effect;"
                " give adam=False"
            )
        self.form = form
        self.n_opt = n_opt
        self.chord = chord
        self.adam = not rescale if adam is None else adam
        self.rescale = rescale
        self.strength = (STRENGTHS[form] if self.adam else 1.0) if strength is None else strength
        self.guided = steps if guided is None else guided

    def times(self) -> list[float]:
        grid = super().times()
        return grid if self.guided == self.steps else [*grid[: self.guided + 1], 1.0]

    def start(self, run: Run, x: Float[Tensor, "b *shape"]) -> Tensor:
        require_gradient(run.require_tilt(self, "Jump"), INSTEAD)
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        tilt = run.tilt
        guided = run.steps < self.guided

        def part(x: Tensor, scale: Tensor, cond: Cond) -> State:
            if guided:
                return self.guided_step(run.flow_map, x, tilt.with_scale(scale), s, t, cond)
            x = run.flow_map(x, s, t, cond)
            return State(x, tilt.rewards(x, cond, t))

        state = run.in_batches(part, x, tilt.scale_for(len(x)))
        run.record(t=t, reward=run.by_prompt(state.reward).mean(1))
        return state.x

    def finish(self, run: Run, x: Tensor) -> Result:
        return unweighted_result(run, x)

    # --- its phases -----------------------------------------------------------------------------
    def guided_step(
        self, flow_map: FlowMap, x: Tensor, tilt: Tilt, s: float, t: float, cond: Cond
    ) -> State:
        """Takes a guided step for some of the samples."""
        jacobian = self.form == "jacobian"
        with torch.set_grad_enabled(jacobian):
            y = x.detach().requires_grad_(jacobian)
            z = flow_map.lookahead(y, s, cond)
        u = self.average_velocity(flow_map, x, z.detach(), s, t, cond)
        if jacobian:

            def land(y: Tensor) -> Tensor:
                return flow_map.lookahead(y, s, cond)

            moved, reward = self.ascend(tilt, y, z, land, u, s, cond)
            return State(x + (t - s) * (u + moved), reward)
        z = z.detach().requires_grad_()
        moved, reward = self.ascend(tilt, z, z, lambda z: z, u, s, cond)
        weight = float(flow_map.schedule(t).alpha * flow_map.schedule(s).sigma)
        return State(x + (t - s) * u + weight * moved, reward)

    def average_velocity(
        self, flow_map: FlowMap, x: Tensor, z: Tensor, s: float, t: float, cond: Cond
    ) -> Tensor:
        """Evaluates u over the step, or that to t = 1 where it is the same or stands in for it."""
        if self.chord or t == 1.0:
            return (z - x) / (1 - s)
        return (flow_map(x, s, t, cond) - x) / (t - s)

    def ascend(
        self,
        tilt: Tilt,
        y: Tensor,
        z: Tensor,
        land: Callable[[Tensor], Tensor],
        u: Tensor,
        s: float,
        cond: Cond,
    ) -> tuple[Tensor, Float[Tensor, "b"]]:
        """Takes n_opt steps of ascent from y, which lands at z; returns their sum and r(z)."""
        start = y.detach()
        first = None
        strength = float(self.strength(s) if callable(self.strength) else self.strength)
        adam = Adam(strength * (1 - s), start)
        for k in range(self.n_opt):
            with torch.enable_grad():
                if k > 0:
                    y = y.detach().requires_grad_()
                    z = land(y)
                rewards = tilt.rewards(z, cond, s)
                if not rewards.requires_grad:
                    raise ValueError(no_gradient(tilt.reward, INSTEAD))
                (gradient,) = torch.autograd.grad(tilt.scaled(rewards).sum(), y)
            check_gradient(tilt, gradient, s)
            first = rewards.detach() if first is None else first
            if self.rescale:
                gradient = of_length(u.flatten(1).norm(dim=1), gradient)
            y = y.detach() + (adam.step(gradient) if self.adam else strength * gradient)
        assert first is not None
        return y - start, first


class Adam:
    """Adam's steps of ascent, each sample by itself (Kingma & Ba 2015, arXiv 1412.6980).

    Args:
        rate: length of the first step in every coordinate.
        like: a tensor of the gradient's shape.
    """

    MEAN, SQUARE, LEAST = 0.9, 0.999, 1e-8

    def __init__(self, rate: float, like: Tensor):
        self.rate = rate
        self.taken = 0
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)

    def step(self, gradient: Tensor) -> Tensor:
        """Computes rate m / (sqrt(v) + 1e-8) with bias-corrected means m and v."""
        self.taken += 1
        self.mean = self.MEAN * self.mean + (1 - self.MEAN) * gradient
        self.square = self.SQUARE * self.square + (1 - self.SQUARE) * gradient.square()
        mean = self.mean / (1 - self.MEAN**self.taken)
        square = self.square / (1 - self.SQUARE**self.taken)
        return self.rate * mean / (square.sqrt() + self.LEAST)
