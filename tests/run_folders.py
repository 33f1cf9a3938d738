"""Two run folders compared, bit by bit, but for seconds and for how the run was started."""

import json
from pathlib import Path

OF_THE_START = ("run:", "devices:", "nodes:")  # keys of config.yaml
WITH_SECONDS = "report.html"


def contents(folder):
    """What every file of a run folder holds, by its path; of the report only that it is there."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): content(path) for path in files}


def content(path):
    if path.name == "metrics.json":
        return without_seconds(json.loads(path.read_text()))
    if path.name == "config.yaml":
        text = path.read_text().split("\nrun:")[0]
        return [line for line in text.splitlines() if not line.startswith(OF_THE_START)]
    return None if path.name == WITH_SECONDS else path.read_bytes()


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def differing(one, other):
    """The files that differ between two run folders, or are in one of them only."""
    first, second = contents(one), contents(other)
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name, 0) != second.get(name, 0)
    )
