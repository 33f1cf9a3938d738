"""Inverse problems on Fashion-MNIST, solved by one unconditional map and several samplers.

    python -m recipes.experiments.fashion_inverse          # ten minutes on one core
    python -m recipes.experiments.fashion_inverse tune     # STRENGTHS by a grid search

A box is hidden, the image is downsampled four times, or blurred; noise of .05 is added. The reward
is the log likelihood of the measurement. 40 test images are restored; reported are their PSNR, how
often the judge assigns their class, and the evaluations of the network for each restoration, all
particles together. Trajectory tilting draws from the posterior, and a draw has about twice the
least mean squared error; PSNR favours the posterior mean, as plug and play does.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table
from rewards import Measurement, from_signed, load_classifier
from rewards.operators import Blur, Downsample, LinearOperator, Mask
from steer.counting import Evaluations
from steer.data import fashion_mnist
from steer.guidance import Unconditional
from steer.lookahead import Denoiser, FlowMapDenoiser, MapJump
from steer.plots.axes import FAINT, LETTERS, SMALL, Canvas, width_of
from steer.plots.mosaic import GAP, mosaic
from steer.samplers import (
    Decaying,
    Matched,
    PlugAndPlay,
    Result,
    Sampler,
    TrajectoryTilting,
    training_free,
)
from steer.tilt import Tilt

IMAGES = 40
NOISE = 0.05
SHOWN = (0, 2, 6, 8, 13, 18, 19, 20)
JUDGE_BY = "fashion-patch"
TILE = 56
WEIGHTS = ("fashion", JUDGE_BY)
NO_MAP = "ridge regression, no map"
TRUTH = "the true images"
SEEN: dict[tuple[str, str], Tensor] = {}  # by problem and method


@dataclass(frozen=True)
class Problem:
    """A measurement operator, |A|^2, and how to show a measurement as an image."""

    operator: LinearOperator
    square: float
    show: Callable[[Tensor], Tensor] = lambda y: y


BOX = Mask.box((1, 28, 28), 8, 8, 12, 12)
PROBLEMS = {
    "inpainting": Problem(BOX, 1.0, BOX.adjoint),
    "4x super-resolution": Problem(Downsample(4), 1 / 16, lambda y: 16 * Downsample(4).adjoint(y)),
    "deblurring": Problem(Blur.gaussian(1.5), 1.0),
}
# for each problem, of the best PSNR in `tune`: rho of DPS, eps of FMTT, the power of PnP-Flow
STRENGTHS = {
    "DPS": (0.6, 1.0, 2.0),
    "FMTT": (1.0, 4.0, 2.0),
    "PnP-Flow": (0.3, 0.5, 0.01),
}


@dataclass(frozen=True)
class Method:
    """A restoration method.

    Its sampler, its particles for one image, which result counts, and whether it follows
    -|A(x) - y| instead of the log likelihood.
    """

    sampler: Callable[[Measurement, float, float], Sampler]
    particles: int = 1
    mean: bool = False
    strength: str = ""
    by_residual: bool = False


def dps(reward: Measurement, square: float, rho: float) -> Sampler:
    """100 of the paper's steps along the gradient of |A(x) - y| through the denoiser."""
    return training_free.dps(
        100, rho, norm=None, max_batch=160
    )  # the residual's norm is in the reward


def fmtt(reward: Measurement, square: float, eps: float) -> Sampler:
    """Trajectory tilting by the map's look-ahead, weighted and resampled."""
    return TrajectoryTilting(50, MapJump(), eps=eps, max_batch=160)


def pnp_flow(reward: Measurement, square: float, power: float) -> Sampler:
    """The paper's gradient steps, of size noise^2 / |A|^2 decreasing with time."""
    return PlugAndPlay(100, Denoiser(), Decaying(reward.noise**2 / square, power))


def flow_map_denoiser(reward: Measurement, square: float, reach: float) -> Sampler:
    """Exact proximal steps at the variance of x_t / alpha_t."""
    return PlugAndPlay(100, FlowMapDenoiser(reach), Matched(), prox=reward.prox)


