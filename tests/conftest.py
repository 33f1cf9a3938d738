"""For all tests: the shapes in the core's signatures are checked; one thread, since a second costs
more than it brings.

Rooms whose own errors speak of wrong shapes (conditions, tilts, samplers, loops) are left to those
errors.
"""

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = (
    "interpolant",
    "solvers",
    "flow_map",
    "maps",
    "lookahead",
    "resampling",
    "guidance",
    "metrics",
    "analytic",
    "networks",
    "training",
)
install_import_hook([f"steer.{name}" for name in CHECKED], "typechecker.check")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
