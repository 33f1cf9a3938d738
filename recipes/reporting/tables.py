"""The tables of a report."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipes.evaluation.metrics import Figures
from recipes.reporting.html import number, plus_minus, shown

Table = tuple[str, Sequence[Sequence[Any]]]

HELDOUT = {
    "heldout_reward_mean": "held-out reward",
    **{f"heldout_reward_{k}_mean": f"held-out reward {k}" for k in range(2, 10)},
}
WORDS = {
    "reward_mean": "reward",
    **HELDOUT,
    "judge_accuracy": "judge's accuracy",
    "diversity": "diversity",
    "frechet_distance": "Frechet distance to the reference",
}

PATH = {
    "path_length": "thermodynamic length of the path",
    "path_discrepancy": "total discrepancy of its steps",
}
METRICS = {  # of every cell of steer compare
    "reward_mean": "reward",
    "reward_mean_unweighted": "reward, unweighted",
    **HELDOUT,
    "judge_accuracy": "judge's accuracy",
    "diversity": "diversity",
    "law_distance": "distance to the law",
    "log_z_error": "log Z error",
    "ess": "effective samples of a prompt",
}


def comparison(metrics: Figures, before: str, after: str) -> Table:
    """The metrics of the samples before and after, where they were measured."""
    rows = [
        [word, estimate(metrics, f"base_{name}"), estimate(metrics, name)]
        for name, word in by_name(WORDS, metrics).items()
        if name in metrics and metrics[name] == metrics[name]
    ]
    caption = "The samples, ± one standard error (particles taken as independent)."
    return caption, [["", before, after], *rows]


def by_name(words: Mapping[str, str], metrics: Figures) -> dict[str, str]:
    """The words of each metric, with several held-out rewards by their names where those differ."""
    names = metrics.get("heldout_rewards", [])
    if len(names) < 2 or len(set(names)) < len(names):
        return dict(words)
    named = zip(HELDOUT, names, strict=False)
    return {**words, **{key: f"held-out reward {name}" for key, name in named}}


def estimate(metrics: Figures, name: str) -> str:
    """A figure with its error, where there is one."""
    return plus_minus(metrics[name], metrics.get(f"{name.removesuffix('_mean')}_std_error"))


def cost(metrics: Figures) -> Table:
    """The population's statistics and the evaluations per returned sample."""
    evaluations = metrics["evaluations"]
    base = metrics["base_evaluations"]
    log_z = (("log_z", "log Z (mean over prompts)"), ("log_z_exact", "log Z in closed form"))
    rows = [
        *(
            [words, "", number(metrics[name])]
            for name, words in log_z
            if metrics["log_z"] is not None and metrics[name] is not None
        ),
        [
            "smallest effective sample size",
            "",
            f"{number(round(metrics['ess_min'], 2))} of {number(metrics['particles'])}",
        ],
        ["resamplings", "", number(metrics["resamples"])],
        *([word, "", number(metrics[name])] for name, word in PATH.items() if name in metrics),
        *(
            [name.replace("_", " ") + "s", number(base[name]), number(evaluations[name])]
            for name in evaluations
        ),
        ["seconds in all", number(metrics["base_seconds"]), number(metrics["seconds"])],
    ]
    return "The cost: evaluations per returned sample.", [["", "unsteered", "steered"], *rows]


def price_table(metrics: Figures) -> Table:
    """What each reward cost, in this run: samplers, and the figures of samples."""
    seconds = metrics["price_seconds"]
    rows = [
        [name, number(each["calls"]), number(each["samples"]), number(seconds[name])]
        for name, each in metrics["price"].items()
    ]
    caption = "The price of each reward in the whole run; seconds without backward passes."
    return caption, [["", "calls", "samples", "seconds"], *rows]


def spent_table(metrics: Figures) -> Table:
    """The total cost of a tuning run."""
    rows = [
        *([name.replace("_", " ") + "s", n] for name, n in metrics["evaluations"].items()),
        ["parameters of the map", metrics["parameters"]],
        ["parameters tuned", tuned(metrics)],
        ["steps", metrics["steps"]],
        ["seconds", metrics["seconds"]],
        ["distance to the base's sample from the same noise", metrics["distance_to_base"]],
    ]
    return "The cost, in evaluations of single samples, and how far it went.", [
        ["", "in all"],
        *rows,
    ]


