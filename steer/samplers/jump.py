"""Few-step sampling by jumps of the flow map."""

from torch import Tensor

from steer.flow_map import FlowMap
from steer.samplers.base import Claim, Result, Run, Stepwise, importance_weighted

__all__ = ["Jump"]


class Jump(Stepwise[Tensor]):
    """k jumps of the flow map from noise to data, with or without fresh noise in between.

    Without, X_{0,t1}, X_{t1,t2}, ..., X_{.,1}: deterministic. With `renoise`, each step jumps to
    t = 1 and returns to the next time by x_t = alpha x1 + sigma e (consistency sampling: Song et
    al. 2023, arXiv 2303.01469), the grid rounded to times that the map was trained at
    (`Schedule.trained_time`). Both follow the flow's law at t = 1 if the map is exact; jumps that
    do not follow the velocity have a law of their own.

    Args:
        steps: number of jumps.
        renoise: whether to jump to the data and renoise, instead of straight on.
        max_batch: as in Stepwise.
    """

    claim = "exact"

    def __init__(self, steps: int = 1, renoise: bool = False, max_batch: int | None = None):
        super().__init__(steps, max_batch)
        self.renoise = renoise
        self.deterministic = not renoise

    def claim_on(self, flow_map: FlowMap) -> Claim:
        marginals = flow_map.score_matches_flow or not self.renoise  # what is renoised follows p_t
        return "exact" if flow_map.jumps_follow_velocity and marginals else "exact for the chain"

    def start(self, run: Run, x: Tensor) -> Tensor:
        return x

    def step(self, run: Run, x: Tensor, s: float, t: float) -> Tensor:
        if self.renoise:
            trained = run.flow_map.schedule.trained_time
            s, t = trained(s), trained(t)
        run.record(t=t)
        landing = 1.0 if self.renoise else t
        x1 = run.jump(x, s, landing)
        if landing == t:
            return x1
        return run.flow_map.schedule.interpolate(run.normal(x1), x1, t)

    def finish(self, run: Run, x: Tensor) -> Result:
        return importance_weighted(run, x)
