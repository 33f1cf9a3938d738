"""steer copy: a shipped config copied to a new file."""

import shutil
from pathlib import Path

from recipes.setup import config


def copy(name: str, dest: Path) -> Path:
    """Copies the config to a new file, or into a folder, and returns the file.

    Raises:
        ValueError: no such config, or something is there already.
    """
    source = config.find(name)
    if dest.is_dir():
        dest = dest / source.name
    if dest.exists():
        raise ValueError(f"{dest} exists already; name another file, or remove it first")
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, dest)
    return dest