METHODS = {
    "DPS": Method(dps, strength="DPS", by_residual=True),
    "PnP-Flow": Method(pnp_flow, strength="PnP-Flow"),
    "plug and play, denoiser, prox": Method(
        lambda reward, square, _: flow_map_denoiser(reward, square, 0.0)
    ),
    "flow-map denoiser, reach .5": Method(
        lambda reward, square, _: flow_map_denoiser(reward, square, 0.5)
    ),
    "flow-map denoiser, reach 1": Method(
        lambda reward, square, _: flow_map_denoiser(reward, square, 1.0)
    ),
    "FMTT, 8 particles: one draw": Method(fmtt, 8, strength="FMTT"),
    "FMTT, 8 particles: mean": Method(fmtt, 8, mean=True, strength="FMTT"),
}


@cache
def images(split: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and their classes, those of the picture first."""
    pixels, labels = fashion_mnist(split)
    chosen = torch.tensor([*SHOWN, *(i for i in range(IMAGES) if i not in SHOWN)])
    return pixels[chosen].float() / 255, labels[chosen]


def observed(problem: Problem, x: Tensor) -> Tensor:
    """The measurements, the same for every method."""
    return problem.operator.observe(x, NOISE, torch.Generator().manual_seed(1))


def residual_of(reward: Measurement) -> Callable[[Tensor, Tensor], Tensor]:
    """The reward -|A(x) - y|, whose gradient has constant norm."""
    return lambda x, cond: -reward.noise * (-2 * reward(x, cond)).sqrt()


@cache
def drawn(
    name: str,
    sampler: Callable,
    particles: int,
    by_residual: bool,
    strength: float,
    split: str,
    n: int,
) -> Result:
    """The sampler's result for the first n images, independent of the rest of the batch."""
    problem = PROBLEMS[name]
    (x, _) = images(split)
    reward = Measurement(problem.operator, observed(problem, x), NOISE).signed()
    x0 = torch.randn(IMAGES, particles, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    flow_map = Unconditional(steer.load("fashion"))
    tilt = Tilt(residual_of(reward) if by_residual else reward)
    generator = torch.Generator().manual_seed(3)
    return sampler(reward, problem.square, strength)(
        flow_map, x0[:n], tilt, torch.arange(n), generator
    )


def restored(
    name: str, method: Method, strength: float | None = None, split: str = "test", n: int = IMAGES
) -> tuple[Tensor, Evaluations]:
    """Images in [0, 1], and the evaluations for one of them."""
    if strength is None:
        strength = (
            STRENGTHS[method.strength][list(PROBLEMS).index(name)] if method.strength else 0.0
        )
    result = drawn(name, method.sampler, method.particles, method.by_residual, strength, split, n)
    weights = result.log_w.softmax(1)
    if method.mean:
        x = (weights[..., None, None, None] * result.x).sum(1).to(result.x)
    else:
        chosen = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(4))[:, 0]
        x = result.x[torch.arange(n), chosen]
    return from_signed(x).clamp(0, 1), result.evaluations.per(1 / method.particles)


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of each image, in decibels."""
    return -10 * torch.log10((x - truth).square().flatten(1).mean(1))


def judged(x: Tensor, evaluations: Evaluations, split: str = "test") -> dict[str, Any]:
    """The metrics of one cell."""
    truth, labels = images(split)
    decibels = psnr(x, truth[: len(x)])
    with torch.no_grad():
        right = load_classifier(JUDGE_BY)(x).argmax(1) == labels[: len(x)]
    return {
        "psnr": float(decibels.mean()),
        "psnr_std_error": float(decibels.std() / len(x) ** 0.5),
        "accuracy": float(right.double().mean()),
        "forward": evaluations.network_forward,
        "backward": evaluations.network_backward,
    }


def measure(name: str, label: str) -> dict[str, Any]:
    """One cell; its first images are kept for the picture."""
    x, evaluations = restored(name, METHODS[label])
    SEEN[name, label] = x[: len(SHOWN)]
    return judged(x, evaluations)


def shown(name: str, label: str) -> Tensor:
    """The images of the picture, restored again if their cell is from an earlier run."""
    return (
        SEEN[name, label]
        if (name, label) in SEEN
        else restored(name, METHODS[label], n=len(SHOWN))[0]
    )


def no_map(name: str) -> tuple[Tensor, Evaluations]:
    """Ridge regression, the baseline without a prior: the proximal step from mid-grey."""
    problem = PROBLEMS[name]
    (x, _) = images("test")
    reward = Measurement(problem.operator, observed(problem, x), NOISE)
    return reward.prox(torch.full_like(x, 0.5), 0.1, torch.arange(IMAGES)).clamp(
        0, 1
    ), Evaluations()


def of_no_map(name: str) -> dict[str, Any]:
    """The cell of ridge regression."""
    return judged(*no_map(name))


def draw() -> None:
    """Draws a block for each problem, with rows of the truth, the measurement and the methods."""
    (truth, _) = images("test")
    n = len(SHOWN)
    labels = ["truth", "measurement", *METHODS]
    pitch = TILE + GAP
    top = 56
    left = width_of(labels, SMALL) + 40
    apart = 36
    canvas = Canvas(left + len(PROBLEMS) * (n * pitch + apart), top + len(labels) * pitch + 20)
    for i, label in enumerate(labels):
        canvas.write(label, left - 20, top + i * pitch + TILE / 2, SMALL, FAINT, ha="right")
    for i, (name, problem) in enumerate(PROBLEMS.items()):
        seen = problem.show(observed(problem, truth))[:n]
        rows = torch.stack([truth[:n], seen, *(shown(name, label) for label in METHODS)])
        place = left + i * (n * pitch + apart)
        canvas.write(name, place, top - 26, LETTERS)
        canvas.lay(mosaic(rows, TILE), place, top)
    canvas.save(FOLDER / "fashion_inverse.png")


GRID = {
    "PnP-Flow": (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0),
    "DPS": (0.15, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0),
    "FMTT, 8 particles: mean": (0.5, 1.0, 2.0, 4.0, 8.0),
}


def tune() -> None:
    """Prints PSNR and the judge's accuracy on training images over a grid of strengths.

    Marks a best value at an end of the grid, which then does not bracket it.
    """
    n = len(SHOWN)
    for label, strengths in GRID.items():
        rows = []
        for strength in strengths:
            cells = [
                judged(*restored(name, METHODS[label], strength, "train", n), "train")
                for name in PROBLEMS
            ]
            rows.append([c["psnr"] for c in cells])
            figures = "  ".join(
                f"{c['psnr']:.2f} +- {c['psnr_std_error']:.2f} dB, {c['accuracy']:.2f}"
                for c in cells
            )
            print(f"{label:28s} {strength:g}: {figures}", flush=True)
        for name, column in zip(PROBLEMS, zip(*rows, strict=True), strict=True):
            best = max(range(len(strengths)), key=column.__getitem__)
            inside = 0 < best < len(strengths) - 1
            print(
                f"{label}, {name}: best"
                f" {strengths[best]:g}{'' if inside else ', at an end of the grid'}",
                flush=True,
            )


def results(cells: Mapping[str, Any]) -> str:
    """PSNR and the judge's accuracy."""
    rows = []
    for label in (*METHODS, NO_MAP):
        row = [cells[f"{label} {name}"] for name in PROBLEMS]
        cost = f"{row[0]['forward']:.0f} F" + (
            f" + {row[0]['backward']:.0f} B" if row[0]["backward"] else ""
        )
        row = [
            f"{c['psnr']:.1f} ± {short(c['psnr_std_error'], 1)} dB, {short(c['accuracy'], 2)}"
            for c in row
        ]
        rows.append([label, cost, *row])
    truth = f"On the true images the judge's accuracy is {short(cells[TRUTH], 2)}."
    return table(["method", "evaluations", *PROBLEMS], rows) + "\n\n" + truth


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """None."""
    return []


def main() -> None:
    kept = Cells("fashion_inverse", WEIGHTS)
    for name in PROBLEMS:
        for label in METHODS:
            kept.get(f"{label} {name}", partial(measure, name, label))
        kept.get(f"{NO_MAP} {name}", partial(of_no_map, name))
    kept.get(TRUTH, lambda: judged(images("test")[0], Evaluations())["accuracy"])
    kept.prune()
    print(results(kept.cells))
    draw()


if __name__ == "__main__":
    tune() if sys.argv[1:] == ["tune"] else main()
