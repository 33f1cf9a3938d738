"""Scores kept on disk by what was scored, shared by threads, processes and runs."""

import hashlib
import math
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = "scores.sqlite"
WAIT = 60.0  # seconds for another process to finish writing


class ScoreStore:
    """A table from keys to numbers, in one SQLite file; what is put is there after a crash.

    Args:
        folder: where the file is, made if need be; None keeps the table in memory.

    Raises:
        ValueError: a folder that cannot be written, or a file of another kind.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        try:
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
            place = ":memory:" if folder is None else str(Path(folder) / FILE)
            self.table = sqlite3.connect(place, timeout=WAIT, check_same_thread=False)
            self.table.execute(
                "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL)"
            )
            self.table.commit()
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"scores cannot be kept in {folder} ({error}): give a folder that can be written"
            ) from error

    def __reduce__(self) -> tuple[type["ScoreStore"], tuple[str | Path | None]]:
        """Open the file again in a copy."""
        return ScoreStore, (self.folder,)

    def get(self, keys: Iterable[str]) -> dict[str, float]:
        """Return the scores that are there, by key."""
        with self.lock:
            found = {
                key: self.table.execute("SELECT score FROM scores WHERE key = ?", (key,)).fetchone()
                for key in set(keys)
            }
        return {  # SQLite has no NaN
            key: math.nan if row[0] is None else row[0]
            for key, row in found.items()
            if row is not None
        }

    def put(self, scores: Mapping[str, float]) -> None:
        """Write scores, at once and for good."""
        with self.lock, self.table:
            self.table.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", scores.items())


def key_of(*parts: bytes | str) -> str:
    """Hash the parts that a score depends on, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
