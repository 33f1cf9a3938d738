"""Samplers given nonsense in Python: refused when they are built, by the annotations of their own
arguments.
"""

import inspect

import pytest
from zoo import STEPS, concrete

from steer.annotations import misfit, named
from steer.lookahead import Denoiser
from steer.samplers import Jump, TrajectoryTilting

NONSENSE = [
    "abc",
    float("nan"),
    float("inf"),
    [],
    {},
    object(),
    [float("nan")],
    {"a": 1},
    10**12,
    True,
]


@pytest.mark.parametrize("cls", concrete(), ids=lambda cls: cls.__name__)
def test_nonsense_is_refused_by_name(cls):
    for name, parameter in named(cls).items():
        for value in NONSENSE:
            known = (
                {"base_sampler": Jump(STEPS)} if "base_sampler" in named(cls) else {"steps": STEPS}
            )
            if "bool" in str(parameter.annotation) and value is True:
                continue
            if "Infinite" in str(parameter.annotation) and value == float("inf"):
                continue
            if value == 10**12 and "float" in str(parameter.annotation):
                continue
            with pytest.raises(ValueError, match=r".") as caught:
                cls(**{**known, name: value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: TrajectoryTilting(3, "denoiser"),
            "TrajectoryTilting: lookahead is a Lookahead (such as steer.lookahead.",
        ),
        (lambda: TrajectoryTilting(3, Jump(2)), "or None; got a Jump; left out, it is None"),
        (lambda: TrajectoryTilting(3, resample_below=float("nan")), "resample_below"),
        (
            lambda: TrajectoryTilting(3, max_batch="lots"),
            "TrajectoryTilting: max_batch is a whole number or None; got 'lots'",
        ),
        (
            lambda: TrajectoryTilting(3, eps=lambda: 1.0),
            "TrajectoryTilting: eps is a number or a function of 1 argument",
        ),
    ],
)
def test_what_was_expected_and_what_came(build, says):
    with pytest.raises(ValueError, match=r".") as caught:
        build()
    assert says in str(caught.value)


def test_sound_arguments_and_signatures_are_left_alone():
    TrajectoryTilting(3, Denoiser(), eps=lambda t: t)
    assert list(inspect.signature(TrajectoryTilting).parameters)[:2] == ["steps", "lookahead"]
    assert misfit(3, float) is None
    assert misfit(3.5, int) is not None
    assert misfit((0.9, 0.999), tuple[float, float]) is None
    assert misfit([0.9], tuple[float, float]) is not None
