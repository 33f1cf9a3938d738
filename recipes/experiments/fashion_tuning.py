"""Tuning the untold map to one class by many objectives, each at its best settings.

    python -m recipes.experiments.fashion_tuning      # hours on one core; it goes on where it was

The reward is twice the steering classifier's log-probability of the class. All runs may spend
BUDGET forward-equivalents, a backward pass counted as two forward ones. On the way a judge of other
architecture and seed gives the held-out reward, accuracy, diversity and the Frechet distance to the
test images of the class. An ascent turns against the judge in time, so every run counts by its best
look, as an early stop by the held-out reward would have it, and the weights of that look are the
ones drawn at one jump, four and fifty steps. Learning rate, then the batch, steps and penalty of
the ascents, are chosen on bags, by the best held-out reward so far averaged over the looks of the
first half of the budget and two seeds, between neighbours that are worse; the table is of trousers,
three seeds. The figures of the told map's own samples are the level to reach.
"""

import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.evaluation.reference import ImageReference
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.fashion_steering import JUDGE_BY, STEER_BY
from recipes.experiments.findings import Finding, short, table, thousands
from recipes.experiments.tuning_runs import (
    BUDGET,
    SHAPE,
    complete,
    drawn,
    mean_and_error,
    share_of_rate,
)
from recipes.training.trainable import WithoutCondition
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer import counting
from steer.data import fashion_mnist
from steer.metrics import ClassAgreement, HeldoutReward, PairwiseDiversity
from steer.pixels import as_saved
from steer.samplers import Jump, Ode, Sampler
from steer.tilt import NonFiniteReward, Tilt
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
LOOKS = (0.0, 500.0, 1000.0, 2000.0, 3000.0, 4000.0, 6000.0, BUDGET)  # evaluations spent
CHOSEN_WITHIN = BUDGET / 2  # of a run by which a setting is chosen; the rate is even until then
SEEDS = (0, 1, 2)
CHOSEN_SEEDS = (0, 1)
LEVEL = -0.5  # of the held-out reward, to which evaluations are counted
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
RATES = (6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2, 6e-2)
BATCHES = (4, 8, 16, 32, 64)
PENALTIES = (0.0, 0.005, 0.05)
DIRECT, DRAFT, WEIGHTED = "Direct, 1 jump", "DRaFT-1", "RewardWeighted, redrawn"


@dataclass(frozen=True)
class Setting:
    """What is chosen for a method.

    Attributes:
        lr: learning rate.
        batch: samples of an update.
        steps: of its rollout.
        penalty: weight of the energy of the change.
    """

    lr: float = 2e-3
    batch: int = 32
    steps: int = 8
    penalty: float = 0.005

    def __str__(self) -> str:
        return f"lr={self.lr:g} batch={self.batch} steps={self.steps} penalty={self.penalty:g}"


def by_one_jump(setting: Setting) -> Sampler:
    """Single jumps, by which most methods are looked at."""
    return Jump(1)


@dataclass(frozen=True)
class Method:
    """An objective with its batch, what is chosen beside the rate, and what draws its samples."""

    objective: Callable[[Setting], TuningObjective]
    batch: int = 32
    chosen: Mapping[str, tuple] = field(default_factory=dict)  # its own axes, besides the rate
    sampler: Callable[[Setting], Sampler] = by_one_jump


METHODS = {
    DIRECT: Method(
        lambda now: Direct(Jumps(), penalty=now.penalty, share=0.25),
        chosen={"batch": BATCHES, "penalty": PENALTIES},
    ),
    DRAFT: Method(
        lambda now: Direct(EulerSteps(now.steps), now.penalty, consistency=0.0, share=0.25),
        chosen={"batch": BATCHES, "steps": (2, 4, 8, 16, 32), "penalty": PENALTIES},
        sampler=lambda now: Ode(now.steps),
    ),
    WEIGHTED: Method(lambda _: RewardWeighted(redrawn=32, reuse=10**6, off_weight=2.0), batch=512),
    "WassersteinTilt": Method(lambda _: WassersteinTilt()),
    "MetaFlowMap, no gradient": Method(lambda _: MetaFlowMap(gradient="never"), batch=64),
    "AdjointMatching, 20 steps": Method(lambda _: AdjointMatching(20, states=10), batch=8),
    "Direct, 4 jumps": Method(
        lambda now: Direct(Jumps(4), penalty=now.penalty, share=0.25), batch=16
    ),
    "ReinforceAdjointMatching": Method(lambda _: ReinforceAdjointMatching()),
    "DiffusionNft": Method(lambda _: DiffusionNft()),
    "FlowMapGrpo": Method(lambda _: FlowMapGrpo()),
}
ENDS: dict[str, Sampler] = {"1 jump": Jump(1), "4 jumps": Jump(4), "50 steps": Ode(50)}
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
    images = as_saved(from_signed(x))
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
        "frechet": reference().distance(images.flatten(0, 1), labels),
    }


