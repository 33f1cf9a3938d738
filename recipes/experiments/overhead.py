"""The overhead of steering and tuning beyond their evaluations, in time and in memory.

    make bench        # some minutes on one core

Time: a run of each method on the shipped map, over the part of it that is spent inside the network,
the reward and the gradients through both; the rest is the method's own. An update of a tuning
objective is timed likewise, the optimizer's step apart. Both are taken in one run, so that a busy
machine slows both alike. Memory: by how much the peak of a process rises during
sampling, by particles with `max_batch` fixed and by draws with `at_once` fixed, and without either
for comparison, and during an update of a tuning objective, by batch (Linux only).
"""

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn

import steer
from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, short, table
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer.flow_map import FlowMap
from steer.guidance import Guided, Unconditional, ValueGuidance
from steer.lookahead import Denoiser, Glass, MapJump
from steer.samplers import (
    BeamSearch,
    BestOfN,
    BestOfRounds,
    FkSteering,
    FlowMapRewardGuidance,
    Jump,
    NoiseOptimisation,
    Ode,
    RolloverBudgetForcing,
    Sampler,
    Sde,
    Svdd,
    Tempering,
    TrajectoryTilting,
    UnguidedTilting,
    ValueGuided,
    ValueSmc,
    das,
    tds,
)
from steer.samplers.training_free import dps, tfg
from steer.tilt import Tilt
from steer.tuning import (
    AdjointMatching,
    DiffusionNft,
    Direct,
    FlowMapGrpo,
    MetaFlowMap,
    ReinforceAdjointMatching,
    RewardWeighted,
    TiltMatching,
    TuningObjective,
    WassersteinTilt,
)
from steer.tuning.rollouts import EulerSteps, Jumps
from steer.value import Value

ROUNDS = 5
STEPS = 6
PROMPTS = 4
PARTICLES = 8
MEMORY = {"particles": (64, 256, 1024), "draws": (16, 64, 256)}

METHODS: dict[str, Callable[[], Sampler]] = {
    "Ode": lambda: Ode(STEPS),
    "Sde": lambda: Sde(STEPS),
    "Jump": lambda: Jump(STEPS),
    "BestOfN": lambda: BestOfN(Jump(1)),
    "BestOfRounds": lambda: BestOfRounds(3),
    "BeamSearch": lambda: BeamSearch(STEPS, 2, every=2),
    "Svdd": lambda: Svdd(STEPS, 4),
    "RolloverBudgetForcing": lambda: RolloverBudgetForcing(STEPS, 4),
    "FkSteering": lambda: FkSteering(STEPS, every=2),
    "NoiseOptimisation": lambda: NoiseOptimisation(STEPS),
    "TrajectoryTilting, map": lambda: TrajectoryTilting(STEPS, MapJump()),
    "TrajectoryTilting, denoiser": lambda: TrajectoryTilting(STEPS, Denoiser()),
    "TrajectoryTilting, tempering": lambda: TrajectoryTilting(
        STEPS, MapJump(), annealing=Tempering()
    ),
    "TrajectoryTilting, unguided": lambda: UnguidedTilting(STEPS, MapJump()),
    "tds": lambda: tds(STEPS),
    "das": lambda: das(STEPS),
    "ValueSmc, GLASS of 2 draws": lambda: ValueSmc(3, Glass(2, steps=2)),
    "ValueGuided, denoiser": lambda: ValueGuided(STEPS, Denoiser()),
    "dps": lambda: dps(STEPS),
    "tfg": lambda: tfg(3, n_mc=2),
    "FlowMapRewardGuidance": lambda: FlowMapRewardGuidance(STEPS),
    "Ode, value guidance": lambda: Ode(STEPS),
}


UPDATES: dict[str, Callable[[], TuningObjective]] = {
    "Direct": Direct,
    "DRaFT-1 of 8 steps": lambda: Direct(EulerSteps(8), consistency=0.0),
    "RewardWeighted": RewardWeighted,
    "TiltMatching": TiltMatching,
    "MetaFlowMap": lambda: MetaFlowMap(lookahead=Glass(1, steps=1)),
    "AdjointMatching, 8 steps": lambda: AdjointMatching(8, states=4),
    "ReinforceAdjointMatching": ReinforceAdjointMatching,
    "WassersteinTilt": WassersteinTilt,
    "DiffusionNft": DiffusionNft,
    "FlowMapGrpo": FlowMapGrpo,
}

