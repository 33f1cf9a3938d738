"""Every class of steer.training, found by walking the package, and other settings of some."""

import inspect

import steer.training
from steer.training import (
    AlongFlow,
    AverageEulerian,
    Consistency,
    FiniteDifference,
    Grouped,
    MeanFlow,
    Mixture,
    MomentMatching,
    OnGrid,
    PairLaw,
    PairObjective,
    Semigroup,
    ToData,
    Trajectory,
)


def concrete(base):
    """The concrete classes of the package that are derived from a base."""
    found = [getattr(steer.training, name) for name in steer.training.__all__]
    return [
        c for c in found if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)
    ]


OTHER_SETTINGS = [
    AverageEulerian(normalise=0.1),
    MeanFlow(FiniteDifference(0.005)),
    Semigroup(uniform=True),
    Semigroup(legs=8),
    Semigroup(uniform=True, legs=5),
    Consistency(AlongFlow()),
]
SMALLEST = {MomentMatching: {"group": 2}, Trajectory: {"shared": 1}}  # where the default is larger

AS_THEY_COME = [*(cls() for cls in concrete(PairObjective)), *OTHER_SETTINGS]
SMALL = [*(cls(**SMALLEST.get(cls, {})) for cls in concrete(PairObjective)), *OTHER_SETTINGS]

LAW_ARGUMENTS = {
    Grouped: (4,),
    Mixture: ([ToData(), OnGrid(1), OnGrid(4)], [1, 1, 1]),
    OnGrid: (4,),
}
LAWS = [
    *(cls(*LAW_ARGUMENTS.get(cls, ())) for cls in concrete(PairLaw)),
    OnGrid(1),
    Grouped(2, ToData()),
    Mixture([ToData(), OnGrid(1)], [1, 1]),
]


def claiming(claim):
    """The objectives that make a claim, as they come."""
    return [objective for objective in AS_THEY_COME if objective.claim == claim]


def numbered(objectives):
    """Names for a parametrised test."""
    return [f"{k}-{type(objective).__name__}" for k, objective in enumerate(objectives)]
