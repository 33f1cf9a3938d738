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


# Many small evaluations, which the checks would make half as slow again; their shapes are those of
# the other tests.
NUMERICS = {
    "recipes",
    "test_annealing.py",
    "test_claims.py",
    "test_contributing.py",
    "test_inverse_problems.py",
    "test_loops_resume.py",
    "test_noise_optimisation.py",
    "test_plug_and_play.py",
    "test_renoise.py",
    "test_rescheduled.py",
    "test_samplers_conditions.py",
    "test_tilting_exact.py",
    "test_training_free_guidance.py",
    "test_training_gradients.py",
    "test_training_presets.py",
    "test_value_guided.py",
}


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For arguments of a wrong type, which users pass without these checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def numerics_unchecked(request: pytest.FixtureRequest) -> None:
    if NUMERICS & {request.path.name, request.path.parent.name}:
        request.getfixturevalue("unchecked")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
