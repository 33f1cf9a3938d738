"""Reward hacking with the truth in view: a CLIP's score rises, and the picture shows less of it.

    python -m recipes.experiments.scenes_hacking      # hours on one core; it goes on where it was

The map of captioned scenes is tuned by gradients of the CLIP's score through one jump, at a high
scale and without a penalty, for many times what it needs. Another CLIP gives the held-out reward,
which is what a practitioner would have. The reader of scenes says what the pictures show; nothing
is tuned, chosen or stopped by it. Then the same run with one remedy each: a penalty on the distance
to the base, the mean of both CLIPs less their disagreement (which leaves no CLIP to hold out), a
smoothed score, a penalty in noise space, a stop by the held-out score; and the exact tilt by
redrawn samples in place of the gradients. A remedy's strength is that of the highest held-out score
over the second half of a run on other captions, from a grid that is extended while the best is at
its end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

import steer
from recipes.evaluation.metrics import Figures, Measure
from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, short, table
from recipes.experiments.remedies import Remedies, Remedy, draw_courses, save
from recipes.experiments.scenes_tuning import (
    CHOSEN_ON,
    JUDGE_BY,
    MAP,
    PARTICLES,
    SHAPE,
    SHOWN_ON,
    STEER_BY,
    WEIGHTS,
    clip_score,
    reader,
    redrawn,
    world_of,
)
from recipes.experiments.tuning_runs import (
    HELDOUT,
    Course,
    Run,
    course,
    drawn,
    known,
    mean_and_error,
    result_of,
)
from rewards import ClipScore, Decoded, Ensemble, Reward, Smoothed, from_signed, load_clip
from steer.data.scenes import scene_captions
from steer.samplers import Jump
from steer.tilt import Tilt
from steer.tuning import Direct, HyperNoise

SEEDS = (0, 1)
BUDGET = 16000.0
SCALE = 300.0
RATE = 6e-4
NOISE_RATE = 6e-4
TUNED, READ = "heldout_reward_2_mean", "heldout_reward_3_mean"
NONE, STOPPED = "no remedy", "stop by the other CLIP"
ENSEMBLE, EXACT = "mean of both CLIPs less their disagreement", "the exact tilt, redrawn"
FELL = 0.1  # of the reader's accuracy, below its best: hacked


def direct(captions: tuple[str, int, int], reward: Reward, penalty: float = 0.0) -> Run:
    """Gradients of a reward through one jump."""
    objective = Direct(penalty=penalty, share=0.25)
    return Run(
        objective,
        Tilt(reward, SCALE),
        RATE,
        world=world_of(scene_captions(*captions)),
        budget=BUDGET,
    )


def unremedied(strength: float, captions: tuple[str, int, int]) -> Run:
    """The run that is pushed too far."""
    return direct(captions, clip_score(STEER_BY))


def penalised(penalty: float, captions: tuple[str, int, int]) -> Run:
    """With a penalty on the summed squared distance to the base's samples."""
    return direct(captions, clip_score(STEER_BY), penalty)


def of_ensemble(strength: float, captions: tuple[str, int, int]) -> Run:
    """To the mean of both CLIPs, less their standard deviation."""
    return direct(captions, Ensemble([clip_score(STEER_BY), clip_score(JUDGE_BY)], 1.0))


def smoothed(noise: float, captions: tuple[str, int, int]) -> Run:
    """To the score of shifted pictures with noise."""
    bare = Smoothed(ClipScore(STEER_BY), noise, shift=2, views=4)
    return direct(captions, Decoded(bare, from_signed))


def in_noise(scale: float, captions: tuple[str, int, int]) -> Run:
    """By moving the noise of the frozen base, at half the squared distance in nats."""
    tilt = Tilt(clip_score(STEER_BY), scale)
    return Run(
        HyperNoise(), tilt, NOISE_RATE, world=world_of(scene_captions(*captions)), budget=BUDGET
    )


def by_regression(scale: float, captions: tuple[str, int, int]) -> Run:
    """By samples redrawn in proportion to exp(scale r)."""
    tilt = Tilt(clip_score(STEER_BY), scale)
    return Run(redrawn(), tilt, RATE, 256, world=world_of(scene_captions(*captions)), budget=BUDGET)


REMEDIES = {
    NONE: Remedy(unremedied),
    "penalty on the distance": Remedy(penalised, "penalty", (0.01, 0.03, 0.09), (1e-3, 1.0)),
    ENSEMBLE: Remedy(of_ensemble),
    "smoothed score": Remedy(smoothed, "noise", (0.1, 0.2, 0.4), (0.02, 1.6)),
    "penalty in noise space": Remedy(in_noise, "scale", (30.0, 90.0, 270.0), (3.0, 3000.0)),
    EXACT: Remedy(by_regression, "scale", (20.0, 40.0, 80.0), (5.0, 640.0)),
}


