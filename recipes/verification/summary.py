"""What steer verify tells: a verdict on each world and on all, and the figures behind it."""

from collections.abc import Sequence
from typing import Any

from recipes.evaluation.metrics import Figures
from recipes.reporting import html
from recipes.reporting.tables import Table
from recipes.verification.hypothesis_test import LIMITS, RARE, WITHIN

HOW_TO_READ = (
    "Errors are estimate minus truth, ± one standard error over the repetitions; at step 0, extrapolated in h and h². "
    f"An exact method passes a world if log Z, mean and mode weights are then within {WITHIN:g} standard errors of the "
    f"truth (the worst coordinate and the worst mode of at least {RARE:.0%}, counted as the largest of so many), and if "
    f"an error would have been told of {LIMITS['log_z']:g} in log Z, of {LIMITS['mean']:g} standard deviations in a "
    f"coordinate's mean, and of {LIMITS['mode_weights']:.0%} in the weights of one mode. Where it would not, the world is "
    "inconclusive. The smallest errors told stand in the table; repetitions are added, up to `rounds` times, until they "
    f"suffice. Unsettled it is where log Z is beyond {WITHIN:g} at the most steps and not nearer there than at the fewest. "
    "Standard errors are counted as a Gaussian's would be, few repetitions for less. With one number of steps nothing is "
    "extrapolated, and its step error counts. Distance is to exact draws, in that of other exact draws as many as the "
    "effective sample size: copies count there as independent, so that above 1 is no failure."
)


def overall(found: Figures) -> str:
    """The worst verdict of all worlds."""
    verdicts = {world["verdict"] for world in found.values()}
    return next(
        verdict
        for verdict in ("fail", "inconclusive", "unsettled", "none", "pass")
        if verdict in verdicts
    )


def says(found: Figures) -> str:
    """In a sentence."""
    verdict = overall(found)
    where = ", ".join(name for name, world in found.items() if world["verdict"] == verdict)
    return {
        "pass": f"The claim holds in {len(found)} of {len(found)} worlds asked.",
        "fail": f"The claim fails in: {where}.",
        "inconclusive": f"Inconclusive in: {where}, where an error of {LIMITS['log_z']:g} in log Z, or of"
        f" {LIMITS['mode_weights']:g} in a mode or the mean, would not be told; give more rounds, prompts or particles.",
        "unsettled": f"log Z is off at the most steps, and not seen to come nearer with them, in: {where}; give more steps,"
        " prompts or particles.",
        "none": "No law is claimed, so there is no verdict; the figures say how far from the tilted law it is.",
    }[verdict]


def verdicts(found: Figures) -> Table:
    """A row for each world: log Z at the most steps and at step zero, its order, mean and mode
    weights, the verdict.
    """
    head = [
        "world",
        "d",
        "log Z",
        "error, most steps",
        "error, step 0",
        "in s.e.",
        "order",
        "tells: log Z",
        "mode",
        "mean",
        "mean, in s.e.",
        "modes, in s.e.",
    ]
    rows = [
        [
            name,
            world["dimension"],
            f"{world['log_z']:.4f}",
            html.plus_minus(
                world["sizes"][-1]["log_z_error"], world["sizes"][-1]["log_z_std_error"]
            ),
            html.plus_minus(world["log_z_error"], world["log_z_std_error"]),
            tenths(world["log_z_in_std_errors"]),
            order(world),
            *(
                told(world["smallest_error_told"][name])
                for name in ("log_z", "mode_weights", "mean")
            ),
            tenths(world["mean_in_std_errors"]),
            tenths(world["mode_weights_in_std_errors"]),
            world["verdict"],
        ]
        for name, world in found.items()
    ]
    return "The verdict in each world.", [[*head, "verdict"], *rows]


def told(value: float) -> str:
    """A smallest error, or a dash."""
    return f"{value:.3f}" if value == value else "–"


def order(world: Figures) -> str:
    """The order of convergence, where there is something to converge and it can be seen."""
    if world["log_z_error"] != world["log_z_error"]:
        return "–"
    return (
        "below noise"
        if world["order"] is None
        else html.plus_minus(world["order"], world["order_std_error"])
    )


def sizes(found: Figures) -> Table:
    """A row for each world and number of steps."""
    costs = ("network_forward", "network_backward", "reward_forward", "reward_backward")
    head = [
        "world",
        "steps",
        "log Z error",
        "in s.e.",
        "worst mode weight",
        "distance",
        *(c.replace("_", " ") for c in costs),
    ]
    rows = [
        [
            name,
            one["steps"] or "",
            html.plus_minus(one["log_z_error"], one["log_z_std_error"]),
            tenths(one["log_z_in_std_errors"]),
            html.plus_minus(one["mode_weight_error"], one["mode_weight_std_error"]),
            f"{one['distance_over_floor']:.2f}",
            *(html.number(one["evaluations"][cost]) for cost in costs),
        ]
        for name, world in found.items()
        for one in world["sizes"]
    ]
    return "Every number of steps; evaluations are per returned sample.", [head, *rows]


def tenths(value: float) -> str:
    """One decimal, or a dash."""
    return f"{value:.1f}" if value == value else "–"


def markdown(rows: Sequence[Sequence[Any]]) -> str:
    """A table that reads as well in a terminal: the first row its head, its columns aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
