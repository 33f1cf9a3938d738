"""The processes of a run: one, as many as devices and nodes ask for, or those that were started.

All do the same until the work is shared out; each does its share, and the first alone joins and
reports. What they say to each other is small and goes over the CPU, so that a process that ends is
noticed by the others at once, and one that is slow is waited for.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from recipes.setup.job import Job

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # that a process waits for a slower one
ENDED = "another process of this run has ended; its own message says why"
ACCELERATORS = {"auto": "auto", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}


class Processes:
    """One process of several, by its rank.

    Args:
        rank: its number; the first is 0.
        count: of all.
    """

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank = rank
        self.count = count

    @property
    def first(self) -> bool:
        """Whether this one joins and reports."""
        return self.rank == 0

    def quieter(self, job: Job) -> Job:
        """The job with its progress shown by the first process alone."""
        return replace(job, quiet=job.quiet or not self.first)

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """What this process does of the work, every `count`-th piece."""
        idle = self.count - len(work)
        if self.first and work and idle > 0:
            warnings.warn(
                f"{idle} of {self.count} processes have nothing to do: the work has"
                f" {len(work)} parts; lower prompts_at_once where prompts are shared out",
                stacklevel=2,
            )
        return work[self.rank :: self.count]

    def of_first(self, call: Callable[[], T]) -> T:
        """What a call returns in the first process, which alone makes it; small, and picklable.

        Raises:
            Exception: what the call raises, in the first process.
        """
        found: Any = None
        with self.together():
            if self.first:
                found = call()
        return self.gathered(found)[0]

    def gathered(self, mine: T) -> list[T]:
        """An object of every process, in order."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(everyone, mine)
        except RuntimeError as error:
            raise RuntimeError(ENDED) from error
        return everyone

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends in all processes at the same time; an exception in one of them ends all.

        Raises:
            Exception: in the first process, its own exception, or one with the message of another.
            SystemExit: in the other processes.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        if self.count == 1:
            if own is not None:
                raise own
            return
        said = self.gathered(None if own is None else told(own))
        failed = [message for message in said if message is not None]
        if not failed:
            return
        self.leave()
        if own is not None:
            raise own
        refused, message = failed[0]
        raise (ValueError if refused else RuntimeError)(message)

    def leave(self) -> None:
        """Ends the group, and all processes but the first, which go without a word."""
        if self.count > 1:
            torch.distributed.destroy_process_group()
        if not self.first:
            sys.exit(0)
        self.count = 1


def told(error: Exception) -> tuple[bool, str]:
    """What the other processes are told of an error: whether input was refused, and why."""
    if isinstance(error, ValueError | OSError):
        return True, str(error)
    return False, f"{type(error).__name__}: {error}"


def processes_of(config: DictConfig) -> Processes:
    """Starts the processes of a config, or joins those that torchrun or SLURM has started.

    Raises:
        ValueError: devices or nodes that are not there, or not those that were started.
    """
    devices, nodes = counts_of(config)
    if devices * nodes == 1:
        return Processes()
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from steer.loops import quiet

    if config.device not in ACCELERATORS:
        raise ValueError(
            f"device={config.device} is one device, and there are {devices} on each of {nodes}"
            " nodes; give device=cuda or device=cpu"
        )
    quiet()
    strategy = DDPStrategy(process_group_backend="gloo", timeout=PATIENCE)
    try:
        fabric = Fabric(
            accelerator=ACCELERATORS[config.device],
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
        )
        fabric.launch()
    except (MisconfigurationException, ValueError) as error:
        raise ValueError(f"devices={devices}, nodes={nodes}: {error}") from error
    return Processes(fabric.global_rank, fabric.world_size)


def counts_of(config: DictConfig) -> tuple[int, int]:
    """Processes of a node, and nodes: those asked for, or those that were started.

    Raises:
        ValueError: where the two differ.
    """
    found = started()
    if found is None:
        return config.devices or 1, config.nodes or 1
    launcher, devices, nodes = found
    for key, own in (("devices", devices), ("nodes", nodes)):
        if config[key] not in (None, own):
            raise ValueError(
                f"{key}={config[key]}, but {launcher} has started {devices} processes on each of"
                f" {nodes} nodes; leave devices and nodes out, or start as many"
            )
    return devices, nodes


def started() -> tuple[str, int, int] | None:
    """The launcher, its processes of a node, and its nodes; None where there is none.

    As Lightning does, a job of SLURM that is called bash or interactive counts as none.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return "torchrun", here, int(environment["WORLD_SIZE"]) // here
    name = environment.get("SLURM_JOB_NAME")
    if "SLURM_NTASKS" in environment and name not in ("bash", "interactive"):
        nodes = int(environment.get("SLURM_NNODES", "1"))
        return "SLURM", int(environment["SLURM_NTASKS"]) // nodes, nodes
    return None
