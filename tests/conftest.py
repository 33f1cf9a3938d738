"""For all tests: the shapes in the core's signatures are checked; one thread, since a second costs
more than it brings.

Packages whose own errors are about wrong shapes (conditions, loops, tuning) are not checked.
"""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

CHECKED = (
    "interpolant",
    "solvers",
    "flow_map",
    "maps",
    "lookahead",
    "tilt",
    "value",
    "samplers",
    "resampling",
    "guidance",
    "metrics",
    "analytic",
    "networks",
    "training",
)
jaxtyping.install_import_hook([f"steer.{name}" for name in CHECKED], "typechecker.check")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For arguments of a wrong type, which users pass without these checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
