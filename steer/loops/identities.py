"""The residuals of the three identities of a flow map, logged while it learns."""

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from steer.conditions import pick
from steer.data.stream import keyed_generator
from steer.flow_map import ResidualMap
from steer.loops.averaging import Ema
from steer.loops.fsdp2 import draws_here
from steer.loops.pictures import evaluating
from steer.training import (
    Eulerian,
    FiniteDifference,
    Lagrangian,
    PairObjective,
    Pairs,
    Semigroup,
    SortedPair,
    Target,
)

__all__ = ["Identities"]


class Identities(Callback):
    """Logs the mean squared residuals of the three identities, every `every` steps.

    They are identity/semigroup, identity/lagrangian and identity/eulerian, of the map against
    itself, on data of the current batch at the same noise and times throughout. That X_{t,t} is the
    identity and its tangent the velocity holds by construction. A loss may rise while samples
    improve, since a self-distilled target moves; these measure how far the network is from a flow
    map. Derivatives are finite differences, which any network has.

    Args:
        every: steps between them.
        samples: how many of the batch.
        ema: whose averaged weights are measured; the raw ones without it.

    Raises:
        ValueError: every or samples below 1.
    """

    def __init__(self, every: int = 500, samples: int = 64, ema: Ema | None = None):
        if every < 1 or samples < 1:
            raise ValueError(f"every and samples are at least 1; got {every=}, {samples=}")
        self.every = every
        self.samples = samples
        self.ema = ema
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.step
        step = self.step = trainer.global_step
        if step != before and step % self.every == 0 and draws_here(trainer, pl_module):
            with (
                self.ema.applied(pl_module) if self.ema else nullcontext(),
                evaluating(pl_module),
                torch.no_grad(),
            ):
                flow_map: Any = pl_module.flow_map
                found = residuals(flow_map, self.pairs(*batch))
            named = {f"identity/{name}": value for name, value in found.items()}
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.log_metrics(named, step)

    def pairs(self, x1: torch.Tensor, cond: Any) -> Pairs:
        """Takes the first samples of a batch, with noise and times that are always the same."""
        x1 = x1[: self.samples]
        generator = keyed_generator("identities", device=x1.device)
        x0 = torch.randn(x1.shape, generator=generator, device=x1.device, dtype=x1.dtype)
        s, t = SortedPair().sample(len(x1), generator)
        return Pairs(x0, x1, s, t, pick(cond, slice(self.samples)))


@torch.no_grad()
def residuals(flow_map: ResidualMap, pairs: Pairs) -> dict[str, float]:
    """Computes the mean squared residual of each identity, averaged over the entries of x."""
    identities: dict[str, PairObjective] = {
        "semigroup": Semigroup(),
        "lagrangian": Lagrangian(FiniteDifference()),
        "eulerian": Eulerian(FiniteDifference()),
    }
    target = Target(flow_map, flow_map)
    generator = keyed_generator("identities")
    return {
        name: float(identity(flow_map, target, pairs, generator).mean())
        for name, identity in identities.items()
    }
