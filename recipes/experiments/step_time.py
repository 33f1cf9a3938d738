"""The cost of a training step: beyond its passes through the network, and against flow matching.

    python -m recipes.experiments.step_time      # ten minutes on one core

Overhead: a step of the map's training after its warm-up (data, loop, clipping, optimiser, average
and log: all that Lightning does in it), over the passes through the network that it needs,
interleaved in one process. Cost: each method's loss and gradient, as `named` builds it, over flow
matching's on the same batch, interleaved.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, short, table
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import CsvLog, Ema, MapTraining, quiet
from steer.networks import ClassCondition, Mlp, UNet
from steer.training import METHODS, FlowMatching, Joint, Lagrangian, Objective, named

BATCH = 64
SHARE = 0.75
STEPS = 30
ROUNDS = 7
Batch = tuple[Tensor, Tensor]


class Noise(StreamData):
    """Labelled images of noise, on which a step costs the same as on any others."""

    def draw(self, generator: torch.Generator) -> Batch:
        images = torch.randn(self.batch_size, 1, 28, 28, generator=generator)
        return images, torch.randint(10, (self.batch_size,), generator=generator)


def image_map() -> ResidualMap:
    """The network of fashion/train."""
    torch.manual_seed(0)
    return ResidualMap(
        UNet(1, (48, 96), blocks=1, patch=2, condition=ClassCondition(10, 192)), Linear()
    )


def plane_map() -> ResidualMap:
    """The network of checkerboard/velocity."""
    torch.manual_seed(0)
    return ResidualMap(Mlp(2, width=256, depth=4, frequencies=4), Linear())


def bare(flow_map: ResidualMap, batch: Batch) -> None:
    """The passes alone of Lagrangian self-distillation on a batch.

    Forward, forward with derivative, forward, backward.
    """
    x, cond = batch
    n = round(len(x) * SHARE)
    times = torch.rand(2, len(x)).sort(dim=0).values
    s = times[0]
    t = times[1]
    network = flow_map.network
    diagonal = network(x[:n], t[:n], t[:n], cond[:n]).square().mean()
    x_s = x[n:]
    s = s[n:]
    t = t[n:]
    cond = cond[n:]
    u, d_t, *_ = torch.func.jvp(lambda t: network(x_s, s, t, cond), (t,), (torch.ones_like(t),))
    with torch.no_grad():
        b = network(x_s + u, t, t, cond)
    (diagonal + (u + d_t - b).square().mean()).backward()


class InTurn(Callback):
    """The last callback, which times what lies between two calls of another one.

    From the end of one call of `other` to the beginning of the next.
    """

    def __init__(self, other: Callable[[], None]):
        self.other = other
        self.since = 0.0
        self.pairs: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        step = time.perf_counter() - self.since
        pl_module.zero_grad(set_to_none=True)
        alone = seconds(self.other)
        self.pairs.append((step, alone))
        pl_module.zero_grad(set_to_none=True)
        self.since = time.perf_counter()


def overhead() -> dict[str, float]:
    """The time of whole steps over that of bare ones."""
    quiet()
    flow_map = image_map()
    data = Noise(BATCH)
    objective = Joint(FlowMatching(), Lagrangian(), SHARE)
    in_turn = InTurn(partial(bare, flow_map, data.draw(torch.Generator().manual_seed(0))))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=STEPS,
            gradient_clip_val=1.0,
            callbacks=[Ema(), in_turn],
            logger=CsvLog(Path(folder) / "log.csv"),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(MapTraining(flow_map, objective, drop_cond=0.3, lr=1e-3), data)
    pairs = in_turn.pairs[3:]
    whole, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(step / alone for step, alone in pairs)
    return {"step": whole, "bare": alone, "ratio": ratio}


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def step_of(
    objective: Objective, flow_map: ResidualMap, x1: Tensor, cond: Tensor | None
) -> Callable[[], None]:
    """One loss and its gradient, after all warm-ups."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(x1.shape, generator=generator)

    def step() -> None:
        objective(flow_map, x0, x1, cond, generator, 10**6).total.backward()
        flow_map.zero_grad(set_to_none=True)

    return step


def cost(name: str, flow_map: ResidualMap, x1: Tensor, cond: Tensor | None) -> float:
    """Seconds of a step of the method over those of flow matching.

    The median of interleaved ratios.
    """
    if name == "flow-matching":
        return 1.0
    objectives = (
        named(method, 6, flow_map, teacher_of(flow_map)) for method in (name, "flow-matching")
    )
    this, plain = (step_of(objective, flow_map, x1, cond) for objective in objectives)
    ratios = [seconds(this) / seconds(plain) for _ in range(ROUNDS + 1)]
    return statistics.median(ratios[1:])


def teacher_of(flow_map: ResidualMap) -> ResidualMap:
    """A teacher of the student's architecture."""
    return image_map() if isinstance(flow_map.network, UNet) else plane_map()


def plane_cost(name: str) -> float:
    """The cost in the plane, with batches of 512."""
    return cost(name, plane_map(), torch.randn(512, 2), None)


def image_cost(name: str) -> float:
    """The cost on labelled images, with batches of 64."""
    x1, cond = Noise(BATCH).draw(torch.Generator().manual_seed(0))
    return cost(name, image_map(), x1, cond)


def results(cells: Mapping[str, Any]) -> str:
    """Overhead, then the cost of each method's step over flow matching's."""
    whole = cells["overhead"]
    names = [method.name for method in METHODS]
    rows = [
        [f"`{name}`", f"{cells[f'plane {name}']:.2f}", f"{cells[f'images {name}']:.2f}"]
        for name in names
    ]
    step = f"Whole step {short(whole['step'])} s, bare passes {short(whole['bare'])} s"
    said = f"{step}: {short(whole['ratio'])} times."
    return said + "\n\n" + table(["method", "plane", "images"], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The overhead."""
    ratio = cells["overhead"]["ratio"]
    return [
        Finding(
            "A training step costs its passes",
            "1.05 of its bare passes",
            short(ratio),
            ratio <= 1.05,
        )
    ]


def main() -> None:
    kept = Cells("step_time")
    kept.get("overhead", overhead)
    for method in METHODS:
        kept.get(f"plane {method.name}", partial(plane_cost, method.name))
        kept.get(f"images {method.name}", partial(image_cost, method.name))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
