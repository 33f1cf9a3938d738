"""The one failure that is a finding: a run that went well and showed that a claim does not hold."""

from pathlib import Path


class ClaimFailed(Exception):
    """A method does not keep its claim, or its run is inconclusive.

    Args:
        folder: the complete run folder.
        what: in one line.
    """

    def __init__(self, folder: Path, what: str):
        super().__init__(what)
        self.folder = folder
