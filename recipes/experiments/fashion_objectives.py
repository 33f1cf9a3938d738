"""Objectives for few-jump sampling on Fashion-MNIST, from one velocity, at equal cost.

    python -m recipes.experiments.fashion_objectives      # an hour on one core, resumable

A small class-conditional U-Net (half a million parameters) learns the velocity by flow matching.
From its weights, each objective then trains the jumps for the cost of STEPS steps of Lagrangian
self-distillation, by interleaved timings. Shown is the Frechet distance of 5000 samples in the
judge's features at 1, 2, 4 and 8 jumps, beside that of the first velocity's own 64-step ODE.
Self-distilled methods give half of each batch to the diagonal; those from a teacher use the first
velocity.
"""

import copy
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recipes.evaluation.reference import ImageReference
from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, short, table
from recipes.experiments.step_time import Noise, seconds, step_of
from recipes.experiments.training import train as fit
from rewards import from_signed, load_classifier
from steer.data import FashionMnist, fashion_mnist
from steer.flow_map import OdeMap, ResidualMap
from steer.interpolant import Linear
from steer.loops import Trapezoid, Warmup
from steer.networks import ClassCondition, UNet
from steer.samplers import Jump, Ode, Sampler
from steer.solvers import Heun
from steer.training import (
    FlowMatching,
    ImprovedMeanFlow,
    Joint,
    Lagrangian,
    Objective,
    Perceptual,
    Semigroup,
    TeacherTarget,
    Trajectory,
    VelocityMatching,
)

FIRST = 2000
STEPS = 1000
BATCH = 64
SAMPLES = 5000
JUMPS = (1, 2, 4, 8)
ROUNDS = 5
VELOCITY = Path("runs/figures/fashion_objectives.safetensors")
REFERENCE = "LSD: Lagrangian, itself"
WEIGHTS = ("fashion-residual", "fashion-patch")


def legs(teacher: ResidualMap) -> Objective:
    """Eight legs, each a step of Heun along the teacher's velocity."""
    short = TeacherTarget(OdeMap(teacher, teacher.schedule, steps=1, solver=Heun()))
    return Joint(VelocityMatching(copy.deepcopy(teacher)), Semigroup(legs=8), 0.125, velocity=short)


def paths(teacher: ResidualMap, metric: Perceptual | None = None) -> Objective:
    """Paths of the teacher's velocity, with or without a metric of images."""
    along = Trajectory(metric=metric, weight=0.05)
    return Joint(
        VelocityMatching(copy.deepcopy(teacher)), along, 0.125, velocity=TeacherTarget(teacher)
    )


def seen_by_a_classifier(teacher: ResidualMap) -> Objective:
    """The same with a perceptual loss of the classifier that does not judge."""
    layers = ["stem", "blocks.0", "blocks.1", "blocks.2"]
    return paths(teacher, Perceptual(load_classifier("fashion-residual"), layers, from_signed))


OBJECTIVES: dict[str, Callable[[ResidualMap], Objective]] = {
    REFERENCE: lambda teacher: Joint(FlowMatching(), Lagrangian(), 0.5),
    "PSD-M: semigroup, itself": lambda teacher: Joint(FlowMatching(), Semigroup(), 0.5),
    "iMF: Eulerian, itself": lambda teacher: Joint(FlowMatching(), ImprovedMeanFlow(), 0.5),
    "LMD: Lagrangian, a teacher": lambda teacher: Joint(
        None, Lagrangian(), velocity=TeacherTarget(teacher)
    ),
    "semigroup of 8 legs, a teacher": legs,
    "paths of 16 steps, a teacher": paths,
    "the same, with a perceptual metric": seen_by_a_classifier,
}


def untrained() -> ResidualMap:
    """A U-Net of channels (32, 64)."""
    torch.manual_seed(0)
    return ResidualMap(
        UNet(1, (32, 64), blocks=1, patch=2, condition=ClassCondition(10, 128)), Linear()
    )


def train(flow_map: ResidualMap, objective: Objective, steps: int, lr: float) -> ResidualMap:
    """The map after so many steps, with its averaged weights."""
    schedule = Warmup(100, Trapezoid(steps, steps // 2))
    return fit(
        flow_map.train(),
        objective,
        FashionMnist(BATCH),
        steps,
        lr,
        schedule,
        0.99,
        precision="bf16-mixed",
    )


def velocity() -> ResidualMap:
    """The map with only its diagonal trained, kept in a file."""
    flow_map = untrained()
    if VELOCITY.exists():
        flow_map.load_state_dict(load_file(VELOCITY))
    else:
        train(flow_map, Joint(FlowMatching()), FIRST, 1e-3)
        VELOCITY.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: weight.contiguous() for name, weight in flow_map.state_dict().items()}, VELOCITY
        )
    return flow_map.eval().requires_grad_(False)


def cost(name: str) -> float:
    """The seconds of a step over those of one of LSD: the median of interleaved ratios."""
    if name == REFERENCE:
        return 1.0
    x1, cond = Noise(BATCH).draw(torch.Generator().manual_seed(0))
    this, reference = (
        step_of(OBJECTIVES[of](untrained()), untrained(), x1, cond) for of in (name, REFERENCE)
    )
    with torch.autocast("cpu", torch.bfloat16):
        return statistics.median(
            [seconds(this) / seconds(reference) for _ in range(ROUNDS + 1)][1:]
        )


def measure(name: str, steps: int) -> dict[str, float]:
    """Frechet distances by number of jumps after so many steps."""
    teacher = velocity()
    flow_map = train(copy.deepcopy(teacher), OBJECTIVES[name](teacher), steps, 5e-4)
    return {str(jumps): distance(flow_map, Jump(jumps, max_batch=500)) for jumps in JUMPS}


def distance(flow_map: ResidualMap, sampler: Sampler) -> float:
    """Frechet distance of SAMPLES samples, as many of each class, to the test images."""
    labels = torch.arange(10)
    x0 = torch.randn(10, SAMPLES // 10, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    x = sampler(flow_map, x0, None, labels, torch.Generator().manual_seed(7)).x
    judge = load_classifier("fashion-patch")
    with torch.no_grad():
        return ImageReference(judge, fashion_mnist("test"), fashion_mnist("train")).distance(
            from_signed(x).flatten(0, 1)
        )


def affordable(cells: Mapping[str, Any], name: str) -> int:
    """The steps of the objective at the cost of STEPS steps of the reference."""
    return round(STEPS / cells[f"cost {name}"])


def results(cells: Mapping[str, Any]) -> str:
    """A row for each objective; last, the ODE of the initial velocity."""
    rows = []
    for name in OBJECTIVES:
        steps = affordable(cells, name)
        found = cells[f"{name} steps={steps}"]
        rows.append(
            [
                name,
                f"{cells[f'cost {name}']:.2f}",
                steps,
                *(short(found[str(jumps)], 4) for jumps in JUMPS),
            ]
        )
    rows.append(["the first velocity's 64-step ODE", "", "", short(cells["ode"], 4), "", "", ""])
    return table(
        [
            "objective",
            "cost of a step",
            "steps",
            *(f"{k} jumps" if k > 1 else "1 jump" for k in JUMPS),
        ],
        rows,
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """None."""
    return []


def main() -> None:
    kept = Cells("fashion_objectives", WEIGHTS)
    kept.get("ode", lambda: distance(velocity(), Ode(64, max_batch=500)))
    for name in OBJECTIVES:
        kept.get(f"cost {name}", partial(cost, name))
        steps = affordable(kept.cells, name)
        kept.get(f"{name} steps={steps}", partial(measure, name, steps))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
