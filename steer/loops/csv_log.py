"""A logger that writes a plain CSV file."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["CsvLog", "read_csv_log"]


class CsvLog(Logger):
    """Appends one line `step,name,value` per logged number.

    A resumed run goes on in the same file. (Lightning's own CSV logger deletes what a killed run
    had written.) Read it with `read_csv_log`.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", "name", "value"))
            writer.writerows(
                (step, name, repr(float(value)))
                for name, value in metrics.items()
                if name != "epoch"
            )

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder's config.yaml holds them."""


def read_csv_log(path: str | Path) -> dict[str, dict[int, float]]:
    """Reads name -> {step: value}.

    Of a step that was run twice, before a kill and after, the later value counts.
    """
    curves: dict[str, dict[int, float]] = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            if row["value"] is not None:  # a kill may cut the last line
                curves.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return curves
