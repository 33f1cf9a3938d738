"""The tables of a report."""

from collections.abc import Sequence
from typing import Any

from recipes.measure import Figures
from recipes.report import number, plus_minus

Table = tuple[str, Sequence[Sequence[Any]]]

WORDS = {
    "reward_mean": "reward",
    "heldout_reward_mean": "held-out reward",
    "judge_accuracy": "judge's accuracy",
    "diversity": "diversity",
}

PATH = {"path_length": "thermodynamic length of the path", "path_discrepancy": "total discrepancy of its steps"}


def comparison(metrics: Figures, before: str, after: str) -> Table:
    """The same figures of the samples before and after, those that were measured."""
    rows = [
        [word, estimate(metrics, f"base_{name}"), estimate(metrics, name)]
        for name, word in WORDS.items()
        if metrics[name] == metrics[name]
    ]
    caption = "The samples, ± one standard error (particles taken as independent)."
    return caption, [["", before, after], *rows]


def estimate(metrics: Figures, name: str) -> str:
    """A figure with its error, where there is one."""
    return plus_minus(metrics[name], metrics.get(f"{name.removesuffix('_mean')}_std_error"))


def cost(metrics: Figures) -> Table:
    """What the steering did to the population, and what it cost, per returned sample."""
    evaluations, base = metrics["evaluations"], metrics["base_evaluations"]
    rows = [
        ["log Z (mean over prompts)", "", number(metrics["log_z"])],
        ["log Z in closed form", "", number(metrics["log_z_exact"])],
        ["smallest effective sample size", "", number(metrics["ess_min"])],
        ["resamplings", "", number(metrics["resamples"])],
        *([word, "", number(metrics[name])] for name, word in PATH.items() if name in metrics),
        *([name.replace("_", " ") + "s", number(base[name]), number(evaluations[name])] for name in evaluations),
        ["seconds in all", number(metrics["base_seconds"]), number(metrics["seconds"])],
    ]
    return "The cost: evaluations per returned sample.", [["", "unsteered", "steered"], *rows]


def spent_table(metrics: Figures) -> Table:
    """What a tuning run cost in all."""
    rows = [
        *([name.replace("_", " ") + "s", n] for name, n in metrics["evaluations"].items()),
        ["steps", metrics["steps"]],
        ["seconds", metrics["seconds"]],
        ["distance to the base's sample from the same noise", metrics["distance_to_base"]],
    ]
    return "The cost, in evaluations of single samples, and how far it went.", [["", "in all"], *rows]


def logged_table(metrics: Figures) -> Table:
    """The end of what was logged."""
    rows = [[name, value] for name, value in metrics["logged"].items()]
    return "What was logged, averaged over the last tenth of the run.", [["", "value"], *rows]
