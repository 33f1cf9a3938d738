"""Reward hacking on images: a run that over-optimises its classifier, and what saves it.

    python -m recipes.experiments.fashion_hacking     # an hour on one core; it goes on where it was

The untold map is tuned to one class by gradients of the steering classifier's log-probability
through one jump, at a scale of 10 and without a penalty, for 8000 forward-equivalents: many times
what it needs. The judge, of other architecture and seed, gives the held-out reward, accuracy,
diversity and the Frechet distance to the test images of the class. Then the same run with one
remedy each: a penalty on the distance to the base, an ensemble of rewards with pessimism, a
smoothed reward, a penalty in noise space (of the Kullback-Leibler divergence there, without its
volume term), low-rank adapters, a stop by the held-out reward; and, in place of the gradients, the
exact tilt by redrawn samples.

A remedy's strength is that of the highest held-out reward over the second half of a run on bags,
from a grid that is extended while the best is at its end; a strength chosen at the best look would
only say when to stop. The table is of trousers, three seeds. A further classifier, which neither
steers nor judges, says which runs have hacked: those of high tuned reward that end more than FAR
times as far from the class in its features as the told map's own samples. Against it the warnings
of `steer tune`, by the function that its report calls, are held.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from matplotlib.axes import Axes
from torch import Tensor

import steer
from recipes.evaluation.metrics import Figures, Measure
from recipes.experiments.cells import Cells
from recipes.experiments.fashion_steering import JUDGE_BY, STEER_BY
from recipes.experiments.fashion_tuning import reference
from recipes.experiments.findings import Finding, short, table
from recipes.experiments.remedies import Remedies, Remedy, draw_courses, save
from recipes.experiments.tuning_runs import (
    BUDGET,
    HELDOUT,
    SAMPLES,
    SHAPE,
    Course,
    Distance,
    Run,
    best,
    course,
    drawn,
    known,
    mean_and_error,
    result_of,
    until_stopped,
)
from rewards import (
    ClassLogProbability,
    Decoded,
    Ensemble,
    Reward,
    Smoothed,
    from_signed,
    load_classifier,
    save_classifier,
)
from rewards.networks import Classifier, ResidualClassifier
from steer.data import FashionMnist
from steer.loops import ClassifierTraining, Cosine, Ema, FlipAndShift, Warmup, quiet, to_unit
from steer.pixels import as_saved
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.tuning import Direct, HyperNoise, RewardWeighted

CHOSEN_ON, SHOWN_ON = 8, 1  # bag, trouser
SEEDS = (0, 1, 2)
SCALE = 10.0
RATE = 2e-3  # the best of Direct on bags, in fashion_tuning
SHARE = 0.25
FAR = 5.0  # times the told map's distance
SHORT_OF = 0.5  # nats below the told map's tuned reward: not tuned far enough to have hacked
WEIGHTS = ("fashion", STEER_BY, JUDGE_BY)
FURTHER = (11, 12)  # seeds of the small classifiers of the ensemble
WITNESS = 13  # of the one that says what has hacked
SMALL_WIDTH, SMALL_STEPS = 16, 400
KEPT_IN = Path("runs/figures")

STEERING = "heldout_reward_2_mean"
WITNESSED = "witness_distance"
NONE, STOPPED = "no remedy", "stop by the held-out reward"
EXACT = "the exact tilt, redrawn"
HACKED, SOUND, UNDER = "hacked", "sound", "not there"


# --- classifiers --------------------------------------------------------------------------------
@cache
def small_classifier(seed: int) -> Classifier:
    """A small classifier of that seed, trained for a minute on first use and then kept."""
    path = KEPT_IN / f"residual-{SMALL_WIDTH}-{SMALL_STEPS}-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        network = ResidualClassifier(width=SMALL_WIDTH)
        quiet()
        loop = ClassifierTraining(
            network,
            classes=10,
            label_smoothing=0.05,
            augmentation=FlipAndShift(2),
            prepare=to_unit,
            lr=3e-3,
            weight_decay=0.01,
            schedule=Warmup(50, then=Cosine(SMALL_STEPS)),
            seed=seed,
        )
        ema = Ema(0.98)
        Trainer(
            max_steps=SMALL_STEPS,
            limit_val_batches=0,
            callbacks=[ema],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        ).fit(loop, FashionMnist(128, seed))
        ema.put_on(loop)
        save_classifier(path, network, {"seed": seed, "steps": SMALL_STEPS})
    return load_classifier(path)


def log_probability(classifier: Classifier, target: int) -> Reward:
    """The classifier's log-probability of a class, of samples in [-1, 1]."""
    return Decoded(ClassLogProbability(classifier, target=target), from_signed)


