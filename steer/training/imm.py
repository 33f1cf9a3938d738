"""Inductive moment matching (IMM): the semigroup identity of distributions instead of points.

Jumps from s and from a later r should give one distribution at t, whatever they do to a point:

    L = MMD^2( X_{s,t}(I_s), sg X_{r,t}(I_r) ),      s < r <= t,

estimated in groups of samples that share their times (the pairs `Grouped`), with a Laplace kernel
exp(-|x - y| / (d w)), d the dimension and w = t - s the size of the jump. The two jumps of a sample
share its noise and data (x0, x1), so that what they have in common cancels. Different samples are
independent, so that the mean of the kernel over different samples alone,

    mean_{j != k} [ k(x_j, x_k) + k(y_j, y_k) - k(x_j, y_k) - k(y_j, x_k) ],

is L in the mean, and so is its gradient, which vanishes at the flow map of the data for any r. The
paper also counts j = k, the distance of a sample's two jumps (`paired=True`): less noisy, and
biased, since I_s and I_r lie on the line of their pair and not on one of the flow, the more so the
larger r - s and the smaller the group. L is zero at the flow map of the data, but not only there:
distributions are matched, so X may transport in any way, and with conditions only the distribution
over all of them counts. As r nears s, X_{s,t} stays near the identity, hence near a flow.

Reference: Zhou, Ermon & Song 2025, arXiv 2503.07565.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steer.flow_map import ResidualMap
from steer.training.base import Card, PairClaim, PairObjective, Pairs, Target
from steer.training.consistency import AnnealedStride, Stride

__all__ = ["MomentMatching"]


class MomentMatching(PairObjective):
    """The estimated squared maximum mean discrepancy of each group, given to each of its samples.

    Unpaired estimates may be negative, so weightings that take a power of them (`Adaptive`) do not
    fit.

    Args:
        group: samples side by side that share their times, at least 2.
        stride: from s to r; half of the way to t by default.
        paired: compare a sample's jump from s with its own from r too, as the paper does; never
            negative then.

    Raises:
        ValueError: when called on samples that are not whole groups, or whose times differ.
    """

    card = Card("semigroup, of laws", "none", "the jumps from r", "2 F + 1 B")
    asks = frozenset({"data", "jumps"})

    def __init__(self, group: int = 4, stride: Stride | None = None, paired: bool = False):
        if group < 2:
            raise ValueError(
                f"MomentMatching compares groups of at least 2 samples; got group={group}"
            )
        self.group = group
        self.stride = stride or AnnealedStride(every=1, stages=1)
        self.paired = paired

    @property
    def claim(self) -> PairClaim:  # type: ignore[override]
        """exact on average; biased if paired"""
        return "biased" if self.paired else "exact on average"

    def __call__(
        self, student: ResidualMap, target: Target, pairs: Pairs, generator: torch.Generator
    ) -> Float[Tensor, "b"]:
        s, t, cond = pairs.s, pairs.t, pairs.cond
        if len(s) % self.group or not (self.shared(s) and self.shared(t)):
            raise ValueError(
                f"MomentMatching needs whole groups of {self.group} samples with times in common;"
                f" got {len(s)} samples: give Joint pairs=Grouped({self.group}) and a batch that"
                f" {self.group} divides"
            )
        r = self.stride(s, t, pairs.step)
        one = student(pairs.at_s(student.schedule), s, t, cond)
        x_r = student.schedule.interpolate(pairs.x0, pairs.x1, r)
        with torch.no_grad():
            two = target.jumps(x_r, r, t, cond)
        dtype = torch.promote_types(one.dtype, torch.float32)
        x, y = (part.flatten(1).to(dtype).unflatten(0, (-1, self.group)) for part in (one, two))
        width = (t - s)[:: self.group].to(dtype)
        return mmd(x, y, width, self.paired).repeat_interleave(self.group)

    def shared(self, time: Tensor) -> bool:
        """Whether each group has one time."""
        return bool((time == time[:: self.group].repeat_interleave(self.group)).all())


def mmd(
    x: Float[Tensor, "g n d"],
    y: Float[Tensor, "g n d"],
    width: Float[Tensor, "g"],
    paired: bool = False,
) -> Float[Tensor, "g"]:
    """Estimates MMD^2 of each group's two samples, over different places of the groups, or all."""
    n = x.shape[1]
    scale = (x.shape[2] * width.clamp(min=torch.finfo(x.dtype).eps))[:, None, None]
    counted = torch.ones(n, n, dtype=x.dtype, device=x.device)
    if not paired:
        counted.fill_diagonal_(0)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, :, None] - b[:, None]).square().sum(-1)
        near = torch.exp(-torch.sqrt(square + torch.finfo(a.dtype).tiny) / scale)
        return (counted * near).sum((1, 2)) / counted.sum()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
