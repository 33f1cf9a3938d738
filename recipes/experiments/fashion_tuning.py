"""Tuning the unconditional map to one class: the one-jump look-ahead against DRaFT-K on 50 steps.

    python -m recipes.experiments.fashion_tuning      # about half an hour on one core

Each method ascends the log-probability of "bag" under the steering classifier from the shipped map,
with the same penalty and each learning rate of RATES; each is compared at its best rate. During
tuning, samples of its own sampler (one jump, or 50 Euler steps) are judged by a classifier of
different architecture and seed. Shown: judge's accuracy, diversity and distance to the base against
evaluations and seconds; and the tuned map under other samplers.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.fashion_steering import JUDGE_BY, STEER_BY
from recipes.experiments.findings import Finding, short, table, thousands
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer import counting
from steer.flow_map import FlowMap
from steer.metrics import ClassAgreement, PairwiseDiversity
from steer.samplers import Jump, Ode, Sampler
from steer.tilt import Tilt
from steer.tuning import Direct
from steer.tuning.rollouts import EulerSteps, Jumps

TARGET = 8
BATCH = 32
SAMPLES = 128
PENALTY = 0.0005
RATES = (3e-4, 1e-3, 3e-3)
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
DRAFT = "DRaFT-10 of 50 steps"
LEVELS = (0.8, 0.9, 0.95)
ENDS = ("1 jump", "4 jumps", "50 steps")
CLOSELY = 8  # updates after each of which the judge looks; later every few


@dataclass(frozen=True)
class Method:
    """A tuning method.

    Its objective, the sampler of its judged samples, the number of updates, and how many lie
    between late evaluations.
    """

    objective: Direct
    sampler: Sampler
    updates: int
    every: int


METHODS = {
    "one-jump look-ahead": Method(Direct(Jumps(), PENALTY, share=0.25), Jump(1), 60, 5),
    "one jump, all regularised": Method(Direct(Jumps(), PENALTY), Jump(1), 100, 10),
    "DRaFT-1 of 50 steps": Method(
        Direct(EulerSteps(50), PENALTY, consistency=0.0, share=0.25), Ode(50), 60, 10
    ),
    "DRaFT-10 of 50 steps": Method(
        Direct(EulerSteps(50, last=10), PENALTY, consistency=0.0, share=0.25), Ode(50), 40, 5
    ),
}


def judge(
    flow_map: FlowMap, sampler: Sampler, base: torch.Tensor | None
) -> tuple[dict, torch.Tensor]:
    """Accuracy and diversity by the judge, and the mean distance to the base's samples.

    The base's samples are from the same noise.
    """
    network = load_classifier(JUDGE_BY)
    x0 = torch.randn(1, SAMPLES, 1, 28, 28, generator=torch.Generator().manual_seed(99))
    x = sampler(flow_map, x0, generator=torch.Generator().manual_seed(99)).x
    accuracy = ClassAgreement(network)
    diversity = PairwiseDiversity(network.features)
    accuracy.update(from_signed(x), torch.tensor([TARGET]))
    diversity.update(from_signed(x))
    distance = 0.0 if base is None else float((x - base).flatten(2).norm(dim=2).mean())
    figures = {
        "accuracy": float(accuracy.compute().mean),
        "diversity": float(diversity.compute()),
        "distance": distance,
    }
    return figures, x


def tune(method: Method, lr: float) -> list[dict]:
    """The course of one tuning, and the tuned map under other samplers."""
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    reward = Decoded(ClassLogProbability(load_classifier(STEER_BY), target=TARGET), from_signed)
    tilt = Tilt(reward)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(flow_map.parameters(), lr=lr)
    first, base_x = judge(flow_map, method.sampler, None)
    course = [{**first, "evaluations": 0.0, "backwards": 0.0, "seconds": 0.0}]
    seconds = 0.0
    with counting.count() as tally:
        for update in range(1, method.updates + 1):
            start = time.perf_counter()
            x0 = torch.randn(BATCH, 1, 28, 28, generator=generator)
            loss = method.objective(flow_map, base, tilt, x0, None, generator, update - 1)
            optimizer.zero_grad()
            loss.total.backward()
            torch.nn.utils.clip_grad_norm_(flow_map.parameters(), 1.0)
            optimizer.step()
            seconds += time.perf_counter() - start
            if update <= CLOSELY or update % method.every == 0:
                spent = (tally.forward_equivalents(), tally.network_backward)
                kept = dict(vars(tally))
                figures, _ = judge(flow_map.eval(), method.sampler, base_x)
                vars(tally).update(kept)  # judging is not tuning
                course.append(
                    {**figures, "evaluations": spent[0], "backwards": spent[1], "seconds": seconds}
                )
                print(update, course[-1], flush=True)
    for name, other in (("1 jump", Jump(1)), ("4 jumps", Jump(4)), ("50 steps", Ode(50))):
        course[-1][name] = judge(flow_map, other, None)[0]
    return course


def reached(course: list[dict], accuracy: float) -> dict | None:
    """The first point of the course that the judge accepts."""
    return next((point for point in course if point["accuracy"] >= accuracy), None)


def draw(courses: dict[str, list[dict]]) -> None:
    """Draws accuracy against evaluations and seconds; diversity and distance against accuracy."""
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("evaluations", "accuracy", "forward-equivalents spent", "judge's accuracy"),
        ("seconds", "accuracy", "seconds of tuning", "judge's accuracy"),
        ("accuracy", "diversity", "judge's accuracy", "diversity (1 - cosine)"),
        ("accuracy", "distance", "judge's accuracy", "distance to the base"),
    )
    for ax, (x, y, x_label, y_label) in zip(figure.subplots(1, 4), panels, strict=True):
        along = x != "accuracy"  # a course in time is a line, a relation of two figures a cloud
        for name, course in courses.items():
            points = course[1:] if along else course  # the start has no place on a logarithmic axis
            line = "-" if along else "none"
            ax.plot(
                [p[x] for p in points],
                [p[y] for p in points],
                linestyle=line,
                marker="o",
                markersize=3,
                label=name,
            )
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        if along:
            ax.set_xscale("log")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(FOLDER / "fashion_tuning.png", dpi=150)


def price(course: list[dict]) -> tuple[float, float]:
    """The evaluations to 95 % of the judge, or infinity; then the final gap to it.

    Less is better.
    """
    point = reached(course, 0.95)
    return (point["evaluations"] if point else float("inf"), -max(p["accuracy"] for p in course))


def best_rate(cells: Mapping[str, Any], name: str) -> float:
    """The best learning rate of a method."""
    return min(RATES, key=lambda lr: price(cells[f"{name} lr={lr:g}"]))


def results(cells: Mapping[str, Any]) -> str:
    """The evaluations of each method until the judge accepts, and its final metrics.

    Its best rate in bold.
    """
    rows = []
    for name in METHODS:
        for lr in RATES:
            course = cells[f"{name} lr={lr:g}"]
            levels = [reached(course, level) for level in LEVELS]
            spent = ["-" if point is None else thousands(point["evaluations"]) for point in levels]
            ends = [short(course[-1][end]["accuracy"]) for end in ENDS]
            rate = f"**{lr:g}**" if lr == best_rate(cells, name) else f"{lr:g}"
            rows.append([name, rate, *spent, short(max(p["accuracy"] for p in course)), *ends])
    heads = ["method", "learning rate", *(f"{level:.0%}" for level in LEVELS), "best"]
    return table([*heads, *(f"end: {end}" for end in ENDS)], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """Look-ahead against DRaFT, each at its best rate."""
    ours, draft = (
        price(cells[f"{name} lr={best_rate(cells, name):g}"])[0]
        for name in ("one-jump look-ahead", DRAFT)
    )
    factor = draft / ours if ours < float("inf") else 0.0
    found = (
        f"{thousands(ours)} against {thousands(draft)}: {factor:.1f} times fewer"
        if factor
        else "not reached"
    )
    claim = "Tuned to a class by the look-ahead, in fewer evaluations than DRaFT-10"
    return [Finding(claim, "ten times fewer until the judge sees it in 95%", found, factor >= 10)]


def main() -> None:
    kept = Cells("fashion_tuning", WEIGHTS)
    for name, method in METHODS.items():
        for lr in RATES:
            kept.get(f"{name} lr={lr:g}", partial(tune, method, lr))
    kept.prune()
    print(results(kept.cells))
    chosen = {name: best_rate(kept.cells, name) for name in METHODS}
    draw({f"{name} (lr {lr:g})": kept.cells[f"{name} lr={lr:g}"] for name, lr in chosen.items()})


if __name__ == "__main__":
    main()
