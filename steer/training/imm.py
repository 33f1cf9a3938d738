"""Inductive moment matching (IMM): the semigroup notion between laws instead of points.

Jumps from s and from a later r should give one law at t, whatever they do to a single point:

    L = MMD^2( X_{s,t}(I_s), sg X_{r,t}(I_r) ),      s < r <= t,

estimated in groups of samples that share their times, with a Laplace kernel exp(-|x - y| / (d w)), d the dimension and w =
t - s the size of the jump. The two share their noise and data (x0, x1). Zero at the flow map of the data, but not only there:
the laws are matched, so X may transport as it likes; as r nears s it stays near the identity, hence near a flow.

Reference: Zhou, Ermon & Song 2025, arXiv 2503.07565.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, Held, PairObjective, Pairs
from steer.training.consistency import Annealed, Stride


class MomentMatching(PairObjective):
    """The squared maximum mean discrepancy of each group, given to each of its samples.

    Args:
        group: samples that share their times, at least 2; times are those of the first of each. A rest that makes no whole
            group joins the last.
        stride: from s to r; half of the way to t by default.
    """

    card = Card("semigroup, of laws", "none", "the jumps from r", "2 F + 1 B")
    asks = frozenset({"data", "jumps"})

    def __init__(self, group: int = 4, stride: Stride | None = None):
        if group < 2:
            raise ValueError(f"MomentMatching compares groups of at least 2 samples; got group={group}")
        self.group, self.stride = group, stride or Annealed(every=1, stages=1)

    def __call__(
        self, student: ResidualMap, held: Held, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        if len(pairs.x1) < 2:
            raise ValueError("MomentMatching needs at least 2 samples off the diagonal; enlarge the batch")
        groups = max(len(pairs.x1) // self.group, 1)
        member = (torch.arange(len(pairs.x1), device=pairs.s.device) // self.group).clamp(max=groups - 1)
        s, t = pairs.s[member * self.group], pairs.t[member * self.group]
        pairs = pairs._replace(s=s, t=t)
        r = self.stride(s, t, pairs.step)
        one = student(pairs.at_s(student.schedule), s, t, pairs.cond)
        with torch.no_grad():
            two = held.jumps(student.schedule.interpolate(pairs.x0, pairs.x1, r), r, t, pairs.cond)
        return mmd(one, two, (t - s).float(), member)


def mmd(
    x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"], width: Float[Tensor, "b"], member: Int[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """To each sample the MMD^2 of its group: the V-statistic, which is never negative, with the group's own width."""
    x, y = x.flatten(1).float(), y.flatten(1).float()
    scale = (x.shape[1] * width.clamp(min=torch.finfo(x.dtype).eps))[:, None]
    together = (member[:, None] == member[None]).float()
    together = together / together.sum(1, keepdim=True)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, None] - b[None]).square().sum(-1)
        return torch.exp(-torch.sqrt(square + torch.finfo(a.dtype).tiny) / scale)

    return together @ (together * (kernel(x, x) + kernel(y, y) - kernel(x, y) - kernel(y, x))).sum(1)
