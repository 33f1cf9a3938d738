"""The error of a complete run whose method does not keep its claim."""

from pathlib import Path


class ClaimFailed(Exception):
    """A method that claims to be exact fails its test, or the test is inconclusive.

    Args:
        folder: the complete run folder.
        summary: the result, in one line.
    """

    def __init__(self, folder: Path, summary: str):
        super().__init__(summary)
        self.folder = folder