def steering(target: int) -> Reward:
    """The reward that is tuned to."""
    return log_probability(load_classifier(STEER_BY), target)


def measure_of(target: int, own: Reward) -> Callable[[Tensor], Figures]:
    """The figures of samples: those of `steer tune`, and the witness's."""
    judge, witness = load_classifier(JUDGE_BY), small_classifier(WITNESS)
    heldout = (log_probability(judge, target), steering(target), log_probability(witness, target))
    measure = Measure(own, heldout, judge, from_signed, torch.tensor([target]))
    images, labels = reference().test
    real = images[labels == target] / 255
    distance, witnessed = Distance(judge, real), Distance(witness, real)

    def measured(x: Tensor) -> Figures:
        seen = as_saved(from_signed(x))[0]
        return {
            **known(measure(result_of(x))),
            "frechet_distance": distance(seen),
            WITNESSED: witnessed(seen),
        }

    return measured


# --- remedies -----------------------------------------------------------------------------------
def direct(target: int, reward: Reward, penalty: float = 0.0, rank: int | None = None) -> Run:
    """Gradients of a reward through one jump."""
    objective = Direct(penalty=penalty, share=SHARE)
    return Run(objective, Tilt(reward, SCALE), RATE, rank=rank)


def unremedied(strength: float, target: int) -> Run:
    """The run that is pushed too far."""
    return direct(target, steering(target))


def penalised(penalty: float, target: int) -> Run:
    """With a penalty on the summed squared distance to the base's samples."""
    return direct(target, steering(target), penalty)


def of_ensemble(pessimism: float, target: int) -> Run:
    """To the mean of three classifiers, less their disagreement."""
    parts = [steering(target), *(log_probability(small_classifier(k), target) for k in FURTHER)]
    return direct(target, Ensemble(parts, pessimism))


def smoothed(noise: float, target: int) -> Run:
    """To the reward of shifted images with noise."""
    bare = ClassLogProbability(load_classifier(STEER_BY), target=target)
    return direct(target, Decoded(Smoothed(bare, noise, shift=2, views=4), from_signed))


def in_noise(scale: float, target: int) -> Run:
    """By moving the noise of the frozen base, at half the squared distance in nats."""
    return Run(HyperNoise(), Tilt(steering(target), scale), NOISE_RATE)


def low_rank(rank: float, target: int) -> Run:
    """By low-rank adapters."""
    return direct(target, steering(target), rank=int(rank))


def redrawn(scale: float, target: int) -> Run:
    """By samples of the base, redrawn in proportion to exp(scale r)."""
    objective = RewardWeighted(redrawn=32, reuse=10**6, off_weight=2.0)
    return Run(objective, Tilt(steering(target), scale), RATE, batch=512)


NOISE_RATE = 6e-4
REMEDIES = {
    NONE: Remedy(unremedied, "", (1.0,), (1.0, 1.0)),
    "penalty on the distance": Remedy(penalised, "penalty", (0.01, 0.03, 0.09), (1e-3, 1.0)),
    "ensemble of three": Remedy(of_ensemble, "pessimism", (0.5, 1.0, 2.0), (0.1, 16.0)),
    "smoothed reward": Remedy(smoothed, "noise", (0.15, 0.3, 0.6), (0.05, 2.5)),
    "KL in noise space": Remedy(in_noise, "scale", (3.0, 10.0, 30.0), (0.3, 300.0)),
    "low-rank adapters": Remedy(low_rank, "rank", (2.0, 8.0, 32.0), (1.0, 64.0)),
    EXACT: Remedy(redrawn, "scale", (1.0, 2.0, 4.0), (0.25, 16.0)),
}