def told(target: int) -> dict[str, dict[str, float]]:
    """The figures of the told map's own samples of a class."""
    base = steer.load("fashion")
    return {
        name: judged(drawn(base, s, torch.tensor([target])), target) for name, s in ENDS.items()
    }


def tune(method: Method, setting: Setting, target: int, seed: int, ends: bool) -> list[dict]:
    """The course of one run: points of spending with the judge's figures.

    With `ends`, it goes on to BUDGET, not just CHOSEN_WITHIN, and the point of the highest held-out
    reward also has the figures at one jump, four and fifty steps. A run whose samples or reward
    become non-finite ends there.
    """
    base: Any = steer.load("fashion")
    flow_map = copy.deepcopy(base).requires_grad_(True)
    flow_map.network = WithoutCondition(flow_map.network)
    tilt = Tilt(
        Decoded(ClassLogProbability(load_classifier(STEER_BY), target=target), from_signed), 2.0
    )
    objective = method.objective(setting)
    sampler = method.sampler(setting)
    objective.prepare(flow_map, base, tilt)
    learned = [p for m in (flow_map, objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=setting.lr)
    generator = torch.Generator().manual_seed(seed)
    before = drawn(flow_map, sampler)
    course: list[dict[str, Any]] = []
    seconds, step, spent = 0.0, 0, 0.0
    while True:
        if spent >= LOOKS[min(len(course), len(LOOKS) - 1)]:
            model = objective.product(flow_map, base)
            x = drawn(model, sampler)
            if not x.isfinite().all():
                break
            distance = float((x - before).flatten(2).norm(dim=2).mean())
            point = {"spent": spent, "seconds": seconds, "steps": step, "distance": distance}
            course += [{**point, **judged(x, target)}] * sum(
                look <= spent for look in LOOKS[len(course) :]
            )
            if ends and course[-1] is best(course):
                kept = copy.deepcopy((flow_map.state_dict(), objective.state_dict()))
        if spent >= (BUDGET if ends else CHOSEN_WITHIN):
            break
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * share_of_rate(step, spent / BUDGET)
        try:
            with counting.count() as tally:
                x0 = torch.randn(setting.batch, *SHAPE, generator=generator)
                objective.begin(flow_map, step)
                loss = objective(flow_map, base, tilt, x0, None, generator, step)
                optimizer.zero_grad()
                loss.total.backward()
        except NonFiniteReward:
            break
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step += 1
        seconds += time.perf_counter() - began
        spent += tally.forward_equivalents()
    if ends:
        flow_map.load_state_dict(kept[0])
        objective.load_state_dict(kept[1])
        model = objective.product(flow_map, base)
        best(course)["ends"] = {name: judged(drawn(model, s), target) for name, s in ENDS.items()}
    return course


def key(name: str, setting: Setting, target: int, seed: int) -> str:
    """The cell of a run."""
    return f"{name} {setting} class={target} seed={seed}"


def best(course: Sequence[dict]) -> dict:
    """The look of the highest held-out reward."""
    return max(course, key=lambda point: point["heldout"])


def merit(course: Sequence[dict]) -> float:
    """The best held-out reward so far, averaged over the looks by which a setting is chosen."""
    so_far = [
        best([p for p in course if p["spent"] <= 1.1 * look] or course[:1])["heldout"]
        for look in LOOKS[1:]
        if look <= CHOSEN_WITHIN
    ]
    return sum(so_far) / len(so_far)


def climbed(
    axis: str, values: tuple, now: Setting, merit_of: Callable[[Setting], float]
) -> Setting:
    """The setting of the highest merit along one axis, between neighbours that are worse."""
    at = values.index(getattr(now, axis))
    tried: dict[int, float] = {}
    while True:
        for i in (at, at - 1, at + 1):
            if 0 <= i < len(values) and i not in tried:
                tried[i] = merit_of(replace(now, **{axis: values[i]}))
        highest = max(tried, key=tried.__getitem__)
        if highest == at:
            return replace(now, **{axis: values[at]})
        at = highest


def chosen(name: str, run: Callable[[int, Setting], list[dict]]) -> Setting:
    """The best setting of a method on the class to choose by, one axis after the other.

    Args:
        name: of METHODS.
        run: gives the course of a seed and a setting on that class.
    """

    def merit_of(setting: Setting) -> float:
        return mean([merit(run(seed, setting)) for seed in CHOSEN_SEEDS])

    setting = Setting(batch=METHODS[name].batch)
    for axis, values in {"lr": RATES, **METHODS[name].chosen}.items():
        setting = climbed(axis, values, setting, merit_of)
    return setting


def chosen_from(cells: Mapping[str, Any], name: str) -> Setting:
    """The same from kept cells. Raises KeyError where some are missing."""
    return chosen(name, lambda seed, setting: cells[key(name, setting, CHOSEN_ON, seed)])


def setting_shown(cells: Mapping[str, Any], name: str) -> str:
    """The chosen values, and whether the rate is at an end of those allowed."""
    setting = chosen_from(cells, name)
    words = [
        f"rate {setting.lr:g}",
        *(f"{a} {getattr(setting, a):g}" for a in METHODS[name].chosen),
    ]
    if setting.lr in (RATES[0], RATES[-1]):
        words[0] += " (end of the grid)"
    return ", ".join(words)


def courses(cells: Mapping[str, Any], name: str) -> list[list[dict]]:
    """The runs of a method on the class that is shown, at its best setting."""
    setting = chosen_from(cells, name)
    return [cells[key(name, setting, SHOWN_ON, seed)] for seed in SEEDS]


def measured(cells: Mapping[str, Any]) -> list[str]:
    """The methods whose runs are complete."""
    return complete(cells, METHODS, courses)


def results(cells: Mapping[str, Any]) -> str:
    """Each method at its best look, at few and many steps, and by its spending."""
    level = cells["told"]["1 jump"]
    done = measured(cells)
    rows = [["the told map", "", "", "", *(short(level[name]) for name in WORDS), ""]]
    for name in done:
        looks = [best(course) for course in courses(cells, name)]
        rows.append(
            [
                name,
                setting_shown(cells, name),
                thousands(mean([look["spent"] for look in looks])),
                thousands(mean([look["seconds"] for look in looks])),
                *(mean_and_error([look[which] for look in looks]) for which in WORDS),
                mean_and_error([look["distance"] for look in looks], 1),
            ]
        )
    head = ["method", "setting", "evaluations", "seconds", *WORDS.values(), "distance to the base"]
    by_steps = [
        ["the told map", *(both([cells["told"][end]]) for end in ENDS)],
        *([name, *(both(at_end(courses(cells, name), end)) for end in ENDS)] for name in done),
    ]
    spent = LOOKS[1:]
    by_budget = [[name, *(at_look(courses(cells, name), look) for look in spent)] for name in done]
    return "\n\n".join(
        [
            table(head, rows),
            "The weights of the best look, drawn in few steps and in many: held-out reward, and"
            " Frechet distance in brackets.",
            table(["method", *ENDS], by_steps),
            "Best held-out reward within so many forward-equivalents:",
            table(["method", *map(thousands, spent)], by_budget),
        ]
    )


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def at_end(runs: list[list[dict]], end: str) -> list[dict]:
    """The figures of the best looks' weights by one of ENDS."""
    return [best(course)["ends"][end] for course in runs]


def both(figures: Sequence[dict]) -> str:
    """Held-out reward and Frechet distance, averaged over seeds."""
    heldout, frechet = (mean([one[which] for one in figures]) for which in ("heldout", "frechet"))
    return f"{short(heldout, 2)} ({short(frechet, 2)})"


def at_look(runs: list[list[dict]], spent: float) -> str:
    """The best held-out reward of the looks up to that spending and one update more."""
    within_it = [[p["heldout"] for p in run if p["spent"] <= 1.1 * spent] for run in runs]
    return mean_and_error([max(each) for each in within_it], 2)


def reached(course: Sequence[dict], level: float) -> float:
    """The spending at which the held-out reward is at a level, between looks; infinity if never."""
    for a, b in pairwise(course):
        if b["heldout"] >= level:
            share = (level - a["heldout"]) / (b["heldout"] - a["heldout"])
            return a["spent"] + max(share, 0.0) * (b["spent"] - a["spent"])
    return float("inf")


def diversity_at(course: Sequence[dict], level: float) -> float:
    """The diversity at which the held-out reward is at a level, between looks; 0 if never."""
    for a, b in pairwise(course):
        if b["heldout"] >= level:
            share = max((level - a["heldout"]) / (b["heldout"] - a["heldout"]), 0.0)
            return a["diversity"] + share * (b["diversity"] - a["diversity"])
    return 0.0


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """One jump against DRaFT; the weighted regression's distance and diversity against both."""
    done = measured(cells)
    runs = {name: courses(cells, name) for name in (DIRECT, DRAFT, WEIGHTED)}
    spent = {name: mean([reached(c, LEVEL) for c in runs[name]]) for name in runs}
    last = {name: {w: mean([best(c)[w] for c in runs[name]]) for w in WORDS} for name in runs}
    factor = spent[DRAFT] / spent[DIRECT] if spent[DIRECT] < float("inf") else 0.0
    matched = min(best(c)["heldout"] for name in (DRAFT, WEIGHTED) for c in runs[name])
    kept = {n: mean([diversity_at(c, matched) for c in runs[n]]) for n in (DRAFT, WEIGHTED)}
    wider = kept[WEIGHTED] / kept[DRAFT]
    return [
        Finding(
            "Objectives of tuning compared on images, each at its best settings",
            f"all {len(METHODS)}",
            f"{len(done)}",
            True if len(done) == len(METHODS) else None,
        ),
        Finding(
            f"Evaluations of the one-jump look-ahead to a held-out reward of {LEVEL}",
            "a third of DRaFT-1's, at its best number of steps",
            f"{thousands(spent[DIRECT])} against {thousands(spent[DRAFT])}",
            factor >= 3,
        ),
        Finding(
            "Frechet distance to the class, an exact tilt against the look-ahead's ascent",
            "half",
            f"{short(last[WEIGHTED]['frechet'])} against {short(last[DIRECT]['frechet'])}",
            last[WEIGHTED]["frechet"] <= 0.5 * last[DIRECT]["frechet"],
        ),
        Finding(
            "Diversity at the same held-out reward, an exact tilt against DRaFT-1",
            "1.36 times",
            f"{wider:.2f} times, at {short(matched, 2)}",
            wider >= 1.36,
        ),
    ]


def draw(cells: Mapping[str, Any]) -> None:
    """Draws held-out reward and Frechet distance against spending, and diversity against reward."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("spent", "heldout", "forward-equivalents", "held-out reward"),
        ("seconds", "heldout", "seconds", "held-out reward"),
        ("spent", "frechet", "forward-equivalents", "Frechet distance to the class"),
        ("heldout", "diversity", "held-out reward", "diversity (1 - cosine)"),
    )
    axes = figure.subplots(1, len(panels))
    for ax, (x, y, x_label, y_label) in zip(axes, panels, strict=True):
        for colour, name in enumerate(measured(cells)):
            for seed, course in enumerate(courses(cells, name)):
                ax.plot(
                    [point[x] for point in course[1:]],
                    [point[y] for point in course[1:]],
                    marker="o",
                    markersize=3,
                    color=f"C{colour}",
                    alpha=0.8,
                    label=name if seed == 0 else None,
                )
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        if x in ("spent", "seconds"):
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
    names = sys.argv[1:] or METHODS

    def run(name: str, target: int, seed: int, setting: Setting) -> list[dict]:
        ends = target == SHOWN_ON
        measure = partial(tune, METHODS[name], setting, target, seed, ends)
        return kept.get(key(name, setting, target, seed), measure)

    for name in names:
        setting = chosen(name, partial(run, name, CHOSEN_ON))
        for seed in SEEDS:
            run(name, SHOWN_ON, seed, setting)
    if names is METHODS:
        kept.prune()
    if len(measured(kept.cells)) > 2:
        print(results(kept.cells))
        draw(kept.cells)


if __name__ == "__main__":
    main()
