"""Inductive moment matching (IMM): the semigroup notion between laws instead of points.

Jumps from s and from a later r should give one law at t, whatever they do to a single point:

    L = MMD^2( X_{s,t}(I_s), sg X_{r,t}(I_r) ),      s < r <= t,

estimated in groups of samples that share their times (the pairs `Grouped`), with a Laplace kernel exp(-|x - y| / (d w)), d the
dimension and w = t - s the size of the jump. The two share their noise and data (x0, x1). Zero at the flow map of the data,
but not only there: the laws are matched, so X may transport as it likes; as r nears s it stays near the identity, hence near a
flow.

Reference: Zhou, Ermon & Song 2025, arXiv 2503.07565.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, Held, PairObjective, Pairs
from steer.training.consistency import AnnealedStride, Stride


class MomentMatching(PairObjective):
    """The squared maximum mean discrepancy of each group, given to each of its samples.

    Args:
        group: samples side by side that share their times, at least 2.
        stride: from s to r; half of the way to t by default.

    Raises:
        ValueError: when called on samples that are not whole groups, or whose times differ.
    """

    card = Card("semigroup, of laws", "none", "the jumps from r", "2 F + 1 B")
    asks = frozenset({"data", "jumps"})

    def __init__(self, group: int = 4, stride: Stride | None = None):
        if group < 2:
            raise ValueError(f"MomentMatching compares groups of at least 2 samples; got group={group}")
        self.group, self.stride = group, stride or AnnealedStride(every=1, stages=1)

    def __call__(
        self, student: ResidualMap, held: Held, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t = pairs.s, pairs.t
        if len(s) % self.group or any(
            (time != time[:: self.group].repeat_interleave(self.group)).any() for time in (s, t)
        ):
            raise ValueError(
                f"MomentMatching needs whole groups of {self.group} with times in common, got {len(s)} samples: let"
                f" Joint have pairs=Grouped({self.group}) and a batch that {self.group} divides"
            )
        r = self.stride(s, t, pairs.step)
        one = student(pairs.at_s(student.schedule), s, t, pairs.cond)
        with torch.no_grad():
            two = held.jumps(student.schedule.interpolate(pairs.x0, pairs.x1, r), r, t, pairs.cond)
        x, y = (part.flatten(1).float().unflatten(0, (-1, self.group)) for part in (one, two))
        return mmd(x, y, (t - s)[:: self.group].float()).repeat_interleave(self.group)


def mmd(x: Float[Tensor, "g n d"], y: Float[Tensor, "g n d"], width: Float[Tensor, "g"]) -> Float[Tensor, "g"]:
    """MMD^2 of each group's two samples: the V-statistic, which is never negative."""
    scale = (x.shape[2] * width.clamp(min=torch.finfo(x.dtype).eps))[:, None, None]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, :, None] - b[:, None]).square().sum(-1)
        return torch.exp(-torch.sqrt(square + torch.finfo(a.dtype).tiny) / scale).mean((1, 2))

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