def tune(name: str, strength: float, target: int, seed: int) -> Course:
    """The course of one run."""
    run = REMEDIES[name].run(strength, target)
    pictures = target == SHOWN_ON and seed == SEEDS[0]
    return course(run, measure_of(target, run.tilt.reward), seed, pictures)


STUDY = Remedies(
    REMEDIES,
    NONE,
    STOPPED,
    tune,
    CHOSEN_ON,
    SHOWN_ON,
    SEEDS,
    names=lambda target: f"class={target}",
)


def levels(target: int) -> Figures:
    """The told map's own samples of the class, and the distance of as many real images."""
    cond = torch.tensor([target])
    x = drawn(steer.load("fashion"), Jump(1), cond)
    floor = reference().floor(SAMPLES, cond)["frechet_distance"]
    return {**measure_of(target, steering(target))(x), "floor": floor}


# --- reading the cells --------------------------------------------------------------------------
def outcome(left: Figures, level: Figures) -> str:
    """HACKED, SOUND, or UNDER where the tuned reward is not there yet; by the witness."""
    if left[STEERING] < level[STEERING] - SHORT_OF:
        return UNDER
    return HACKED if left[WITNESSED] > FAR * level[WITNESSED] else SOUND


def all_runs(cells: Mapping[str, Any]) -> list[tuple[str, Course, Figures]]:
    """Every run that is kept, of both classes, with the levels of its class; stops beside."""
    found = []
    for cell, value in cells.items():
        if not isinstance(value, list):
            continue
        name = next(each for each in REMEDIES if cell.startswith(each))
        level = cells[f"levels class={value_of(cell, 'class')}"]
        found.append((name, value, level))
        if name == NONE:
            found.append((STOPPED, until_stopped(value), level))
    return found


def value_of(cell: str, word: str) -> str:
    """What a key says after word=."""
    return next(part for part in cell.split() if part.startswith(f"{word}=")).split("=")[1]


# --- the page -----------------------------------------------------------------------------------
def results(cells: Mapping[str, Any]) -> str:
    """A row for each remedy; then how the warnings compare with the witness."""
    level = cells[f"levels class={SHOWN_ON}"]
    names = (STEERING, HELDOUT, HELDOUT, "frechet_distance", WITNESSED, "diversity")
    rows = [["the told map's own samples", "", *(short(level[each]) for each in names), "", ""]]
    for name in STUDY.measured(cells):
        found = STUDY.courses(cells, name)
        lefts = [STUDY.kept(name, each) for each in found]
        rows.append(
            [
                name,
                STUDY.strength_shown(cells, name),
                mean_and_error((f[STEERING] for f in lefts), 2),
                mean_and_error((f[HELDOUT] for f in lefts), 2),
                mean_and_error((best(each)[HELDOUT] for each in found), 2),
                *(mean_and_error((f[which] for f in lefts), 2) for which in names[3:5]),
                mean_and_error(f["diversity"] for f in lefts),
                outcomes(lefts, level),
                warned_text([STUDY.warnings(name, each, level["floor"]) for each in found]),
            ]
        )
    head = [
        "remedy",
        "strength",
        "tuned reward",
        "held-out",
        "at its best look",
        "Frechet, judge",
        "Frechet, witness",
        "diversity",
        "outcome",
        "warned",
    ]
    return table(head, rows) + "\n\n" + confusion(cells)


def warned_text(said: list[list[str]]) -> str:
    """How many runs were warned of, and why."""
    reasons = list(dict.fromkeys(word for words in said for word in words))
    counted = f"{sum(bool(words) for words in said)} of {len(said)}"
    return f"{counted}: {', '.join(reasons)}" if reasons else counted


def outcomes(lefts: list[Figures], level: Figures) -> str:
    """How many runs came to what."""
    numbers = Counter(outcome(left, level) for left in lefts)
    return ", ".join(f"{n} {what}" for what, n in numbers.items())


def counts(cells: Mapping[str, Any]) -> Counter[tuple[str, bool]]:
    """Runs by (outcome, whether warned of), of both classes and all strengths."""
    return Counter(
        (outcome(STUDY.kept(name, run), level), bool(STUDY.warnings(name, run, level["floor"])))
        for name, run, level in all_runs(cells)
    )


