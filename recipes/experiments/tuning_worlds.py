"""Objectives of tuning in worlds whose tilted law is known: divergence, distance and cost of each.

    python -m recipes.experiments.tuning_worlds      # a minute a cell; it goes on where it was

A small network on top of an exact map is tuned by each objective, 1000 steps of 256 (see
`recipes.verification.tuned`). KL is by the exact density of the sampler. Exact objectives should
reach the tilted law, as far as the network and the training go; near ones show their bias;
transport ones and maximisers aim elsewhere, and how far from the tilt that is is shown. Where a
tuned jump is not one to one ("folds"), its KL is above the figure given. With the KL weights of the
papers, made for short runs, black-box objectives may leave the data ("diverged"); rows with a KL of
.5 stand beside them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, short, table, thousands
from recipes.verification.tuned import LEAST, SHARE, STEPS, Training, held
from steer.analytic.benchmarks import TUNING_WORLDS
from steer.lookahead import Posterior
from steer.tuning import (
    AdjointMatching,
    AdvantageWeightedMatching,
    DiffusionNft,
    Direct,
    Dpo,
    FlowMapGrpo,
    HyperNoise,
    MetaFlowMap,
    NoiseTilt,
    ReinforceAdjointMatching,
    RewardWeighted,
    TiltMatching,
    TuningObjective,
    ValueGradient,
    WassersteinTilt,
)

OBJECTIVES: dict[str, Callable[[], TuningObjective]] = {
    "RewardWeighted": RewardWeighted,
    "MetaFlowMap": lambda: MetaFlowMap(lookahead=Posterior(1)),
    "MetaFlowMap, no gradient": lambda: MetaFlowMap(gradient="never"),
    "TiltMatching": TiltMatching,
    "NoiseTilt": NoiseTilt,
    "AdjointMatching": lambda: AdjointMatching(states=8),
    "ReinforceAdjointMatching": ReinforceAdjointMatching,
    "ValueGradient, denoiser": ValueGradient,
    "Dpo": Dpo,
    "WassersteinTilt": WassersteinTilt,
    "HyperNoise": HyperNoise,
    "Direct": Direct,
    "DiffusionNft": DiffusionNft,
    "DiffusionNft, KL .5": lambda: DiffusionNft(kl=0.5),
    "AdvantageWeightedMatching": AdvantageWeightedMatching,
    "AdvantageWeightedMatching, KL .5": lambda: AdvantageWeightedMatching(kl=0.5),
    "FlowMapGrpo": FlowMapGrpo,
}
FAR = 10.0  # of W1, in worlds of radius two
SHOWN = ("line-quadratic", "ring-bump", "eight-linear")
MANY = f"{STEPS} steps"


def measure(name: str, world: str) -> dict[str, Any]:
    """One cell."""
    return held(OBJECTIVES[name](), TUNING_WORLDS[world](), Training())[0]


def key(name: str, world: str) -> str:
    """The name of a cell."""
    return f"{name} {world}"


def complete(cells: Mapping[str, Any]) -> list[str]:
    """The objectives that are measured in all worlds."""
    return [name for name in OBJECTIVES if all(key(name, world) in cells for world in SHOWN)]


def results(cells: Mapping[str, Any]) -> str:
    """A table for each world."""
    tables = []
    for world in SHOWN:
        if key("RewardWeighted", world) not in cells:
            continue
        rows = []
        for name in OBJECTIVES:
            if key(name, world) not in cells:
                continue
            cell = cells[key(name, world)]
            tuned = cell["tuned"]
            rows.append(
                [
                    name,
                    cell["claim"],
                    *(divergence(one) for one in tuned.values()),
                    *("" if diverged(one) else short(one["w1"]) for one in tuned.values()),
                    thousands(cell["forward_equivalents"]),
                    f"{cell['seconds']:.0f}",
                ]
            )
        some = cells[key("RewardWeighted", world)]
        names = list(some["tuned"])
        head = [
            "objective",
            "claim",
            *(f"KL, {name}" for name in names),
            *(f"W1, {name}" for name in names),
            "evaluations",
            "seconds",
        ]
        base = some["base"][MANY]
        caption = (
            f"**{world}**: the base is {short(base['kl'])} nats and {short(base['w1'])} away; W1 of"
            f" two sets of exact draws is {short(some['w1_floor'])}."
        )
        tables.append(f"{caption}\n\n{table(head, rows)}")
    return "\n\n".join(tables)


def diverged(one: Mapping[str, float]) -> bool:
    """Whether the samples left the region of the data altogether."""
    return not one["w1"] < FAR


def divergence(one: Mapping[str, float]) -> str:
    """KL, marked where the sampler folds, so that it is more."""
    if diverged(one):
        return "diverged"
    return f"{short(one['kl'])} (folds)" if one["folded"] else short(one["kl"])


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """How many exact objectives reach the tilted law, and the cheaper way there."""
    done = complete(cells)
    exact = [n for n in done if cells[key(n, SHOWN[0])]["claim"] == "exact"]
    passed = [
        (name, world)
        for name in exact
        for world in SHOWN
        if cells[key(name, world)]["verdict"] == "pass"
    ]
    of = len(exact) * len(SHOWN)
    meta, adjoint = (cells[key(n, SHOWN[0])] for n in ("MetaFlowMap", "AdjointMatching"))
    factor = adjoint["forward_equivalents"] / meta["forward_equivalents"]
    nearer = meta["tuned"][MANY]["kl"] <= adjoint["tuned"][MANY]["kl"] + LEAST
    return [
        Finding(
            "Objectives of tuning held to known laws",
            f"all {len(OBJECTIVES)}",
            f"{len(done)}",
            True if len(done) == len(OBJECTIVES) else None,
        ),
        Finding(
            "Exact objectives of tuning reach the tilted law",
            f"{SHARE:.0%} of the base's divergence, in all worlds",
            f"{len(passed)} of {of}",
            len(passed) == of,
        ),
        Finding(
            "Meta-flow-map tuning at Adjoint Matching's divergence",
            "ten times fewer evaluations",
            f"{factor:.1f} times fewer",
            factor >= 10 and nearer,
        ),
    ]


def main() -> None:
    kept = Cells("tuning_worlds")
    for world in SHOWN:
        for name in OBJECTIVES:
            kept.get(key(name, world), partial(measure, name, world))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
