"""Signs of over-optimisation: what was not tuned to turning down while the reward rises."""

import math
from collections.abc import Sequence

from torch import Tensor

from recipes.evaluation.metrics import Figures
from steer.resampling import effective_sample_size

LONELY = 1.5  # effective particles, below which one bears nearly all the weight
SIGMAS = 3.0  # standard errors of a fall that is not chance
FURTHER = 1.5  # factor on the least Frechet distance
FAR = 5.0  # factor on the Frechet distance of as many real samples
CURE = "stop there (stop.by={name}), or tune with a penalty, an ensemble or a smoothed reward"


def signs(course: Sequence[Figures], floor: float | None = None) -> list[str]:
    """Describes each figure that has turned down since its best, and samples unlike real ones.

    Args:
        course: figures of samples with their steps, from before tuning (step 0) to the end.
        floor: the Frechet distance to the reference of as many real samples.
    """
    found = (heldout_fell(course), went_away(course), is_far(course[-1], floor))
    return [sign for sign in found if sign]


def signs_of_steering(base: Figures, steered: Figures, log_w: Tensor) -> list[str]:
    """Describes weights that rest on one particle, and a held-out reward that steering lowered.

    Args:
        base, steered: figures of unsteered and steered samples.
        log_w: of the steered samples, (P, N).
    """
    found = (one_particle(log_w), heldout_lower(base, steered))
    return [sign for sign in found if sign]


def one_particle(log_w: Tensor) -> str | None:
    """Whether one particle bears nearly all the weight of a prompt."""
    prompts, particles = log_w.shape
    ess = effective_sample_size(log_w)
    alone = int((ess < LONELY).sum())
    if particles < 2 or not alone:
        return None
    return (
        f"in {alone} of {prompts} prompts one particle bears nearly all the weight (effective"
        f" sample size below {LONELY:g} of {particles}), so that figures by weight rest on single"
        " samples: lower tilt.scale, draw more particles, or take more steps"
    )


def heldout_lower(base: Figures, steered: Figures) -> str | None:
    """Whether the held-out reward is lower in steered samples, whose reward is higher."""
    name = "heldout_reward_mean"
    if not (measured(base, name) and measured(steered, name)):
        return None
    error = math.hypot(*(f.get("heldout_reward_std_error", 0.0) for f in (base, steered)))
    if not base[name] - steered[name] > SIGMAS * error:  # NaN where one particle has all weight
        return None
    if not steered["reward_mean"] > base["reward_mean"]:
        return None
    return (
        f"the held-out reward fell from {base[name]:.3g} unsteered to {steered[name]:.3g} while the"
        f" reward rose from {base['reward_mean']:.3g} to {steered['reward_mean']:.3g}: the reward"
        " is being fooled, or the two disagree; lower tilt.scale, or steer by a smoothed reward or"
        " an ensemble"
    )


def heldout_fell(course: Sequence[Figures]) -> str | None:
    """Whether the held-out reward has fallen since its best while the tuned one rose."""
    name = "heldout_reward_mean"
    known = [figures for figures in course if measured(figures, name)]
    if not known:
        return None
    best = max(known, key=lambda figures: figures[name])
    last = known[-1]
    error = math.hypot(*(f.get("heldout_reward_std_error", 0.0) for f in (best, last)))
    fell = best[name] - last[name] > SIGMAS * error
    if not fell or last["reward_mean"] < best["reward_mean"]:
        return None
    return (
        f"the held-out reward fell from {best[name]:.3g} at step {best['step']} to {last[name]:.3g}"
        f" while the tuned reward rose from {best['reward_mean']:.3g} to {last['reward_mean']:.3g};"
        f" {CURE.format(name=name)}"
    )


def went_away(course: Sequence[Figures]) -> str | None:
    """Whether the Frechet distance to the reference has risen from its least."""
    name = "frechet_distance"
    known = [figures for figures in course if measured(figures, name)]
    if not known:
        return None
    best = min(known, key=lambda figures: figures[name])
    last = known[-1]
    if last[name] <= FURTHER * best[name]:
        return None
    return (
        f"the Frechet distance to the reference rose from {best[name]:.3g} at step {best['step']}"
        f" to {last[name]:.3g}; {CURE.format(name=name)}"
    )


def is_far(last: Figures, floor: float | None) -> str | None:
    """Whether the samples are much further from the reference than real ones are."""
    if floor is None or not measured(last, "frechet_distance"):
        return None
    distance = last["frechet_distance"]
    if distance <= FAR * floor:
        return None
    return (
        f"the samples do not look like the reference: their Frechet distance to it is"
        f" {distance:.3g}, that of real ones {floor:.3g}; the judge may be fooled, look at grid.png"
    )


def measured(figures: Figures, name: str) -> bool:
    """Whether a figure is there and a number."""
    value = figures.get(name)
    return value is not None and value == value