def confusion(cells: Mapping[str, Any]) -> str:
    """The same in words."""
    n = counts(cells)
    return (
        f"Of all {n.total()} runs, both classes and all strengths:"
        f" {n[HACKED, True] + n[HACKED, False]} hacked, of which {n[HACKED, True]} were warned of;"
        f" {n[SOUND, True] + n[SOUND, False]} are sound, of which {n[SOUND, True]} were warned of;"
        f" {n[UNDER, True] + n[UNDER, False]} did not get to the class, of which"
        f" {n[UNDER, True]} were warned of."
    )


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The fall, what is saved by gradients and by the exact tilt, and the warnings."""
    level = cells[f"levels class={SHOWN_ON}"]
    runs_of = partial(STUDY.courses, cells)
    runs = runs_of(NONE)
    fall = sum(best(found)[HELDOUT] - found[-1][HELDOUT] for found in runs) / len(runs)
    rise = sum(found[-1][STEERING] - best(found)[STEERING] for found in runs) / len(runs)
    saved = {
        name: sum(
            outcome(STUDY.kept(name, found), level) == SOUND for found in STUDY.courses(cells, name)
        )
        for name in STUDY.all
    }
    remedies = [name for name in saved if name not in (NONE, EXACT)]
    whole = [name for name in remedies if saved[name] == len(SEEDS)]
    n = counts(cells)
    caught = n[HACKED, True] + n[HACKED, False]
    clean = n[SOUND, True] + n[SOUND, False]
    return [
        Finding(
            "Pushed too far, the held-out reward turns down while the tuned one rises",
            "a fall by 1 nat or more",
            f"{fall:.2f} down, {rise:.2f} up",
            fall >= 1 and rise > 0,
        ),
        Finding(
            "Of six remedies, those whose runs all end near the class, by a third classifier",
            "at least three",
            f"{len(whole)}: {', '.join(whole) or 'none'}",
            len(whole) >= 3,
        ),
        Finding(
            "The exact tilt cannot hack",
            f"all {len(SEEDS)} runs end near the class",
            f"{saved[EXACT]} of {len(SEEDS)}",
            saved[EXACT] == len(SEEDS),
        ),
        Finding(
            "The report of `steer tune` warns of runs that hack",
            "all",
            f"{n[HACKED, True]} of {caught}",
            n[HACKED, True] == caught,
        ),
        Finding(
            "and is silent on those that are sound",
            "nine of ten",
            f"{n[SOUND, False]} of {clean}",
            n[SOUND, False] >= 0.9 * clean,
        ),
    ]


# --- the picture --------------------------------------------------------------------------------
def draw(cells: Mapping[str, Any]) -> None:
    """Draws a panel for each remedy, and beneath it samples of the start, best look and end."""
    level = cells[f"levels class={SHOWN_ON}"]

    def curves(ax: Axes, name: str) -> None:
        """Tuned and held-out reward against spending."""
        found = STUDY.courses(cells, name)
        draw_courses(ax, found, STEERING, "C1", "tuned reward (the steering classifier)")
        draw_courses(ax, found, HELDOUT, "C0", "held-out reward (the judge)")
        if name == STOPPED:
            for each in found:
                left = STUDY.kept(name, each)
                ax.plot(left["spent"], left[HELDOUT], "*", color="k", markersize=10, zorder=5)
        ax.axhline(level[HELDOUT], color="0.5", linestyle=":", label="held-out, the told map's own")
        strength = STUDY.strength_shown(cells, name)
        said = [STUDY.warnings(name, each, level["floor"]) for each in found]
        title = f"{name}{', ' + strength if strength else ''}\nwarned: {warned_text(said)}"
        ax.set_title(title, fontsize=9)
        ax.set_ylim(-6, 0.25)
        ax.set_xlim(0, 1.03 * BUDGET)
        ax.set_ylabel("log p(trouser)", fontsize=8)

    save(STUDY.figure(cells, curves, SHAPE, 56), "fashion_hacking")


def main() -> None:
    cells = Cells("fashion_hacking", WEIGHTS)
    for target in (CHOSEN_ON, SHOWN_ON):
        cells.get(f"levels class={target}", partial(levels, target))
    STUDY.measure(cells, draw)
    cells.prune()
    print(results(cells.cells))


if __name__ == "__main__":
    main()
