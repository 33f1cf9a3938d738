"""One call of the command."""

from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True)
class Job:
    """A config, the command line it came from, and whether to keep quiet."""

    config: DictConfig
    command: str
    quiet: bool = False
