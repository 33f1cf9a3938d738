"""Tilted laws in closed form: a Gaussian mixture under a quadratic or linear reward."""

from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor

from rewards import Linear, Quadratic
from steer.analytic import GaussianMixture
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap
from steer.tilt import Tilt


class ClosedForm(NamedTuple):
    """The tilted law, and the log of its normalising constant."""

    law: GaussianMixture
    log_z: float

    def draws(self, n: int = 20_000) -> Tensor:
        """Exact samples of the tilted law, (n, d)."""
        return self.law.sample(n, keyed_generator("truth", device=self.law.means.device))


def closed_form(flow_map: FlowMap, tilt: Tilt | None) -> ClosedForm | None:
    """p_1 exp(scale r) / Z, or None where it has no closed form."""
    if tilt is None or not isinstance(flow_map, GaussianMixture) or tilt.scale.ndim > 0:
        return None
    scale = float(tilt.scale)
    reward = tilt.reward
    if isinstance(reward, Quadratic):
        law, log_z = flow_map.tilted(
            SimpleNamespace(center=reward.center, precision=scale * reward.precision)
        )
        return ClosedForm(law, float(log_z))
    if isinstance(reward, Linear):
        law, log_z = flow_map.tilted(SimpleNamespace(direction=scale * reward.direction))
        return ClosedForm(law, float(log_z) + scale * reward.offset)
    return None
