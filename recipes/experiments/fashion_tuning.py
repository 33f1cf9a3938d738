"""Tuning the untold map to one class by many objectives, each at its best learning rate.

    python -m recipes.experiments.fashion_tuning      # hours on one core; it goes on where it was

The reward is twice the steering classifier's log-probability of the class. All runs may spend
BUDGET forward-equivalents, a backward pass counted as two forward ones. On the way a judge of other
architecture and seed gives the held-out reward, accuracy, diversity and the Frechet distance to the
test images of the class. An ascent turns against the judge in time, so every run counts by its best
look, as an early stop by the held-out reward would have it. Rates are chosen so on bags; the table
is of trousers, three seeds. The figures of the told map's own samples are the level to reach.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.evaluation.reference import ImageReference
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.fashion_steering import JUDGE_BY, STEER_BY
from recipes.experiments.findings import Finding, short, table, thousands, within
from recipes.training.trainable import WithoutCondition
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer import counting
from steer.conditions import for_particles
from steer.data import fashion_mnist
from steer.flow_map import FlowMap
from steer.metrics import ClassAgreement, HeldoutReward, PairwiseDiversity
from steer.samplers import Jump, Ode, Sampler
from steer.tilt import Tilt
from steer.tuning import (
    AdjointMatching,
    DiffusionNft,
    Direct,
    FlowMapGrpo,
    MetaFlowMap,
    ReinforceAdjointMatching,
    RewardWeighted,
    TuningObjective,
    WassersteinTilt,
)
from steer.tuning.rollouts import EulerSteps, Jumps

CHOSEN_ON, SHOWN_ON = 8, 1  # bag, trouser
BUDGET = 8000.0
LOOKS = (1000.0, 2000.0, 4000.0)  # evaluations at which the judge looks, besides the end
SEEDS = (0, 1, 2)
SAMPLES = 200
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
SHAPE = (1, 28, 28)
DIRECT, DRAFT, WEIGHTED = "Direct, 1 jump", "DRaFT-1 of 8 steps", "RewardWeighted, redrawn"


@dataclass(frozen=True)
class Method:
    """An objective with its batch, the rates to choose from, and what its samples are drawn by."""

    objective: Callable[[], TuningObjective]
    batch: int = 32
    rates: tuple[float, ...] = (2e-4, 6e-4, 2e-3, 6e-3)
    sampler: Sampler = field(default_factory=lambda: Jump(1))


METHODS = {
    DIRECT: Method(lambda: Direct(Jumps(), penalty=0.005, share=0.25)),
    DRAFT: Method(
        lambda: Direct(EulerSteps(8), penalty=0.005, consistency=0.0, share=0.25), sampler=Ode(8)
    ),
    WEIGHTED: Method(lambda: RewardWeighted(redrawn=32, reuse=10**6, off_weight=2.0), batch=512),
    "WassersteinTilt": Method(lambda: WassersteinTilt()),
    "MetaFlowMap, no gradient": Method(lambda: MetaFlowMap(gradient="never"), batch=64),
    "AdjointMatching, 20 steps": Method(lambda: AdjointMatching(20, states=10), batch=8),
    "Direct, 4 jumps": Method(lambda: Direct(Jumps(4), penalty=0.005, share=0.25), batch=16),
    "ReinforceAdjointMatching": Method(lambda: ReinforceAdjointMatching()),
    "DiffusionNft": Method(lambda: DiffusionNft()),
    "FlowMapGrpo": Method(lambda: FlowMapGrpo()),
}
ENDS: dict[str, Sampler] = {"1 jump": Jump(1), "4 jumps": Jump(4), "25 steps": Ode(25)}
WORDS = {
    "heldout": "held-out reward",
    "accuracy": "judge",
    "diversity": "diversity",
    "frechet": "Frechet",
}


@cache
def reference() -> ImageReference:
    """The test images, by class."""
    judge = load_classifier(JUDGE_BY)
    return ImageReference(judge, fashion_mnist("test"), fashion_mnist("train"), of_labels=True)


def judged(x: Tensor, target: int) -> dict[str, float]:
    """The judge's figures of samples (1, N, *shape) for a class."""
    judge = load_classifier(JUDGE_BY)
    labels = torch.tensor([target])
    images = from_signed(x)
    heldout = HeldoutReward(ClassLogProbability(judge, target=target))
    accuracy = ClassAgreement(judge)
    diversity = PairwiseDiversity(judge.features)
    heldout.update(images)
    accuracy.update(images, labels)
    diversity.update(images)
    return {
        "heldout": float(heldout.compute().mean),
        "accuracy": float(accuracy.compute().mean),
        "diversity": float(diversity.compute()),
        "frechet": reference().distance(images.flatten(0, 1).clamp(0, 1), labels),
    }


