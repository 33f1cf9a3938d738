"""The end of every run: metrics.json, report.html, and a word to whoever waits."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from recipes import report, run_folder
from recipes.drawing import Picture
from recipes.job import Job
from recipes.measure import Figures
from recipes.tables import Table

Headline = Sequence[tuple[str, float | int | None]]


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
        job: what was asked.
        metrics: everything measured; seed and versions are added.
        title, claim_line: the head of the report.
        drawn, tables: its body.
        headline: the figures that matter most; those that were not measured (None or NaN) are left out.
    """
    versions = run_folder.versions()
    run_folder.write_metrics(folder, {**metrics, "seed": job.config.seed, "versions": versions})
    measured = [(what, figure) for what, figure in headline if figure is not None and figure == figure]
    report.write(
        folder / "report.html",
        title=title,
        claim_line=claim_line,
        pictures=drawn,
        tables=tables,
        config_text=OmegaConf.to_yaml(job.config),
        notes=[job.command, ", ".join(f"{name} {version}" for name, version in versions.items() if version)],
        headline=measured,
    )
    if not job.quiet:
        for what, figure in measured:
            print(f"{what}: {report.number(figure)}", file=sys.stderr)
        print(f"the report is {folder / 'report.html'}", file=sys.stderr)
    return folder