KEPT: dict[str, Callable[[], TuningObjective]] = {  # whose memory grows with steps, or does not
    "Direct, 1 jump": Direct,
    "Direct, 4 jumps": lambda: Direct(Jumps(4)),
    "DRaFT-1 of 8 steps": lambda: Direct(EulerSteps(8), consistency=0.0),
    "DRaFT-1 of 32 steps": lambda: Direct(EulerSteps(32), consistency=0.0),
    "DRaFT-8 of 8 steps": lambda: Direct(EulerSteps(8, last=8), consistency=0.0),
    "AdjointMatching, 8 steps": lambda: AdjointMatching(8, states=4),
    "AdjointMatching, 32 steps": lambda: AdjointMatching(32, states=4),
    "RewardWeighted": RewardWeighted,
    "FlowMapGrpo": FlowMapGrpo,
}
BATCHES = (8, 32, 128)


class Clock:
    """Seconds inside the functions it has wrapped."""

    def __init__(self) -> None:
        self.inside = 0.0

    def of(self, function: Callable) -> Callable:
        """The function, timed."""

        @wraps(function)  # rewards are asked by their signature
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside += time.perf_counter() - start

        return timed


@contextmanager
def clocked(networks: Sequence[nn.Module], tilt: Tilt) -> Iterator[Clock]:
    """Times networks, reward and gradients in the `with`."""
    clock = Clock()
    owners: list[tuple[Any, str]] = [(network, "forward") for network in networks]
    owners += [(tilt.reward, "forward"), (torch.autograd, "grad"), (torch.autograd, "backward")]
    plain = [getattr(owner, name) for owner, name in owners]
    for (owner, name), function in zip(owners, plain, strict=True):
        setattr(owner, name, clock.of(function))
    try:
        yield clock
    finally:
        for (owner, name), function in zip(owners, plain, strict=True):
            setattr(owner, name, function)


def ask() -> tuple[FlowMap, Tilt]:
    """The shipped map, and a classifier's reward at a scale that causes some resampling."""
    reward = Decoded(ClassLogProbability(load_classifier("fashion-patch")), from_signed)
    return Unconditional(steer.load("fashion")), Tilt(reward, 3.0)


