"""Tilt Matching: a gradient-free regression from one tilt to the next, until the whole one.

    L = E |u_{t,t}(x_t) - sg[v_a + (W - 1)(I_t' - u_{t,t})]|^2,      W = exp(h r(z)) / E exp(h r),

with z and v_a of an old copy of the map, which stands at the tilt p_a = p_1 exp(a r) / Z_a; r is
the scaled reward. Given x_t, I_t' has mean v_a under p_a and E[W I_t'] / E[W] under p_{a+h}, so

    E[W u - v_a - (W - 1) I_t' | x_t] = E[W | x_t] u - E[W I_t' | x_t]

vanishes at the velocity of p_{a+h}, for any h, and near it the target has less noise than a
weighted I_t'. Then a += h, the copy is replaced by the map, and so on to a = 1. Each increment is
chosen so that the weights e^{h r} keep a share of their effective sample size.

The explicit form, sg[v_a + h (r - E r)(I_t' - v_a)], follows d v_a / da = Cov_a(r, I_t' | x_t) in
Euler steps: its error is of order h.

Exact as each increment is learned: what a round leaves undone, the next ones keep. After the last
round the copy stays, and training goes on at a + h = 1.

Reference: Tilt Matching, 2025, arXiv 2512.21829.
"""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import Above, AtMost, Count
from steer.conditions import Cond
from steer.flow_map import FlowMap, ResidualMap
from steer.samplers import Sampler
from steer.tilt import Tilt, check_finite
from steer.training.base import mean_square
from steer.tuning.diagonal import (
    Clean,
    DiagonalTuning,
    LogMeanExp,
    Renoised,
    advantages,
    members,
)
from steer.tuning.objective import Follower, TuningClaim

__all__ = ["TiltMatching"]

WHOLE = 1 - 1e-9


class TiltMatching(DiagonalTuning):
    """Regression from the tilt of an old copy to the next one; exact, or near it if explicit.

    Takes any reward. Rewards of the same prompt are compared with each other, so prompts should
    come back within a round.

    Args:
        sampler, noisings, more: as in DiagonalTuning; it draws from the old copy. There is no
            `data`: from a = h on, the samples must be those of the copy.
        ess: share of the effective sample size that an increment keeps; small ones anneal faster,
            from fewer samples that count.
        round_steps: optimizer steps on each increment.
        explicit: the explicit form.

    Raises:
        ValueError: settings out of range; when called, a reward of -inf in the explicit form.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        noisings: Count = 4,
        *,
        ess: Annotated[float, Above(0), AtMost(0.99)] = 0.5,
        round_steps: Count = 100,
        explicit: bool = False,
        **more: Any,
    ):
        super().__init__(sampler, noisings, **more)
        if self.data is not None:
            raise ValueError(
                "TiltMatching draws its own samples at every tilt; steer.tuning.RewardWeighted"
                " takes data"
            )
        self.ess = ess
        self.round_steps = round_steps
        self.explicit = explicit
        self.log_normaliser = LogMeanExp()
        self.old: Follower | None = None
        self.a = 0.0
        self.h = 0.0
        self.recent: dict[str, list[float]] = {}

    @property
    def claim(self) -> TuningClaim:  # type: ignore[override]
        return "near" if self.explicit else "exact"

    def prepare(self, flow_map: ResidualMap, base: FlowMap, tilt: Tilt) -> None:
        super().prepare(flow_map, base, tilt)
        self.old = Follower(flow_map)

    def begin(self, flow_map: ResidualMap, step: int) -> None:
        if self.old is None or self.h == 0 or step % self.round_steps or self.a + self.h > WHOLE:
            return
        self.a += self.h
        self.h = self.increment(self.h)
        self.old.follow(flow_map, 1.0)
        self.log_normaliser = LogMeanExp()
        self.recent = {}
        self.kept = None

    def source(self, flow_map: ResidualMap, base: FlowMap) -> FlowMap:
        return base if self.old is None else self.old.map

    def collect(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        x0: Float[Tensor, "b *shape"],
        cond: Cond,
        generator: torch.Generator,
    ) -> Clean:
        clean = super().collect(flow_map, base, tilt, x0, cond, generator)
        if self.a + self.h > WHOLE:
            return clean
        for name, mine in members(clean.cond, len(clean.z), clean.z.device).items():
            values = clean.tilt[mine]
            self.recent.setdefault(name, []).extend(values[values.isfinite()].tolist())
        if self.h == 0:
            self.h = self.increment(0.0)
        return clean

    def increment(self, before: float) -> float:
        """Chooses h from the rewards of this round, whose samples the next tilts by e^{before r}.

        At most what is left to a = 1; the least of all processes.
        """
        compared = centred(list(self.recent.values()))
        h = increment_of(compared, before, self.ess, 1 - self.a)
        if torch.distributed.is_initialized():
            least = torch.tensor(h, dtype=torch.float64, device=self.device())
            torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
            h = least.item()
        return h

    def device(self) -> torch.device:
        """The device of the old copy."""
        return next(iter(self.parameters()), torch.empty(0)).device

    def residual(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        seen: Renoised,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        value = self.h * seen.clean.tilt
        u = flow_map.velocity(seen.x_t, seen.t, seen.cond)
        with torch.no_grad():
            v_a = self.source(flow_map, base).velocity(seen.x_t, seen.t, seen.cond)
            if self.explicit:
                check_finite(value, "a reward", 1.0, "leave explicit out")
                change, about = advantages(value, seen.clean.cond), v_a
            else:
                weight = torch.exp(value - self.log_normaliser(value, seen.clean.cond))
                change, about = weight - 1, u
            target = v_a + seen.shared(change) * (seen.path_velocity - about)
        reached = torch.tensor(self.a + self.h, dtype=torch.float64)
        return mean_square(u - target), {"annealed": reached}

    def get_extra_state(self) -> dict[str, Any]:
        return {"a": self.a, "h": self.h, "recent": self.recent}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.a, self.h, self.recent = state["a"], state["h"], state["recent"]


def centred(groups: list[list[float]]) -> Float[Tensor, "n"]:
    """Subtracts from each reward the mean of the others of its prompt.

    Of a prompt with one, the mean over prompts.
    """
    means = [sum(group) / len(group) for group in groups if group]
    overall = sum(means) / max(len(means), 1)
    parts = []
    for group in groups:
        n = len(group)
        rewards = torch.tensor(group, dtype=torch.float64)
        parts.append((rewards - rewards.mean()) * n / (n - 1) if n > 1 else rewards - overall)
    return torch.cat(parts)


def increment_of(r: Float[Tensor, "n"], before: float, share: float, most: float) -> float:
    """Finds the largest h <= most at which e^{h r} keeps a share of the effective sample size.

    Samples count by e^{b r}, b = before: the share is (sum e^{(b + h) r})^2 / (sum e^{b r} sum
    e^{(b + 2h) r}), which falls as h grows.
    """

    def kept(h: float) -> float:
        sums = torch.stack([torch.logsumexp((before + k * h) * r, 0) for k in (0, 1, 2)])
        return float(torch.exp(2 * sums[1] - sums[0] - sums[2]))

    if kept(most) >= share:
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) >= share else (low, middle)
    return low