# --- a run --------------------------------------------------------------------------------------
def measure_of(own: Reward, captions: list[str]) -> Callable[[Tensor], Figures]:
    """The figures of samples: the other CLIP's score, the tuned one's and the reader's."""
    heldout = (clip_score(JUDGE_BY), clip_score(STEER_BY), reader())
    measure = Measure(own, heldout, load_clip(JUDGE_BY), from_signed, captions)
    return lambda x: known(measure(result_of(x)))


def tune(name: str, strength: float, captions: tuple[str, int, int], seed: int) -> Course:
    """The course of one run."""
    run = REMEDIES[name].run(strength, captions)
    measured = measure_of(run.tilt.reward, scene_captions(*captions))
    return course(run, measured, seed, pictures=captions == SHOWN_ON and seed == SEEDS[0])


STUDY = Remedies(
    REMEDIES,
    NONE,
    STOPPED,
    tune,
    CHOSEN_ON,
    SHOWN_ON,
    SEEDS,
    names=lambda captions: f"captions={captions[2]}",
)


def levels() -> Figures:
    """The base's own figures on the captions that are shown."""
    captions = scene_captions(*SHOWN_ON)
    x = drawn(steer.load(MAP), Jump(1), captions, PARTICLES, SHAPE)
    return measure_of(clip_score(STEER_BY), captions)(x)


# --- the page -----------------------------------------------------------------------------------
def truest(found: Course) -> float:
    """The highest accuracy by the reader."""
    return max(f[READ] for f in found)


def results(cells: Mapping[str, Any]) -> str:
    """A row for each remedy, at what its run leaves."""
    level = cells["levels"]
    figures = (TUNED, HELDOUT, READ)
    rows = [
        ["the base", "", *(short(level[f]) for f in figures), "", short(level["diversity"]), ""]
    ]
    for name in STUDY.measured(cells):
        found = STUDY.courses(cells, name)
        lefts = [STUDY.kept(name, each) for each in found]
        said = [STUDY.warnings(name, each) for each in found]
        rows.append(
            [
                name,
                STUDY.strength_shown(cells, name),
                *(mean_and_error(f[which] for f in lefts) for which in figures),
                mean_and_error(truest(each) for each in found),
                mean_and_error(f["diversity"] for f in lefts),
                f"{sum(bool(words) for words in said)} of {len(said)}",
            ]
        )
    head = [
        "remedy",
        "strength",
        "tuned CLIP",
        "other CLIP",
        "reader",
        "reader, at best",
        "diversity",
        "warned",
    ]
    return table(head, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The fall of the truth while the score rises, what stays true, and who saw it."""
    runs = STUDY.courses(cells, NONE)
    risen = mean([found[-1][TUNED] - found[0][TUNED] for found in runs])
    fall = mean([truest(found) - found[-1][READ] for found in runs])
    level = cells["levels"][READ]
    ends = {
        name: mean([STUDY.kept(name, found)[READ] for found in STUDY.courses(cells, name)])
        for name in STUDY.all
    }
    saved = [n for n, end in ends.items() if n != NONE and end >= ends[NONE] + FELL]
    better = [n for n, end in ends.items() if end > level]
    warned = sum(bool(STUDY.warnings(NONE, found)) for found in runs)
    return [
        Finding(
            "Pushed too far, the CLIP's score rises and the reader's accuracy falls",
            f"by {short(FELL, 1)} or more",
            f"score {risen:+.2f}, accuracy {short(fall, 2)} below its best",
            risen > 0 and fall >= FELL,
        ),
        Finding(
            "Remedies whose runs end truer than without by that much",
            "at least two",
            f"{len(saved)}: {', '.join(saved) or 'none'}",
            len(saved) >= 2,
        ),
        Finding(
            "Runs that end truer than the base",
            "at least one",
            f"{len(better)}: {', '.join(better) or 'none'}",
            bool(better),
        ),
        Finding(
            "The report warns of the run that is pushed too far",
            f"{len(runs)} of {len(runs)}",
            f"{warned} of {len(runs)}",
            warned == len(runs),
        ),
    ]


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


# --- the picture --------------------------------------------------------------------------------
def draw(cells: Mapping[str, Any]) -> None:
    """Draws a panel for each remedy, and beneath it samples of the start, best look and end."""

    def curves(ax: Axes, name: str) -> None:
        """The scores of both CLIPs and the reader's accuracy against spending."""
        found = STUDY.courses(cells, name)
        draw_courses(ax, found, TUNED, "C1", "the CLIP that is tuned to")
        draw_courses(ax, found, HELDOUT, "C0", "the other CLIP")
        draw_courses(ax, found, READ, "C2", "the reader: what the picture shows")
        strength = STUDY.strength_shown(cells, name)
        ax.set_title(f"{name}{', ' + strength if strength else ''}", fontsize=9)
        ax.set_ylim(0, 1)
        ax.set_xlim(0, 1.03 * BUDGET)

    save(STUDY.figure(cells, curves, SHAPE, 64), "scenes_hacking")


def main() -> None:
    cells = Cells("scenes_hacking", WEIGHTS)
    with torch.no_grad():
        cells.get("levels", levels)
    STUDY.measure(cells, draw)
    cells.prune()
    print(results(cells.cells))


if __name__ == "__main__":
    main()
