"""The end of a run: metrics.json, report.html, the index of all runs, the headline on stderr."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from recipes.evaluation.metrics import Figures
from recipes.reporting import html, index
from recipes.reporting.figures import Picture
from recipes.reporting.tables import Table
from recipes.setup import run_directory
from recipes.setup.job import Job

RUNS = "runs"  # the folder whose index is kept
Headline = Sequence[tuple[str, float | int | str | None]]


def publish(
    folder: Path,
    job: Job,
    metrics: Figures,
    title: str,
    claim_line: str,
    drawn: Sequence[Picture],
    tables: Sequence[Table],
    headline: Headline = (),
) -> Path:
    """Writes metrics and report into the run folder, and returns it.

    Args:
        folder: the run folder.
        job: the config and its command line.
        metrics: everything measured; seed and versions are added. Its "warnings" also go to the
            terminal.
        title, claim_line: the head of the report.
        drawn, tables: its body.
        headline: the figures that matter most; those that were not measured (None or NaN) are left
            out.
    """
    versions = run_directory.versions()
    run_directory.write_metrics(folder, {**metrics, "seed": job.config.seed, "versions": versions})
    warnings = metrics.get("warnings", [])
    measured = [
        (what, figure) for what, figure in headline if html.shown(figure) != html.number(None)
    ]
    html.write(
        folder / "report.html",
        title=title,
        claim_line=claim_line,
        pictures=drawn,
        tables=tables,
        config_text=OmegaConf.to_yaml(job.config),
        notes=[
            job.command,
            ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        ],
        headline=measured,
        warnings=warnings,
    )
    if folder.parent.name == RUNS:
        index.refresh(folder.parent)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not job.quiet:
        for what, figure in measured:
            print(f"{what}: {html.shown(figure)}", file=sys.stderr)
        print(f"the report is {folder / 'report.html'}", file=sys.stderr)
    return folder