def drawn(flow_map: FlowMap, sampler: Sampler, cond: Tensor | None = None) -> Tensor:
    """Samples of a map from fixed noise."""
    x0 = torch.randn(1, SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(99))
    return sampler(flow_map, x0, None, cond, torch.Generator().manual_seed(99)).x


def told(target: int) -> dict[str, dict[str, float]]:
    """The figures of the told map's own samples of a class."""
    base = steer.load("fashion")
    return {
        name: judged(drawn(base, s, torch.tensor([target])), target) for name, s in ENDS.items()
    }


def tune(method: Method, lr: float, target: int, seed: int, ends: bool) -> list[dict[str, Any]]:
    """The course of one run: points of spending with the judge's figures; the last has the ends."""
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    flow_map.network = WithoutCondition(flow_map.network)
    tilt = Tilt(
        Decoded(ClassLogProbability(load_classifier(STEER_BY), target=target), from_signed), 2.0
    )
    objective = method.objective()
    objective.prepare(flow_map, base, tilt)
    learned = [p for m in (flow_map, objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    looks = [*LOOKS, BUDGET]
    before = drawn(base, method.sampler)
    course: list[dict[str, Any]] = []
    seconds, step, spent = 0.0, 0, 0.0
    while len(course) < len(looks):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 5, max(1.0 - spent / BUDGET, 0.02) * 2)
        with counting.count() as tally:
            x0 = torch.randn(method.batch, *SHAPE, generator=generator)
            objective.begin(flow_map, step)
            loss = objective(flow_map, base, tilt, x0, for_particles(None, 1), generator, step)
            optimizer.zero_grad()
            loss.total.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step += 1
        seconds += time.perf_counter() - start
        spent += tally.forward_equivalents()
        if spent >= looks[len(course)]:
            while len(course) + 1 < len(looks) and spent >= looks[len(course) + 1]:
                looks.pop(len(course))
            model = objective.product(flow_map, base)
            x = drawn(model, method.sampler)
            distance = float((x - before).flatten(2).norm(dim=2).mean())
            point = {"spent": spent, "seconds": seconds, "steps": step, "distance": distance}
            course.append({**point, **judged(x, target)})
    if ends:
        model = objective.product(flow_map, base)
        course[-1]["ends"] = {name: judged(drawn(model, s), target) for name, s in ENDS.items()}
    return course


def key(name: str, lr: float, target: int, seed: int) -> str:
    """The cell of a run."""
    return f"{name} lr={lr:g} class={target} seed={seed}"


def best_rate(cells: Mapping[str, Any], name: str) -> float:
    """The learning rate of the best look, on the class to choose by."""
    rates = METHODS[name].rates
    return max(rates, key=lambda lr: best(cells[key(name, lr, CHOSEN_ON, 0)])["heldout"])


def best(course: list[dict]) -> dict:
    """The look of the highest held-out reward."""
    return max(course, key=lambda point: point["heldout"])


def rate_shown(cells: Mapping[str, Any], name: str) -> str:
    """The best rate, and whether it is at an end of the grid."""
    lr = best_rate(cells, name)
    ends = METHODS[name].rates[0], METHODS[name].rates[-1]
    return f"{lr:g}" + (" (end of the grid)" if lr in ends else "")


def courses(cells: Mapping[str, Any], name: str) -> list[list[dict]]:
    """The runs of a method on the class that is shown, at its best rate."""
    lr = best_rate(cells, name)
    return [cells[key(name, lr, SHOWN_ON, seed)] for seed in SEEDS]


def measured(cells: Mapping[str, Any]) -> list[str]:
    """The methods whose runs are complete."""
    found = []
    for name in METHODS:
        try:
            courses(cells, name)
        except KeyError:
            continue
        found.append(name)
    return found


def mean_and_error(values: list[float], digits: int = 3) -> str:
    """mean ± standard error over the seeds."""
    tensor = torch.tensor(values, dtype=torch.float64)
    error = tensor.std() / len(values) ** 0.5
    return within(float(tensor.mean()), float(error), digits)


def results(cells: Mapping[str, Any]) -> str:
    """A row for each method at its best look; then what was reached within so many evaluations."""
    level = cells["told"]["1 jump"]
    rows = [["the told map", "", "", "", *(short(level[name]) for name in WORDS)]]
    for name in measured(cells):
        looks = [best(course) for course in courses(cells, name)]
        rows.append(
            [
                name,
                rate_shown(cells, name),
                thousands(sum(look["spent"] for look in looks) / len(looks)),
                thousands(sum(look["steps"] for look in looks) / len(looks)),
                *(mean_and_error([look[which] for look in looks]) for which in WORDS),
            ]
        )
    head = ["method", "rate", "evaluations", "updates", *WORDS.values()]
    by_budget = [
        [name, *(at_look(courses(cells, name), spent) for spent in (*LOOKS, BUDGET))]
        for name in measured(cells)
    ]
    heads = ["method", *(f"{thousands(spent)}" for spent in (*LOOKS, BUDGET))]
    return (
        table(head, rows)
        + "\n\nBest held-out reward within so many forward-equivalents:\n\n"
        + table(heads, by_budget)
    )


def at_look(runs: list[list[dict]], spent: float) -> str:
    """The best held-out reward of the looks up to that spending and one update more."""
    slack = 1.25
    values = [[p["heldout"] for p in run if p["spent"] <= slack * spent] for run in runs]
    return mean_and_error([max(each) for each in values], 2) if all(values) else "-"


def reached(course: list[dict], level: float) -> float:
    """The spending until the held-out reward is at a level; infinity if never."""
    return next((p["spent"] for p in course if p["heldout"] >= level), float("inf"))


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """One jump against DRaFT; the weighted regression's distance and diversity against both."""
    level = -0.5
    done = measured(cells)
    names = (DIRECT, DRAFT, WEIGHTED)
    runs = {name: courses(cells, name) for name in names}
    spent = {name: sum(reached(c, level) for c in runs[name]) / len(SEEDS) for name in names}
    last = {
        name: {w: sum(best(c)[w] for c in runs[name]) / len(SEEDS) for w in WORDS} for name in names
    }
    factor = spent[DRAFT] / spent[DIRECT] if spent[DIRECT] < float("inf") else 0.0
    nearer = last[WEIGHTED]["frechet"] / last[DIRECT]["frechet"]
    ours, theirs = last[WEIGHTED]["heldout"], last[DRAFT]["heldout"]
    wider = last[WEIGHTED]["diversity"] / last[DRAFT]["diversity"]
    return [
        Finding(
            "Objectives of tuning compared on images, each at its best of three rates",
            f"all {len(METHODS)}",
            f"{len(done)}",
            True if len(done) == len(METHODS) else None,
        ),
        Finding(
            f"Evaluations of the one-jump look-ahead to a held-out reward of {level}",
            "a third of DRaFT-1's, at its best number of steps",
            f"{thousands(spent[DIRECT])} against {thousands(spent[DRAFT])}",
            factor >= 3,
        ),
        Finding(
            "Frechet distance to the class, an exact tilt against the look-ahead's ascent",
            "half",
            f"{short(last[WEIGHTED]['frechet'])} against {short(last[DIRECT]['frechet'])}",
            nearer <= 0.5,
        ),
        Finding(
            "Diversity, an exact tilt against DRaFT-1",
            "1.36 times, at the same held-out reward",
            f"{wider:.2f} times, at {ours:.2f} and {theirs:.2f}",
            wider >= 1.36 and ours >= theirs - 0.05,
        ),
    ]


def draw(cells: Mapping[str, Any]) -> None:
    """Draws held-out reward and Frechet distance against spending, and diversity against reward."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("spent", "heldout", "forward-equivalents", "held-out reward"),
        ("spent", "frechet", "forward-equivalents", "Frechet distance to the class"),
        ("heldout", "diversity", "held-out reward", "diversity (1 - cosine)"),
    )
    axes = figure.subplots(1, len(panels))
    for ax, (x, y, x_label, y_label) in zip(axes, panels, strict=True):
        for colour, name in enumerate(measured(cells)):
            for seed, course in enumerate(courses(cells, name)):
                ax.plot(
                    [point[x] for point in course],
                    [point[y] for point in course],
                    marker="o",
                    markersize=3,
                    color=f"C{colour}",
                    alpha=0.8,
                    label=name if seed == 0 else None,
                )
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        if x == "spent":
            ax.set_xscale("log")
        if y == "frechet":
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(FOLDER / "fashion_tuning.png", dpi=150)


def main() -> None:
    kept = Cells("fashion_tuning", WEIGHTS)
    kept.get("told", partial(told, SHOWN_ON))
    for name, method in METHODS.items():
        for lr in method.rates:
            kept.get(key(name, lr, CHOSEN_ON, 0), partial(tune, method, lr, CHOSEN_ON, 0, False))
        lr = best_rate(kept.cells, name)
        for seed in SEEDS:
            run = partial(tune, method, lr, SHOWN_ON, seed, True)
            kept.get(key(name, lr, SHOWN_ON, seed), run)
        draw(kept.cells)
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
