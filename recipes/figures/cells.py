"""A table of measurements that is filled cell by cell and survives being stopped."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path("docs/figures")


class Cells:
    """Results by key in a JSON file, written after every cell.

    Args:
        name: the file's stem, under docs/figures.
    """

    def __init__(self, name: str):
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.path = FOLDER / f"{name}.json"
        self.cells: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The cell of that key, measured if it is not there yet."""
        if key not in self.cells:
            self.cells[key] = measure()
            scratch = self.path.with_suffix(".tmp")
            scratch.write_text(json.dumps(self.cells, indent=1))
            os.replace(scratch, self.path)
            print(key, self.cells[key], flush=True)
        return self.cells[key]
