"""The summary of steer verify: the result in each world and overall, and the figures behind it."""

from collections.abc import Sequence
from typing import Any

from recipes.evaluation.metrics import Figures
from recipes.reporting import html
from recipes.reporting.tables import Table
from recipes.verification.hypothesis_test import LIMITS, RARE, WITHIN

HOW_TO_READ = (
    "Errors are estimate minus truth, ± one standard error over the repetitions; at step 0,"
    " extrapolated in h and h². An exact method passes a world if log Z, mean and mode weights are"
    f" then within {WITHIN:g} standard errors of the truth (the worst coordinate and the worst mode"
    f" of at least {RARE:.0%}, corrected for their number), and if errors of {LIMITS['log_z']:g} in"
    f" log Z, of {LIMITS['mean']:g} standard deviations in a coordinate's mean, and of"
    f" {LIMITS['mode_weights']:.0%} in the weights of one mode would have been detected. Where they"
    " would not, the world is inconclusive. The smallest detectable errors are in the table;"
    " repetitions are added, up to `rounds` times, until they suffice. A world is unsettled where"
    f" log Z is beyond {WITHIN:g} at the most steps and no nearer there than at the fewest."
    " Standard"
    " errors are counted as a Gaussian's would be, with Student's t for few repetitions. With one"
    " number of steps nothing is extrapolated, and its step error counts. Distance is to exact"
    " draws, relative to that of as many other exact draws as the effective sample size: copies"
    " count there as independent, so that a distance above 1 is no failure."
)
WORST_FIRST = ("fail", "inconclusive", "unsettled", "none", "pass")


def overall(found: Figures) -> str:
    """The worst result of all worlds."""
    results = {world["verdict"] for world in found.values()}
    return next(result for result in WORST_FIRST if result in results)


def conclusion(found: Figures) -> str:
    """The result in a sentence."""
    result = overall(found)
    where = ", ".join(name for name, world in found.items() if world["verdict"] == result)
    return {
        "pass": f"The claim holds in {len(found)} of {len(found)} worlds asked.",
        "fail": f"The claim fails in: {where}.",
        "inconclusive": (
            f"Inconclusive in: {where}, where an error of {LIMITS['log_z']:g} in log Z, or of"
            f" {LIMITS['mode_weights']:g} in a mode or the mean, would not be detected;"
            " give more rounds, prompts or particles."
        ),
        "unsettled": (
            "log Z is off at the most steps, and not seen to converge with them, in:"
            f" {where}; give more steps, prompts or particles."
        ),
        "none": (
            "The method does not claim to be exact, so nothing is tested;"
            " the figures say how far it is from the tilted law."
        ),
    }[result]


def results_table(found: Figures) -> Table:
    """A row for each world.

    log Z at the most steps and at step zero, its order, mean and mode weights, and the result.
    """
    head = [
        "world",
        "d",
        "log Z",
        "error, most steps",
        "error, step 0",
        "in s.e.",
        "order",
        "detects: log Z",
        "mode",
        "mean",
        "mean, in s.e.",
        "modes, in s.e.",
        "result",
    ]
    rows = [world_row(name, world) for name, world in found.items()]
    return "The result in each world.", [head, *rows]


def world_row(name: str, world: Figures) -> list[Any]:
    """The row of one world."""
    last = world["sizes"][-1]
    detectable = world["smallest_error_told"]
    return [
        name,
        world["dimension"],
        f"{world['log_z']:.4f}",
        html.plus_minus(last["log_z_error"], last["log_z_std_error"]),
        html.plus_minus(world["log_z_error"], world["log_z_std_error"]),
        decimals(world["log_z_in_std_errors"], 1),
        order(world),
        *(decimals(detectable[what], 3) for what in ("log_z", "mode_weights", "mean")),
        decimals(world["mean_in_std_errors"], 1),
        decimals(world["mode_weights_in_std_errors"], 1),
        world["verdict"],
    ]


def order(world: Figures) -> str:
    """The order of convergence of log Z; a dash without an estimate of log Z."""
    if world["log_z_error"] != world["log_z_error"]:
        return "–"
    if world["order"] is None:
        return "below noise"
    return html.plus_minus(world["order"], world["order_std_error"])


def steps_table(found: Figures) -> Table:
    """A row for each world and number of steps."""
    costs = ("network_forward", "network_backward", "reward_forward", "reward_backward")
    head = [
        "world",
        "steps",
        "log Z error",
        "in s.e.",
        "worst mode weight",
        "distance",
        *(cost.replace("_", " ") for cost in costs),
    ]
    rows = [
        [
            name,
            one["steps"] or "",
            html.plus_minus(one["log_z_error"], one["log_z_std_error"]),
            decimals(one["log_z_in_std_errors"], 1),
            html.plus_minus(one["mode_weight_error"], one["mode_weight_std_error"]),
            f"{one['distance_over_floor']:.2f}",
            *(html.number(one["evaluations"][cost]) for cost in costs),
        ]
        for name, world in found.items()
        for one in world["sizes"]
    ]
    return "Every number of steps; evaluations are per returned sample.", [head, *rows]


def decimals(value: float, digits: int) -> str:
    """A number to so many decimals; a dash for NaN."""
    return f"{value:.{digits}f}" if value == value else "–"


def markdown(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns, legible in a terminal; the first row is its head."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
