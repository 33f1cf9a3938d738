"""Objectives of tuning held to the tilted law in closed form: a map is tuned, and its density met.

The base is an exact flow map; what is tuned is the base plus a small network that starts at zero.
So nothing but the objective, and what the network can learn in the given steps, stands between the
tuned model and the tilted law.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from recipes.evaluation.metrics import Figures
from steer.analytic.benchmarks import World
from steer.data.stream import keyed_generator
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.loops import Cosine, Ema, RewardTuning
from steer.loops import quiet as quiet_lightning
from steer.metrics.log_density import carried, heun_steps, jumps
from steer.metrics.sliced_wasserstein import SlicedWasserstein
from steer.networks import Mlp
from steer.tilt import Tilt
from steer.tuning import TuningObjective

SHARE = 0.05  # of the base's divergence that an exact objective may leave
LEAST = 0.02  # nats that count as nothing
STEPS = 40  # of the sampler that stands for many


@dataclass(frozen=True)
class Training:
    """How a map is tuned.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per step.
        lr: peak of the learning rate, which falls as a cosine.
        width: of the network, three layers deep.
        seed: of everything.
    """

    steps: int = 1000
    batch_size: int = 256
    lr: float = 5e-3
    width: int = 64
    seed: int = 0


class Corrected(nn.Module):
    """The average velocity of a frozen map plus a network, zero at first."""

    def __init__(self, base: FlowMap, dimension: int, width: int):
        super().__init__()
        self.frozen = (base,)  # a tuple hides it from torch
        self.network = Mlp(dimension, width, 3, data_std=2.0).double()
        nn.init.zeros_(self.network.last.weight)
        nn.init.zeros_(self.network.last.bias)

    def forward(
        self, x: Float[Tensor, "b d"], s: Tensor, t: Tensor, cond: Cond = None
    ) -> Float[Tensor, "b d"]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            base = self.frozen[0].average_velocity(x, s, t)
        return base + self.network(x, s, t)


def samplers(flow_map: FlowMap) -> dict[str, list[Callable[[Tensor], Tensor]]]:
    """The samplers whose laws are looked at: name -> the maps that noise goes through."""
    return {
        "1 jump": jumps(flow_map, 1),
        "4 jumps": jumps(flow_map, 4),
        f"{STEPS} steps": heun_steps(flow_map, STEPS),
    }


def divergences(flow_map: FlowMap, world: World, n: int, seed: int) -> dict[str, Figures]:
    """KL to the tilted law in nats with its error, W1, and mean reward, for each sampler.

    Where a sampler folds, the figure for KL is below it; `folded` is the share of samples there.

    Args:
        flow_map: the model.
        world: of the tilted law.
        n: samples.
        seed: of noise and exact draws.
    """
    generator = keyed_generator("divergences", seed)
    x0 = torch.randn(n, world.dimension, generator=generator, dtype=torch.float64)
    truth = world.sample(n, generator)
    found = {}
    for name, moves in samplers(flow_map).items():
        x, log_q, _ = samples = carried(moves, x0)
        excess = log_q - world.log_density(x)
        found[name] = {
            "kl": float(excess.mean()),
            "kl_std_error": float(excess.std() / math.sqrt(n)),
            "folded": samples.folded,
            "w1": w1(x, truth),
            "reward": float(world.reward(x).mean()),
        }
    return found


def w1(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """W1 of two sets of samples; sliced in more than one dimension."""
    metric = SlicedWasserstein(p=1)
    metric.update(x, real=False)
    metric.update(y, real=True)
    return float(metric.compute())


def tuned(
    objective: TuningObjective, world: World, training: Training
) -> tuple[FlowMap, RewardTuning, float]:
    """Tunes a map in a world; returns the model, the loop with its counts, and the seconds."""
    quiet_lightning()
    seed_everything(training.seed, verbose=False)
    flow_map = ResidualMap(
        Corrected(world.flow_map, world.dimension, training.width), world.flow_map.schedule
    )
    loop = RewardTuning(
        flow_map,
        world.flow_map,
        Tilt(world.reward),
        objective,
        (world.dimension,),
        training.batch_size,
        lr=training.lr,
        schedule=Cosine(training.steps),
        seed=training.seed,
    )
    ema = Ema(0.98)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=training.steps,
        gradient_clip_val=1.0,
        callbacks=[ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = torch.get_default_dtype()
    start = time.perf_counter()
    torch.set_default_dtype(torch.float64)
    try:
        trainer.fit(loop)
    finally:
        torch.set_default_dtype(before)
    ema.put_on(loop)
    return loop.eval().product(), loop, time.perf_counter() - start


def held(
    objective: TuningObjective, world: World, training: Training, n: int = 2000
) -> tuple[Figures, FlowMap]:
    """Tunes a map in a world and measures it beside the base and exact draws."""
    model, loop, seconds = tuned(objective, world, training)
    generator = keyed_generator("floor", training.seed)
    floor = w1(world.sample(n, generator), world.sample(n, generator))
    found: dict[str, Any] = {
        "tuned": divergences(model, world, n, training.seed),
        "base": divergences(world.flow_map, world, n, training.seed),
        "w1_floor": floor,
        "forward_equivalents": loop.spent.forward_equivalents() / 1.0,
        "seconds": seconds,
        "claim": objective.claim,
    }
    found["verdict"] = verdict(found)
    return found, model


def verdict(found: Mapping[str, Any]) -> str:
    """Whether what claims to be exact is: "pass", "fail", or "no claim"."""
    if found["claim"] != "exact":
        return "no claim"
    after, before = (found[which][f"{STEPS} steps"] for which in ("tuned", "base"))
    allowed = max(LEAST, SHARE * before["kl"])
    near = after["kl"] < allowed + 3 * after["kl_std_error"]
    return "pass" if near and not after["folded"] else "fail"