def tuned(metrics: Figures) -> str:
    """The number of tuned parameters, and their share of the map's."""
    share = metrics["tuned_parameters"] / metrics["parameters"]
    return f"{number(metrics['tuned_parameters'])} ({100 * share:.3g} %)"


def logged_table(metrics: Figures) -> Table:
    """The final values of every logged quantity."""
    rows = [[name, value] for name, value in metrics["logged"].items()]
    return "Logged quantities, averaged over the last tenth of the run.", [["", "value"], *rows]


def method_tables(metrics: Figures) -> list[Table]:
    """A table for each metric: a row for each method and a column for each budget."""
    rows = metrics["rows"]
    draws = metrics["exact_draws"] or {}
    names = {row["method"]: words(row["method"]) for row in rows}
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    cells = {(row["method"], row["budget"]): row for row in rows if "error" not in row}
    claims = names | {m: f"{names[m]} ({row['claim']})" for (m, _), row in cells.items()}

    def table(
        caption: str, shown: Callable[[Figures], Any], names: Mapping[str, str] = names
    ) -> Table:
        body = [
            [name, *(shown(cells[m, b]) if (m, b) in cells else None for b in budgets)]
            for m, name in names.items()
        ]
        return caption, [["", *map(number, budgets)], *body]

    spent = (
        "What each method claims (exact: in the limit of steps and particles, however few it has"
        " here), its size for each "
        "budget, and the evaluations per returned sample it spent, as counted."
    )
    tables = [table(spent, sized, claims)]
    for name, word in by_name(METRICS, metrics).items():
        if any(measured(row, name) for row in cells.values()):
            caption, body = table(f"{word[0].upper()}{word[1:]}.", partial(estimate, name=name))
            exact = (
                [["exact draws", *[estimate(draws, name)] * len(budgets)]]
                if measured(draws, name)
                else []
            )
            tables.append((caption, [*body, *exact]))
    return [
        *tables,
        table("Seconds, of all samples of a seed.", lambda row: number(row["seconds"])),
    ]


def overview(metrics: Figures, strips: Mapping[str, Path]) -> Table:
    """Every method at the largest budget: its samples, where they are images, and all figures.

    Args:
        metrics: of the comparison.
        strips: by the words of the method, a PNG of its samples.
    """
    budget = max(row["budget"] for row in metrics["rows"])
    rows = [r for r in metrics["rows"] if r["budget"] == budget and "error" not in r]
    known = {
        name: word
        for name, word in by_name(METRICS, metrics).items()
        if any(measured(row, name) for row in rows)
    }
    body: list[list[Any]] = []
    for row in rows:
        picture = [strips.get(words(row["method"]))] if strips else []
        figures = [estimate(row, name) if measured(row, name) else None for name in known]
        spent = [number(row["spent"]), number(row["seconds"])]
        body.append([words(row["method"]), *picture, *figures, *spent])
    head = ["", *(["samples"] if strips else []), *known.values(), "evaluations", "seconds"]
    caption = (
        f"Every method at the largest budget, {number(budget)} evaluations per returned sample."
    )
    return caption, [head, *body]


def sized(row: Figures) -> str:
    """The size of a method, and its cost."""
    over = " (over)" if row["spent"] > row["budget"] * (1 + 1e-9) else ""
    return f"{row['size']} {words(row['setting'])}: {number(row['spent'])}{over}"


def measured(row: Figures, name: str) -> bool:
    """Whether a row has that metric, and it is not NaN."""
    return name in row and row[name] == row[name]


def left_out(metrics: Figures) -> list[Table]:
    """The cells without results, and the reasons."""
    rows = [
        [words(row["method"]), number(row["budget"]), row["error"]]
        for row in metrics["rows"]
        if "error" in row
    ]
    return [("Left out.", [["", "budget", "why"], *rows])] if rows else []


def words(name: str) -> str:
    """A name of a config with spaces."""
    return name.replace("_", " ")


def markdown(title: str, claim_line: str, tables: Sequence[Table]) -> str:
    """A Markdown page of tables."""
    lines = [f"# {title}", "", claim_line]
    for caption, (head, *body) in tables:
        lines += ["", caption, "", *map(ruled, [head, ["---"] * len(head), *body])]
    return "\n".join(lines) + "\n"


def ruled(row: Sequence[Any]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(shown(cell).replace("|", "\\|") for cell in row) + " |"
