"""The tilt on images against its known answer: importance sampling of the base's own draws.

    python -m recipes.experiments.fashion_importance      # a quarter of an hour on one core

The untold map tilted by log p(class | x) at scale 1 is a law that needs no method: its own draws,
resampled in proportion to p(class | x), follow it, and a tenth of them is kept; log Z is the log of
the mean of p(class | x). Samplers and tuned maps are held to it: by the Frechet distance in the
judge's features (beside that of a second such reference), by how often the judge sees the class,
and by log Z.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import steer
from recipes.experiments.cells import Cells
from recipes.experiments.fashion_steering import JUDGE_BY, STEER_BY
from recipes.experiments.findings import Finding, short, table
from recipes.training.trainable import WithoutCondition
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer.flow_map import FlowMap
from steer.guidance import Unconditional
from steer.lookahead import MapJump
from steer.metrics import FrechetDistance
from steer.resampling import unweighted
from steer.samplers import Jump, Sampler, TrajectoryTilting, UnguidedTilting
from steer.tilt import Tilt
from steer.tuning import RewardWeighted

TARGET = 1  # trouser
DRAWS = 2500  # of a reference, of which about a tenth counts
KEPT = 200
PROMPTS, PARTICLES, STEPS = 5, 80, 20
JUMPS = Jump(4, max_batch=250)
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "SMC without guidance": lambda: UnguidedTilting(STEPS, MapJump(), max_batch=200),
    "trajectory tilting": lambda: TrajectoryTilting(STEPS, MapJump(), max_batch=200),
}
ROWS = ("importance sampling, again", "the told map", *SAMPLERS, "tuned by RewardWeighted")


def tilt() -> Tilt:
    """log p(class | x) at scale 1."""
    reward = ClassLogProbability(load_classifier(STEER_BY), target=TARGET)
    return Tilt(Decoded(reward, from_signed))


def noise(n: int, seed: int) -> Tensor:
    """Noise of n images."""
    return torch.randn(1, n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


@cache
def importance(seed: int) -> tuple[Tensor, float, float]:
    """KEPT samples of the tilted law, the estimate of log Z, and the effective sample size."""
    with torch.no_grad():
        x = JUMPS(steer.load("fashion"), noise(DRAWS, seed)).x
        log_w = torch.cat([tilt()(part, None, 1.0) for part in x[0].split(250)])[None]
    kept = unweighted(log_w, KEPT, torch.Generator().manual_seed(seed))
    log_z = float(torch.logsumexp(log_w, 1)) - math.log(DRAWS)
    w = log_w.softmax(1)
    return x[0][kept[0]], log_z, float(1 / w.square().sum())


def beside(x: Tensor, log_z: float | None, **more: float) -> dict[str, float | None]:
    """The figures of samples (KEPT, *shape) beside the first reference."""
    judge = load_classifier(JUDGE_BY)
    images = from_signed(x).clamp(0, 1)
    metric = FrechetDistance(judge.features, judge.width)
    metric.update(from_signed(importance(0)[0]).clamp(0, 1), real=True)
    metric.update(images, real=False)
    with torch.no_grad():
        share = float((judge(images).argmax(1) == TARGET).double().mean())
    return {"frechet": float(metric.compute()), "share": share, "log_z": log_z, **more}


def tuned() -> FlowMap:
    """The untold map tuned to the tilt."""
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    flow_map.network = WithoutCondition(flow_map.network)
    objective = RewardWeighted(JUMPS, redrawn=32, reuse=10**6, off_weight=2.0)
    objective.prepare(flow_map, base, tilt())
    optimizer = torch.optim.Adam(flow_map.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        x0 = noise(1000, 7)[0]
        loss = objective(flow_map, base, tilt(), x0, None, generator, step)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(flow_map.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return flow_map


def measure(name: str) -> dict[str, float | None]:
    """One row."""
    base = steer.load("fashion")
    if name == "importance sampling, again":
        x, log_z, ess = importance(1)
        return beside(x, log_z, ess=ess)
    if name == "the told map":
        return beside(JUMPS(base, noise(KEPT, 3), None, torch.tensor([TARGET])).x[0], None)
    if name in SAMPLERS:
        generator = torch.Generator().manual_seed(4)
        x0 = torch.randn(PROMPTS, PARTICLES, 1, 28, 28, generator=generator)
        result = SAMPLERS[name]()(Unconditional(base), x0, tilt(), None, generator)
        assert result.log_z is not None
        kept = result.resampled(KEPT // PROMPTS, generator).flatten(0, 1)
        error = float(result.log_z.std() / PROMPTS**0.5)
        return beside(kept, float(result.log_z.mean()), log_z_error=error)
    return beside(JUMPS(tuned(), noise(KEPT, 5)).x[0], None)


def results(cells: Mapping[str, Any]) -> str:
    """A row for each way to the tilted law."""
    rows = []
    for name in ROWS:
        cell = cells[name]
        log_z = "" if cell["log_z"] is None else short(cell["log_z"])
        if "log_z_error" in cell:
            log_z += f" ± {short(cell['log_z_error'])}"
        rows.append([name, short(cell["frechet"]), short(cell["share"]), log_z])
    reference = cells["reference"]
    rows.insert(
        0, ["importance sampling", "", short(reference["share"]), short(reference["log_z"])]
    )
    return table(["", "Frechet distance", "judged of the class", "log Z"], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The worst of samplers and tuned maps."""
    floor = cells[ROWS[0]]["frechet"]
    worst = max((name for name in ROWS[2:]), key=lambda name: cells[name]["frechet"])
    factor = cells[worst]["frechet"] / floor
    return [
        Finding(
            "Samplers and a tuned map on images draw what importance sampling does",
            "Frechet distance at most twice that of a second reference",
            f"at most {factor:.1f} times ({worst})",
            factor <= 2,
        )
    ]


def reference() -> dict[str, float | None]:
    """The first reference's own figures."""
    x, log_z, ess = importance(0)
    return beside(x, log_z, ess=ess)


def main() -> None:
    kept = Cells("fashion_importance", WEIGHTS)
    kept.get("reference", reference)
    for name in ROWS:
        kept.get(name, partial(measure, name))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
