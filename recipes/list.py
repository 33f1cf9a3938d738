"""steer list: what is shipped."""

from recipes.setup import config
from rewards import checkpoint as classifiers
from steer import checkpoint as maps


def listing() -> str:
    """Configs with their first comment line, then maps and classifiers."""
    names = config.shipped()
    width = max(len(name) for name in names) + 2
    lines = ["configs", *(f"  {name:{width}}{first_comment(name)}" for name in names)]
    lines += ["", "maps", *(f"  {name}" for name in maps.shipped() or ["none yet"])]
    lines += ["", "classifiers", *(f"  {name}" for name in classifiers.shipped() or ["none yet"])]
    return "\n".join(lines)


def first_comment(name: str) -> str:
    """What a config is for: its first line."""
    return config.find(name).read_text().splitlines()[0].lstrip("# ")