def run(name: str) -> tuple[float, float]:
    """The seconds of a run of the method, and those inside its evaluations."""
    flow_map, tilt = ask()
    model = (
        Guided(flow_map, ValueGuidance(Value(tilt, Denoiser())))
        if "value guidance" in name
        else flow_map
    )
    x0 = torch.randn(PROMPTS, PARTICLES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sampler = METHODS[name]()
    generator = torch.Generator().manual_seed(1)
    with clocked([flow_map.get_submodule("flow_map.network")], tilt) as clock:
        start = time.perf_counter()
        sampler(model, x0, tilt, torch.arange(PROMPTS), generator)
        return time.perf_counter() - start, clock.inside


def update(objective: TuningObjective, pair: tuple[Any, Any], tilt: Tilt) -> tuple[float, float]:
    """The seconds of an update's loss and gradient, and those inside its evaluations."""
    flow_map, base = pair
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(PROMPTS * PARTICLES, 1, 28, 28, generator=generator)
    labels = torch.arange(PROMPTS).repeat_interleave(PARTICLES)
    networks = [flow_map.network, base.network]
    networks += [module.map.network for module in objective.modules() if hasattr(module, "follow")]
    with clocked(networks, tilt) as clock:
        start = time.perf_counter()
        objective.begin(flow_map, 0)
        loss = objective(flow_map, base, tilt, x0, labels, generator, 0)
        loss.total.backward()
        return time.perf_counter() - start, clock.inside


def update_ratios(name: str) -> dict[str, float]:
    """Medians over the rounds, as `ratios`, of an objective told the labels."""
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    _, tilt = ask()
    objective = UPDATES[name]()
    objective.prepare(flow_map, base, tilt)
    return medians([update(objective, (flow_map, base), tilt) for _ in range(ROUNDS + 1)][1:])


def update_key(name: str) -> str:
    """The key of a cell of an update."""
    return f"update of {name}"


def rise(what: str, size: int, most: int | None) -> float:
    """MiB by which sampling raises the peak memory of this process.

    With at most so many particles or draws at once.
    """
    flow_map, tilt = ask()
    particles = size if what == "particles" else 1
    sampler = TrajectoryTilting(1, MapJump(), max_batch=most)
    if what == "draws":
        sampler = TrajectoryTilting(1, Glass(size, steps=1, at_once=most))
    x0 = torch.randn(1, particles, 1, 28, 28)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak()
    sampler(flow_map, x0, tilt, torch.arange(1))
    return peak() - before


def peak() -> float:
    """The peak memory of this process, MiB."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def rise_of_update(name: str, batch: int) -> float:
    """MiB by which an update's loss and gradient raise the peak, after one of eight samples."""
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    _, tilt = ask()
    objective = KEPT[name]()
    objective.prepare(flow_map, base, tilt)
    for n in (BATCHES[0], batch):
        generator = torch.Generator().manual_seed(0)
        x0 = torch.randn(n, 1, 28, 28, generator=generator)
        labels = torch.arange(PROMPTS).repeat_interleave(n // PROMPTS)
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        objective.begin(flow_map, 0)
        objective(flow_map, base, tilt, x0, labels, generator, 0).total.backward()
    return peak() - before


def alone(what: str, size: int, most: int | None = None) -> float:
    """The same in a separate process."""
    words = [sys.executable, "-m", "recipes.experiments.overhead", what, str(size), str(most or "")]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def ratios(name: str) -> dict[str, float]:
    """Medians over the rounds: seconds, those inside its evaluations, and their ratio."""
    return medians([run(name) for _ in range(ROUNDS + 1)][1:])


def medians(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians of seconds, those inside, and their ratio."""
    whole, inside = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"seconds": whole, "inside": inside, "ratio": statistics.median(w / i for w, i in pairs)}


def memory_key(what: str, size: int, most: int | None) -> str:
    """The key of a cell of memory."""
    return f"memory by {what}={size}, at most {most or 'all'}"


def kept_key(name: str, batch: int) -> str:
    """The key of a cell of an update's memory."""
    return f"memory of an update of {name}, batch {batch}"


def results(cells: Mapping[str, Any]) -> str:
    """Times, then memory."""
    times = [
        [name, short(cells[name]["ratio"]) if name in cells else "not measured"] for name in METHODS
    ]
    memory = [
        [f"{what}, {f'{sizes[0]} at once' if most else 'all at once'}"]
        + [f"{size}: {cells[memory_key(what, size, most)]:.0f} MiB" for size in sizes]
        for what, sizes in MEMORY.items()
        for most in (sizes[0], None)
    ]
    updates = [
        [name, short(cells[update_key(name)]["ratio"])]
        for name in UPDATES
        if update_key(name) in cells
    ]
    by_batch = [
        [name, *(f"{cells[kept_key(name, batch)]:.0f}" for batch in BATCHES)]
        for name in KEPT
        if all(kept_key(name, batch) in cells for batch in BATCHES)
    ]
    return (
        table(["method", "ratio"], times)
        + "\n\n"
        + table(["update of an objective", "ratio"], updates)
        + "\n\n"
        + table(["rise of the peak memory", "", "", ""], memory)
        + "\n\n"
        + table(["rise by an update, MiB, for a batch of", *BATCHES], by_batch)
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The largest ratio."""
    worst = max((name for name in METHODS if name in cells), key=lambda name: cells[name]["ratio"])
    found = f"at most {short(cells[worst]['ratio'])} ({worst})"
    met = cells[worst]["ratio"] <= 1.05 if all(name in cells for name in METHODS) else None
    updates = {n: cells[update_key(n)]["ratio"] for n in UPDATES if update_key(n) in cells}
    slow = max(updates, key=lambda name: updates[name]) if updates else ""
    return [
        Finding("A sampler's own time is small", "1.05 of its evaluations' time", found, met),
        Finding(
            "The own time of an update of tuning is small",
            "1.10 of its evaluations' time",
            f"at most {short(updates[slow])} ({slow})" if slow else "",
            updates[slow] <= 1.10 if len(updates) == len(UPDATES) else None,
        ),
    ]


def main() -> None:
    if len(sys.argv) == 4:
        what, size, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3] or 0) or None
        print(rise_of_update(what, size) if what in KEPT else rise(what, size, most))
        return
    kept = Cells("overhead")
    for name in METHODS:
        kept.get(name, partial(ratios, name))
    for name in UPDATES:
        kept.get(update_key(name), partial(update_ratios, name))
    for what, sizes in MEMORY.items():
        for most in (sizes[0], None):
            for size in sizes:
                kept.get(memory_key(what, size, most), partial(alone, what, size, most))
    for name in KEPT:
        for batch in BATCHES:
            kept.get(kept_key(name, batch), partial(alone, name, batch))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
