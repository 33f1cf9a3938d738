"""Joint: the sum L = L_diag + L_off of a self-distilled or distilled flow map.

A batch (x0, x1) comes in. A `diag_fraction` of it teaches the diagonal u_{t,t} = b_t, which needs
data (or a teacher's velocity) and nothing else; the rest teaches the jumps u_{s,t} from the
stop-gradient target.

Reference: Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825 (self-distillation).
"""

import torch
from torch import Tensor

from steer.conditions import pick
from steer.flow_map import Cond, ResidualMap
from steer.training.base import Loss, Objective, PairObjective, Pairs, Target
from steer.training.target_networks import SelfTarget, TargetNetwork
from steer.training.times import PairLaw, SortedPair
from steer.training.weightings import Plain, Weighting

__all__ = ["Joint"]


class Joint(Objective):
    """L = L_diag + L_off: the tangent from data, the rest of the map from the tangent.

    Each part is the mean over its own samples, so that `diag_fraction` moves computation, not the
    balance of the sum.

    Args:
        diagonal: what teaches the tangent; None where the jumps teach it too, as they do at s = t
            from a teacher.
        off_diagonal: what teaches the jumps; None to train the velocity alone.
        diag_fraction: part of each batch that goes to the diagonal; below 1 it leaves a sample for
            the rest, if it can.
        diag_only_steps: first steps in which the whole batch does, before the diagonal is worth
            distilling.
        pairs: law of (s, t) off the diagonal.
        velocity: the target network whose velocity the jumps should follow; the student by default.
        jumps: the target network whose jumps are assumed to be right; that of the velocity by
            default.
        weighting: of the residuals off the diagonal.
        off_weight: of their mean in the sum. Papers that take one mean over the whole batch have it
            at (1 - diag_fraction) / diag_fraction.

    Raises:
        ValueError: a diag_fraction outside (0, 1], nothing to train, or target networks and a
            diagonal of different guidance.
    """

    SETTINGS = (
        "diagonal",
        "off_diagonal",
        "diag_fraction",
        "diag_only_steps",
        "pairs",
        "velocity",
        "jumps",
        "weighting",
        "off_weight",
    )

    def __init__(
        self,
        diagonal: Objective | None,
        off_diagonal: PairObjective | None = None,
        diag_fraction: float = 0.75,
        diag_only_steps: int = 0,
        pairs: PairLaw | None = None,
        velocity: TargetNetwork | None = None,
        jumps: TargetNetwork | None = None,
        weighting: Weighting | None = None,
        off_weight: float = 1.0,
    ):
        super().__init__()
        if not 0 < diag_fraction <= 1:
            raise ValueError(
                "diag_fraction is the part of the batch on the diagonal, in (0, 1];"
                f" got diag_fraction={diag_fraction}"
            )
        if diagonal is None and (off_diagonal is None or diag_only_steps):
            raise ValueError(
                "Joint without a diagonal needs an off_diagonal and no diag_only_steps;"
                " give a diagonal"
            )
        self.diagonal = diagonal
        self.off_diagonal = off_diagonal
        self.diag_fraction = diag_fraction
        self.diag_only_steps = diag_only_steps
        self.pairs = pairs or SortedPair()
        self.weighting = weighting or Plain()
        self.off_weight = off_weight
        self.velocity = velocity or SelfTarget()
        self.jumps = jumps
        self.guidance = self.common_guidance()

    def common_guidance(self) -> float:
        """Finds the parts' common weight of guidance. Raises ValueError where they differ."""
        networks = [self.velocity, *([self.jumps] if self.jumps is not None else [])]
        given = [each.guidance for each in networks if each.guidance is not None]
        guidance = next(iter(given), 1.0) if self.diagonal is None else self.diagonal.guidance
        if any(each != guidance for each in given):
            raise ValueError(
                f"the jumps would follow a map guided by {given[-1]} and the diagonal one guided by"
                f" {guidance}; give both the same teacher, the diagonal by"
                " VelocityMatching(teacher), or leave the diagonal out (None)"
            )
        return guidance

    @property
    def learns_from(self) -> tuple[str, ...]:  # type: ignore[override]
        """The diagonal's sources, and those that the off-diagonal objective asks for."""
        found = [] if self.diagonal is None else [*self.diagonal.learns_from]
        asks = frozenset() if self.off_diagonal is None else self.off_diagonal.asks
        if "data" in asks:
            found.append("data")
        if "velocity" in asks:
            found.append(self.velocity.source)
        if "jumps" in asks:
            found.append((self.jumps or self.velocity).source)
        return tuple(dict.fromkeys(found))

    def forward(
        self,
        flow_map: ResidualMap,
        x0: Tensor,
        x1: Tensor,
        cond: Cond,
        generator: torch.Generator,
        step: int,
    ) -> Loss:
        n = self.diagonal_size(len(x1), step)
        loss = Loss(x1.new_zeros(()), {})
        if self.diagonal is not None:
            first = pick(cond, slice(n))
            loss = self.diagonal(flow_map, x0[:n], x1[:n], first, generator, step)
        if n == len(x1) or self.off_diagonal is None:
            # DDP wants every weight in every loss
            idle = sum(p.sum() for p in self.weighting.parameters())
            return loss._replace(total=loss.total + 0 * idle)
        s, t = self.pairs.sample(len(x1) - n, generator)
        pairs = Pairs(x0[n:], x1[n:], s, t, pick(cond, slice(n, None)), step)
        target = self.target(flow_map, pairs)
        residual = self.off_diagonal(flow_map, target, pairs, generator)
        weighted = self.weighting(residual, s, t).mean()
        off = Loss.of(self.off_diagonal, weighted, "off_diagonal", residual, s, t)
        return loss.plus(off, self.off_weight)

    def target(self, flow_map: ResidualMap, pairs: Pairs) -> Target:
        """Builds the target of a batch from the target networks, and checks that they fit it."""
        jumps = self.jumps or self.velocity
        target = Target(self.velocity(flow_map, pairs.step), jumps(flow_map, pairs.step))
        for network in (self.velocity, jumps):
            network.check(pairs.x1, pairs.cond)
        return target

    def diagonal_size(self, batch: int, step: int) -> int:
        """Counts the samples of the batch that go to the diagonal at this step."""
        if self.diagonal is None:
            return 0
        if self.off_diagonal is None or step < self.diag_only_steps or self.diag_fraction == 1:
            return batch
        return min(max(round(batch * self.diag_fraction), 1), max(batch - 1, 1))
