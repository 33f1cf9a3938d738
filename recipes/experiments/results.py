"""docs/results.md from the kept cells: tables, a summary of the findings, and their provenance.

    make results                                     # writes the pages in docs/
    python -m recipes.experiments.results --check    # writes nothing; exit code 1 if out of date

Between `<!-- results: NAME -->` and `<!-- /results -->` are the tables that the experiment NAME
makes of its cells, and one line: command, date, commit, weights. All else on the page is written by
hand. A block begins with STALE if its weights are no longer those shipped, and with NOT MEASURED if
cells are missing.
"""

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from recipes.experiments import checkerboard, verify
from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, table

PAGE = Path("docs/results.md")
FIGURES = (
    "ring_tilting",
    "plane_guidance",
    "fashion_map",
    "fashion_steering",
    "fashion_tuning",
    "tuning_worlds",
    "fashion_black_box",
    "fashion_hacking",
    "fashion_importance",
    "overhead",
    "demo",
    "fashion_posterior",
    "checkerboard_distill",
    "step_time",
    "plane_posterior",
    "fashion_inverse",
    "verify",
    "fashion_objectives",
    "ring_lobes",
    "checkerboard",
    "fashion_rewards",
    "fashion_quality",
    "scenes_clip",
    "scenes_map",
    "scenes_steering",
    "scenes_tuning",
    "scenes_hacking",
    "scenes_batch",
)
PAGES: dict[str, tuple[Path, Callable]] = {
    "verify": (verify.PAGE, verify.page_of),
    "checkerboard": (checkerboard.PAGE, checkerboard.page_of),
}
SCENES = ("scenes_steering", "scenes_tuning", "scenes_hacking")
AWAITING = {  # figures without all of their cells, and why; a test holds that these are all
    "fashion_tuning": "not all methods have been run",
    "tuning_worlds": "not all objectives have been run",
    "fashion_black_box": "not all methods have been run",
    "fashion_hacking": "not all remedies have been run",
    "verify": "the tests of a method changed, and not all cells are measured anew",
    "checkerboard": "some of its rows came later or changed",
    **dict.fromkeys(SCENES, "hours of runs on one core, still to be made"),
}
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)
SUMMARY = "summary"
MET = {True: "met", False: "**missed**", None: "**not measured**"}


def figure(name: str) -> ModuleType:
    """The module of an experiment."""
    return import_module(f"recipes.experiments.{name}")


def kept(name: str) -> Cells:
    """The cells of an experiment."""
    return Cells(name, getattr(figure(name), "WEIGHTS", ()))


def made(cells: Cells) -> str:
    """The provenance of the cells, in one line."""
    records = cells.provenance
    if not records:
        return "Not measured."
    dates = sorted({record["date"] for record in records})
    parts = [
        ", ".join(f"`{command}`" for command in unique(record["command"] for record in records)),
        " to ".join(unique((dates[0], dates[-1]))),
        "commit " + ", ".join(unique(record["commit"] for record in records)),
    ]
    if cells.weights:
        hashes = {
            name: unique(r["weights"].get(name, "unknown") for r in records)
            for name in cells.weights
        }
        parts.append(
            "weights " + ", ".join(f"{name} {'/'.join(found)}" for name, found in hashes.items())
        )
    return "; ".join(parts) + "."


def unique(words: Iterable[str]) -> list[str]:
    """Each item once, in order."""
    return list(dict.fromkeys(words))


def faults(name: str) -> list[str]:
    """What is wrong with the cells of an experiment: stale or missing."""
    cells = kept(name)
    found = [
        f"STALE: measured on {weights} {then}, shipped is {now}"
        for weights, (then, now) in cells.stale().items()
    ]
    try:
        figure(name).results(cells.cells)
        if any(finding.met is None for finding in figure(name).findings(cells.cells)):
            found.append("NOT MEASURED: some of it")
    except KeyError as error:
        found.append(f"NOT MEASURED: {error.args[0]}")
    if found and name in AWAITING:
        found = [f"{fault} ({AWAITING[name]})" for fault in found]
    return [f"{fault}; run `python -m recipes.experiments.{name}`" for fault in found]


def block(name: str) -> str:
    """The text between the marks."""
    cells = kept(name)
    lines = [f"**{fault}.**" for fault in faults(name)]
    with suppress(KeyError):  # a fault that has been said
        lines.append(figure(name).results(cells.cells))
    return "\n\n".join([*lines, made(cells)]) + "\n"


def summary() -> str:
    """A table of all findings beside their aims."""
    rows = []
    for name in FIGURES:
        try:
            found: list[Finding] = figure(name).findings(kept(name).cells)
        except KeyError as error:
            found = [Finding(f"`{name}`", "", f"no cell {error.args[0]!r}", None)]
        stale = " (stale)" if found and kept(name).stale() else ""
        rows += [
            [finding.claim, finding.aim, finding.found, MET[finding.met] + stale, f"`{name}`"]
            for finding in found
        ]
    return table(["claim", "aim", "found", "", "figure"], rows) + "\n"


def page(text: str) -> str:
    """The page with all its blocks regenerated.

    Raises:
        ValueError: an experiment without a block, or a block without an experiment.
    """
    named = BLOCK.findall(text)
    if (found := [name for _, name, _ in named]) and set(found) != {SUMMARY, *FIGURES}:
        raise ValueError(
            f"{PAGE} has blocks for {sorted(found)}; expected one for {sorted((SUMMARY, *FIGURES))}"
        )

    def filled(match: re.Match) -> str:
        content = summary() if match[2] == SUMMARY else block(match[2])
        return f"{match[1]}\n{content}\n{match[3]}"

    return BLOCK.sub(filled, text)


def pages() -> dict[Path, str]:
    """All generated pages; a page with missing cells is left as it is."""
    made = {PAGE: page(PAGE.read_text())}
    for name, (path, page_of) in PAGES.items():
        try:
            made[path] = page_of(kept(name).cells)
        except KeyError:
            made[path] = path.read_text()
    return made


def main(words: list[str]) -> int:
    found = pages()
    late = [path for path, text in found.items() if path.read_text() != text]
    wrong = [f"{name}: {fault}" for name in FIGURES for fault in faults(name)]
    if words != ["--check"]:
        for path, text in found.items():
            path.write_text(text)
        late = []
    for line in [*(f"{path} is out of date; run make results" for path in late), *wrong]:
        print(line)
    return 1 if late or (wrong and words == ["--check"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
